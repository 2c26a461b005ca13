"""Forward processes (eq. 1 to 4)."""
