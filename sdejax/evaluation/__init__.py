"""Scores of edits, and the comparison of editing methods."""
