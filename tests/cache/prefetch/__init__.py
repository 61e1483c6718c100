"""Tests of what has been drawn, and where it is kept."""
