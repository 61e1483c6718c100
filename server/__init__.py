"""The performance: from a cue that is due to pixels on the wall."""

__version__ = "0.1.0"
