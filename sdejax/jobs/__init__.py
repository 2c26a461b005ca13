"""From numbered tasks to files."""
