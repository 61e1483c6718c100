"""What is fetched before it is needed."""
