"""What tests share: tiny shows, servers that really serve, and screens that really listen."""
