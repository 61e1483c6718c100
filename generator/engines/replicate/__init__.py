"""A model on Replicate, as an engine."""
