"""What a set is: keys, documents, images (pure)."""
