"""The sketch engine: paints without a model, for the demo, rehearsals and tests."""
