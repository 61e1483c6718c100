"""Finds out what is wrong with a show, and says what to do: in a rehearsal, and while it runs.

`findings` is the catalogue. Beside it are the checks, which put their kinds into it and register
themselves when they are imported: here.
"""

from server.diagnostics import capacity, live_checks, runs, schedule, sets, show

__all__ = ["capacity", "live_checks", "runs", "schedule", "sets", "show"]
