"""Copies on this machine: one process makes them, others may read them."""
