"""The verbs of the command line: each file has a verb's options and what it does, a thin shell over the library."""
