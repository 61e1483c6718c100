"""What may be set, merging it, and a show, loaded."""
