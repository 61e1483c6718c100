"""A toy that draws elsewhere."""
