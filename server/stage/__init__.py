"""What is to be seen now, and the wire that tells screens."""
