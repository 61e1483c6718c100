"""The older wire, served at `/ws`: what the piece's first browser program speaks."""
