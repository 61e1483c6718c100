"""A toy that draws here."""
