"""Engines in a rehearsal: each is asked whether it is there, and none is made to draw.

What an engine would draw is stood in for, at the pace that is known of it. The worker's
`GET /health` proves itself with a small generation of its own: that is its word, not ours.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

import httpx
from pydantic import SecretStr
from websockets.exceptions import WebSocketException

from cache.outgoing import reason_of, redacted
from generator.engine import EngineUnavailable, StepImage, Timing
from generator.engines.replicate import API
from generator.estimate import steps_of
from generator.outgoing import Client, ask, open_socket, outgoing_client
from generator.recipe import Recipe
from server.clock import Clock
from server.config.sections import EngineSection, Tokens
from server.config.show import Show
from server.diagnostics.report import ProbedEngine
from server.providers.live import LiveEngine
from server.rehearsal.simulated_store import small_image

PROBE_WITHIN: Final = 20.0
"""Seconds in which an engine must have answered."""

_MAX_WORD: Final = 2**20
"""Bytes of what an engine says of itself."""

TYPICAL_STEP: Final = 0.65
"""Seconds a step is believed to take where nothing better is known."""

_SETTLED: Final = "it is set to fail in this rehearsal"


async def probe_engines(
    show: Show, fail: Collection[str] = (), known: Iterable[ProbedEngine] = ()
) -> tuple[ProbedEngine, ...]:
    """Ask every engine that plays live whether it is there, all at once.

    Args:
        show: whose `[[engines]]`.
        fail: names of those that are to fail whatever they say; ``engines`` for all.
        known: engines of which it is known how they do: a show that plays has asked them, and
            is not to be disturbed.
    """
    told = {engine.name: engine for engine in known}
    sections = [section for section in show.settings.engines if section.plays_live]
    sections.sort(key=lambda section: section.local)  # in the order in which they are asked
    async with outgoing_client() as client:
        probes = (
            _probe(section, client, show.settings.tokens, fail, told.get(section.name))
            for section in sections
        )
        return tuple(await asyncio.gather(*probes))


async def _probe(
    section: EngineSection,
    client: Client,
    tokens: Tokens,
    fail: Collection[str],
    known: ProbedEngine | None,
) -> ProbedEngine:
    state: Literal["ready", "dead", "not asked"] = "dead"
    if section.name in fail or "engines" in fail:
        detail = _SETTLED
    elif known is not None:
        return known
    else:
        try:
            async with asyncio.timeout(PROBE_WITHIN):
                detail = await _ask(section, client, tokens)
            state = "not asked" if section.local else "ready"
        except TimeoutError:
            detail = f"no answer in {PROBE_WITHIN:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, WebSocketException) as error:
            asked = section.url or API
            detail = f"{redacted(asked)}: {reason_of(error, asked)}"
        except _NotReady as error:
            detail = str(error)
    return ProbedEngine(
        name=section.name, kind=section.kind, local=section.local, state=state, detail=detail
    )


class _NotReady(Exception):
    """It would not draw, and says why."""


async def _ask(section: EngineSection, client: Client, tokens: Tokens) -> str:
    """What an engine says.

    Raises:
        _NotReady: it would not draw.
        httpx.HTTPError, OSError, WebSocketException: it cannot be reached.
    """
    match section.kind:
        case "worker":
            return await _get(client, f"{section.url}/health", tokens.worker)
        case "comfyui":
            return await _get(client, f"{section.url}/system_stats", tokens.comfyui)
        case "replicate":
            if tokens.replicate is None:
                raise _NotReady("REPLICATE_API_TOKEN is not set")
            return await _get(client, f"{section.url or API}/account", tokens.replicate)
        case "older-wire":
            # Programs that speak it greet in different words, and some only after a command.
            async with open_socket(section.url or ""):
                pass
            return "it answers"
        case "diffusers" if not _installed("diffusers", "torch"):
            raise _NotReady("diffusers or torch is not installed on this machine")
        case _:
            return "it draws on this machine, in a process of its own"


async def _get(client: Client, url: str, token: SecretStr | None) -> str:
    headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
    answer = await ask(client, "GET", url, within=PROBE_WITHIN, limit=_MAX_WORD, headers=headers)
    if answer.status_code != httpx.codes.OK:
        raise _NotReady(f"{redacted(url)} answers {answer.status_code} {answer.reason_phrase}")
    return "it answers"


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


@dataclass(frozen=True)
class SimulatedEngine:
    """Draws nothing: hands out stand-ins at an engine's pace, or fails as it would.

    Attributes:
        probed: what it said when it was asked.
        pace: seconds a step, by the engine's name and recipe.
        clock: the time.
    """

    probed: ProbedEngine
    pace: Callable[[str, Recipe], float]
    clock: Clock

    @property
    def name(self) -> str:
        """What sort of engine it stands for."""
        return self.probed.kind

    @property
    def timing(self) -> Timing:
        """Nothing was measured."""
        return "simulated"

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """See `Engine.render`."""
        if self.probed.state == "dead":
            raise EngineUnavailable(self.probed.detail)
        async with aclosing(self._steps(recipe)) as images:
            yield images

    async def _steps(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        previews = steps_of(recipe)
        pace, image = self.pace(self.probed.name, recipe), small_image("image/jpeg")
        due = self.clock.now()
        for step in range(1, previews + 2):
            due += pace
            await self.clock.sleep_until(due)
            final = step == previews + 1
            yield StepImage(step, previews + 1, final, None, pace, image)


def simulated_engines(
    probed: Sequence[ProbedEngine], pace: Callable[[str, Recipe], float], clock: Clock
) -> list[LiveEngine]:
    """Engines that may draw for the stage, none of them real."""
    return [
        LiveEngine(each.name, SimulatedEngine(each, pace, clock), each.local) for each in probed
    ]
