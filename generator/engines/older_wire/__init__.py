"""A program that speaks the older wire, as an engine."""
