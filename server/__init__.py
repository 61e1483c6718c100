"""The performance: from a cue that is due to pixels on the wall."""
