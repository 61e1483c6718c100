"""What was really played, written down."""
