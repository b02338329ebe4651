"""A clock that a test sets."""


class Clock:
    """Says what ``now`` is, until it is told otherwise."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now
