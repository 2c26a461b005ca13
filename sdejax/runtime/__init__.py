"""How programs run: compiled, kept, spread over devices and processes."""
