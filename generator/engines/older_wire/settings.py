"""What may be set of a program that speaks the older wire."""

from __future__ import annotations

from typing import ClassVar, Literal

from generator.engines.settings import EngineAccess, RemoteSection
from generator.outgoing import open_socket


class OlderWireSection(RemoteSection):
    """An engine that speaks the older wire."""

    scheme: ClassVar[str] = "ws"
    schemes: ClassVar[frozenset[str]] = frozenset({"ws", "wss"})

    kind: Literal["older-wire"] = "older-wire"

    async def _reach(self, access: EngineAccess) -> None:
        # Programs that speak it greet in different words, and some only after a command.
        del access
        async with open_socket(self.url):
            pass
