from __future__ import annotations

from typing import ClassVar, Literal

from generator.engines.settings import EngineAccess, NotReady, RemoteSection


class AirbrushSection(RemoteSection):
    """A toy that draws elsewhere."""

    token_variable: ClassVar[str | None] = "UNDERSTUDY_AIRBRUSH_TOKEN"
    schemes: ClassVar[frozenset[str]] = frozenset({"air"})
    needs: ClassVar[tuple[str, ...]] = ("url", "nozzle")

    kind: Literal["airbrush"] = "airbrush"
    nozzle: str = ""

    async def _reach(self, access: EngineAccess) -> None:
        if access.token is None:
            raise NotReady(f"{self.token_variable} is not set")
        raise OSError("there is no air")
