"""From numbered tasks to image files."""
