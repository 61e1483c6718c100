"""What has been drawn, and where it is kept."""
