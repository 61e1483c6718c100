"""The test card engine."""
