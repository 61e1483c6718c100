"""Technicians' commands, however they arrive, and the state they see."""
