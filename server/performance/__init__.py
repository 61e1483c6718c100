"""Cues become what screens are told; one run at a time."""
