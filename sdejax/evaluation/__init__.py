"""Text edits scored: where they come from, what they are scored by, how they are run, and what a run found."""
