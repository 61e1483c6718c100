"""What may be set of a program that speaks the older wire."""

from __future__ import annotations

from typing import ClassVar, Literal

from generator.engines.port import Engine
from generator.engines.settings import EngineAccess, RemoteSection
from generator.outgoing import open_socket


class OlderWireSection(RemoteSection):
    """An engine that speaks the older wire."""

    scheme: ClassVar[str] = "ws"
    schemes: ClassVar[frozenset[str]] = frozenset({"ws", "wss"})

    kind: Literal["older-wire"] = "older-wire"

    def connect(self, access: EngineAccess) -> Engine:
        """See `RemoteSection.connect`."""
        from generator.engines.older_wire.engine import OlderWireEngine, commands_of

        return OlderWireEngine(self.url, says=commands_of(access.actions))

    async def _reach(self, access: EngineAccess) -> None:
        # Programs that speak it greet in different words, and some only after a command.
        del access
        async with open_socket(self.url):
            pass
