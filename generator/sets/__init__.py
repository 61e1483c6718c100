"""Sets: drawn many at a time, recorded, taken over, verified, approved, rejected, pruned."""
