"""Rehearsal: the whole show played on a virtual clock, and what would go wrong tonight."""
