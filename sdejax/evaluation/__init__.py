"""Edits scored, and methods compared."""
