"""The older wire, served at `/ws`."""
