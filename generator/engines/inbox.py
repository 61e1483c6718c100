"""Pictures that come later, by a request of the engine's own: who waits for which."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LateAnswer:
    """What became of a drawing, as its engine says.

    Attributes:
        image: the encoded picture, not looked at yet; None where there is none.
        error: why there is none.
        seconds: of drawing, as the engine measured them; None where it does not say.
    """

    image: bytes | None = field(default=None, repr=False)
    error: str = ""
    seconds: float | None = None


class Inbox:
    """The drawings that are waited for in this process, each until its first answer.

    An answer for anything else has no effect: one that comes twice, too late, after a
    cancellation, or after the process that asked for it was started anew.
    """

    def __init__(self) -> None:
        self._open: dict[str, asyncio.Future[LateAnswer]] = {}

    @contextmanager
    def expecting(self, drawing: str) -> Iterator[asyncio.Future[LateAnswer]]:
        """Wait for a drawing's answer; nothing that comes after the context counts.

        Args:
            drawing: an id that nobody had before.
        """
        coming = asyncio.get_running_loop().create_future()
        self._open[drawing] = coming
        try:
            yield coming
        finally:
            del self._open[drawing]
            coming.cancel()

    def hand_in(self, drawing: str, answer: LateAnswer) -> bool:
        """Give an answer to whoever waits for it; whether somebody did."""
        coming = self._open.get(drawing)
        if coming is None or coming.done():
            return False
        coming.set_result(answer)
        return True
