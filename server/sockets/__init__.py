"""The websockets: what all of them have in common, on the line and in their messages."""
