"""What trials found, each fault tried on the real thing, so that it stays away."""
