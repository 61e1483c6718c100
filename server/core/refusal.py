"""The one shape of error for what somebody asks in vain (pure)."""

from __future__ import annotations


class Refused(Exception):
    """Something that is asked for and not done; `code` is a stable word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
