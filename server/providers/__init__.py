"""Providers turn an action into frames."""
