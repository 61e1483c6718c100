from __future__ import annotations

from hypothesis import settings

# A deadline per example measures the machine, not the code: ours are slow and shared.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
