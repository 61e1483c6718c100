"""Finds out what is wrong with a show, and says what to do: in a rehearsal, and while it runs."""
