"""The cue sheet, and the actions that it plans: recipes, programs, estimates (pure)."""
