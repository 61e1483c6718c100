"""The legacy wire of a show: pictures come by the show's own ladder, sets out of other bags."""

from __future__ import annotations

from generator.sheet.plan import Action
from server.config.show import Show
from server.core.clock import Clock
from server.core.random_streams import RandomStreams, new_seed
from server.legacy.socket import LegacySocket, Repertoire
from server.network.access import Access
from server.providers.base import Provider
from server.providers.shuffle import ShuffleBag
from server.providers.static import StaticProvider
from server.runtime import Runtime
from server.supply.sources import Supply


def legacy_socket(
    show: Show, runtime: Runtime, supply: Supply, clock: Clock, access: Access
) -> LegacySocket:
    """The legacy wire, played from the show's sets and engines."""
    # Sets of its own bag: who plays with the legacy wire must not turn the show's round.
    streams, modes = RandomStreams(new_seed()), runtime.modes
    settings = show.settings.playback
    sets = StaticProvider(
        supply.library,
        ShuffleBag(streams),
        clock,
        streams,
        settings.fit,
        availability=supply.availability,
    )

    def ladder(action: Action) -> list[Provider]:
        rungs = modes.decide(action).rungs
        return [sets if rung.engine is None else modes.provider(rung) for rung in rungs]

    repertoire = Repertoire(runtime.plan, show.programs, show.base_images, runtime.playhead)
    return LegacySocket(repertoire, ladder, settings, clock, access)
