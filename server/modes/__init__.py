"""What each cue is played from, and why."""
