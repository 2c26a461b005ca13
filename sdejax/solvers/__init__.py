"""The reverse process, solved (eq. 8 to 10)."""
