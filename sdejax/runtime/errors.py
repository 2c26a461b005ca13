"""The exception that tells a command to exit with code 1 instead of 2."""


class PeersGone(ValueError):
    """Another process of the run, without which this one cannot continue, is gone. The same command continues later."""
