"""An engine that is on its way has not failed: it is waited for, told of, and taken at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from generator.engines.port import EngineStarting, EngineUnavailable, StepImage, Timing
from generator.sheet.recipe import Recipe
from server.control.command import Caller
from server.core.clock import VirtualClock, settle
from server.engines.child import Child
from server.engines.live import LiveEngines
from server.engines.local import LocalEngine
from server.engines.prober import IDLE, EngineProber
from server.modes.breaker import ASK_AGAIN, Breaker
from server.network.access import Role
from server.providers.base import NotThere
from server.providers.live import LiveEngine
from tests.contracts.engine_contract import recipe
from tests.helpers.engines import drawing, live, scripted
from tests.helpers.house import House, house
from tests.helpers.shows import LOOP, Rhythm, cue, prompt
from tests.server.engines.test_local_engine import Nursery

CUES = [prompt(1, "one", id="one"), prompt(90, "two", id="two"), cue(120, "end")]
NO_SETS = Rhythm(sets=0)


@dataclass
class Box:
    """An engine on another machine, which is switched on after the server."""

    clock: VirtualClock
    on: bool = False
    name: str = "box 1"
    timing: Timing = "simulated"
    asked: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        self.asked.append(recipe.prompt)
        if not self.on:
            raise EngineUnavailable("connection refused")

        async def images() -> AsyncIterator[StepImage]:
            for image in drawing(recipe.prompt):
                await self.clock.sleep_until(self.clock.now() + 0.2)
                yield image

        yield images()


async def ask(opened: House, command: str, **args: Any) -> dict[str, Any]:
    role: Role = "operator"
    return dict(await opened.dispatcher.dispatch(command, args, Caller(role, "foh")))


async def test_forced_live_at_once_begins_as_soon_as_its_engine_is_there(tmp_path: Path) -> None:
    clock = VirtualClock()
    box = Box(clock)
    async with house(
        tmp_path,
        CUES,
        rhythm=NO_SETS,
        toml=LOOP,
        clock=clock,
        engines=[LiveEngine("box", box, local=False)],
        watch_engines=True,
    ) as opened:
        await opened.play_to(4)
        (told,) = (await ask(opened, "engines"))["engines"]
        assert (told["state"], told["failures"]) == ("starting", 0)
        assert told["reason"] == "connection refused"
        assert opened.view.state()["health"]["level"] == "degraded"
        result = await ask(opened, "mode.force", mode="live", now=True)
        assert not result["played_again"]
        assert result["waits_for"] == ["engine box has not answered yet: connection refused"]
        box.on = True
        # Asked again every few seconds, and no rest, no grace.
        await opened.play_to(4 + 4 * ASK_AGAIN)
        (told,) = (await ask(opened, "engines"))["engines"]
        assert (told["state"], told["usable"]) == ("trusted", True)
        rows = await opened.rows()
        assert [(row["action_id"], row["outcome"]) for row in rows][-1] == ("one", "completed")
        assert rows[-1]["provider"] == "live"
        assert opened.position < 90, "long before the next cue"


async def test_without_the_wish_nothing_is_played_again(tmp_path: Path) -> None:
    clock = VirtualClock()
    engine = scripted(clock, drawing("x"), pause=0.1)
    async with house(tmp_path, CUES, toml=LOOP, clock=clock, engines=[live(engine)]) as opened:
        await opened.play_to(6)
        result = await ask(opened, "mode.force", mode="live")
        assert (result["played_again"], result["waits_for"]) == (False, [])
        assert result["why"].startswith("forced live by foh")
        await opened.play_to(20)
        assert len(await opened.rows()) == 1


def test_what_never_answered_starts_and_what_answered_before_has_failed() -> None:
    breaker = Breaker()
    breaker.not_there(100.0, "refused")
    assert breaker.health(100.0).state == "starting"
    assert not breaker.health(100.0).usable
    assert breaker.health(100.0).until == 100.0 + ASK_AGAIN
    assert breaker.health(100.0 + ASK_AGAIN).until is None, "it may be asked"
    breaker.probe_ok(103.0)
    assert (breaker.health(103.0).state, breaker.health(103.0).reason) == ("trusted", "")
    breaker.not_there(110.0, "refused")
    assert (breaker.health(110.0).state, breaker.health(110.0).failures) == ("resting", 1)


async def test_in_a_rehearsal_it_is_asked_again_by_the_clock_that_the_pause_was_set_by(
    tmp_path: Path,
) -> None:
    outside, clock = VirtualClock(1000.0), VirtualClock(5000.0)  # it is ahead: in a hurry
    box = LiveEngine("box", Box(clock), local=False)
    async with house(tmp_path, CUES, rhythm=NO_SETS, clock=clock, engines=[box]) as opened:
        providers = opened.runtime.live
        watch = EngineProber(
            modes=opened.modes,
            live=providers,
            recipe=recipe(),
            quiet_for=lambda _seconds: True,
            clock=outside,
        )
        opened.modes.not_there("box", NotThere("refused"))
        watching = asyncio.create_task(watch.run())
        await settle()
        assert opened.modes.health("box").until == clock.now() + ASK_AGAIN, "not asked yet"
        await clock.advance(ASK_AGAIN)
        await outside.advance(IDLE)
        await settle()
        assert opened.modes.health("box").until == clock.now() + ASK_AGAIN, "asked, and not there"
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_child_that_starts_says_when_it_should_be_ready() -> None:
    clock, nursery = VirtualClock(), Nursery()

    @asynccontextmanager
    async def slow() -> AsyncIterator[Child]:
        await clock.sleep_until(clock.now() + 12)
        async with nursery.start() as child:
            yield child

    engine = LocalEngine("gpu", slow, warm_up=(), clock=clock)
    told = LiveEngines(local={"gpu": engine})
    async with engine:
        await settle()
        assert told.absent("gpu") == "engine gpu is starting", "it has never started before"
        with pytest.raises(EngineStarting):
            async with engine.render(recipe()):
                pytest.fail("it is not there")
        await clock.advance(12)
        await settle()
        assert told.absent("gpu") is None
        nursery.children[0].kill()
        await settle()
        for _ in range(40):
            await clock.advance(0.5)
            await settle()
            if engine.status().state == "starting":
                break
        assert "ready in about 12 s" in (told.absent("gpu") or "")
