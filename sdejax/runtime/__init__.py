"""How programs run: compiled, kept for the next start, and spread over devices and processes."""
