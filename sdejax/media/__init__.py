"""Conversion between files and arrays, one file per medium."""
