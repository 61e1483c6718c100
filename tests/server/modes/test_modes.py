"""Technicians in command: forces, and what is played under them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from generator.engines.port import (
    DrawingFailed,
    EngineOccupied,
    EnginePreempted,
    EngineUnavailable,
    RecipeRefused,
    ScriptedEngine,
    StepImage,
)
from generator.sheet.recipe import Recipe
from server.control.command import Caller, CommandError
from server.core.clock import VirtualClock
from server.modes.forces import Force
from server.modes.ladder import Rung
from server.modes.manager import STORE_IN_DOUBT, ForceBook
from server.network.access import Role
from server.performance.state_file import PersistedState, StateFile
from server.providers.base import Capped, NotThere, Preempted, Slot
from tests.helpers.engines import drawing, live, scripted
from tests.helpers.house import House, house
from tests.helpers.servers import server_process
from tests.helpers.shows import LOOP, Rhythm, TinyShow, cue, make_show, prompt

SETS = Rhythm(previews=8, step=0.4)
CUES = [prompt(10 + 10 * k, f"nr {k}", id=f"nr{k}") for k in range(10)]
SHOW = [*CUES, cue(120, "end")]
LIVE = LOOP + '[playback]\nmode = "live"\n'
HYBRID = LOOP + '[playback]\nmode = "hybrid"\n'


@asynccontextmanager
async def show(
    folder: Path,
    toml: str = LIVE,
    *,
    engines: Sequence[ScriptedEngine] | None = None,
    clock: VirtualClock | None = None,
    cues: Sequence[Any] = SHOW,
    **more: Any,
) -> AsyncIterator[House]:
    clock = clock or VirtualClock()
    if engines is None:
        engines = [scripted(clock, drawing("gpu", 8), pause=0.4)]
    names = [live(engine, f"gpu{place or ''}") for place, engine in enumerate(engines)]
    async with house(
        folder, cues, rhythm=SETS, toml=toml, clock=clock, engines=names, **more
    ) as opened:
        yield opened


async def ask(at: House, command: str, role: Role = "operator", **args: Any) -> dict[str, Any]:
    result = await at.dispatcher.dispatch(command, args, Caller(role, "foh-tablet"))
    json.dumps(result, allow_nan=False)
    return result


async def refused(at: House, command: str, **args: Any) -> str:
    with pytest.raises(CommandError) as error:
        await ask(at, command, **args)
    return error.value.code


def forced(opened: House) -> object:
    """What is forced upon all cues, as the state has it."""
    return opened.view.state()["mode"]["forced"]


async def played(opened: House) -> list[tuple[str, str]]:
    """What each cue was played from."""
    return [(row["action_id"], row["provider"]) for row in await opened.rows()]


# ---------------------------------------------------------------- forces


async def test_a_force_decides_from_the_next_cue_on_and_everybody_can_see_why(
    tmp_path: Path,
) -> None:
    async with show(tmp_path) as opened:
        await opened.play_to(11)
        told = await ask(opened, "mode.force", mode="static", reason="GPU host noisy")
        assert told["mode"] == opened.view.state()["mode"]
        assert told["mode"] == {
            "configured": "live",
            "effective": "static",
            "forced": "static",
            "by": "foh-tablet",
            "reason": "forced static by foh-tablet: GPU host noisy",
            "until": "released",
            "until_at": None,
            "cues": [],
        }
        await opened.play_to(25)
        first, second = await opened.rows()
        assert (first["provider"], first["outcome"], first["forced_by"]) == (
            "live",
            "completed",
            None,
        )
        assert (second["provider"], second["mode"], second["forced_by"]) == (
            "static",
            "static",
            "foh-tablet",
        )
        assert second["why"] == "forced static by foh-tablet: GPU host noisy"
        assert (await ask(opened, "mode.release"))["released"] is True
        assert (await ask(opened, "mode.release"))["released"] is False
        assert opened.view.state()["mode"]["forced"] is None
        await opened.play_to(35)
        assert (await played(opened))[-1] == ("nr2", "live")


async def test_at_once_the_cue_that_is_on_is_played_again(tmp_path: Path) -> None:
    async with show(tmp_path) as opened:
        await opened.play_to(11.5)
        told = await ask(opened, "mode.force", mode="static", now=True, until="next_cue")
        assert told["played_again"] is True
        await opened.rest()
        assert opened.runs()[-1] == (11.5, "nr0")
        await opened.play_to(19)
        assert await played(opened) == [("nr0", "live"), ("nr0", "static")]
        rows = await opened.rows()
        assert [row["outcome"] for row in rows] == ["cut", "completed"]
        assert "the mode was switched" in rows[1]["why"]
        await opened.play_to(25)
        assert (await played(opened))[-1] == ("nr1", "live")


async def test_at_once_upon_another_cue_than_the_one_that_is_on_changes_nothing_yet(
    tmp_path: Path,
) -> None:
    async with show(tmp_path) as opened:
        await opened.play_to(11.5)
        told = await ask(opened, "mode.force", mode="static", cue="nr2", now="true")
        assert told["played_again"] is False
        await opened.play_to(45)
        providers = [provider for _, provider in await played(opened)]
        assert providers == ["live", "live", "static", "live"]
        assert opened.view.state()["mode"]["cues"][0]["cue"] == "nr2"
        assert opened.view.state()["mode"]["effective"] == "live"


async def test_a_cues_own_force_beats_the_one_upon_all_and_both_beat_the_cue(
    tmp_path: Path,
) -> None:
    cues = [{**one, "mode": "live"} for one in CUES]
    async with show(tmp_path, LOOP, cues=[*cues, cue(120, "end")]) as opened:
        await ask(opened, "mode.force", mode="static")
        await ask(opened, "mode.force", mode="live", cue="nr1")
        await opened.play_to(25)
        assert await played(opened) == [("nr0", "static"), ("nr1", "live")]
        await ask(opened, "mode.release")
        await opened.play_to(35)
        assert (await played(opened))[-1] == ("nr2", "live"), "the cue asks for it"
        assert (await opened.rows())[-1]["why"].startswith("the cue asks for live")


async def test_a_force_until_the_next_cue_is_for_one_cue(tmp_path: Path) -> None:
    async with show(tmp_path) as opened:
        await opened.play_to(11)
        await ask(opened, "mode.force", mode="static", until="next_cue")
        await opened.play_to(35)
        assert [provider for _, provider in await played(opened)] == ["live", "static", "live"]
        assert opened.modes.forces == ()


async def test_a_force_for_some_seconds_ends_exactly_then(tmp_path: Path) -> None:
    async with show(tmp_path) as opened:
        await opened.play_to(11)
        told = await ask(opened, "mode.force", mode="static", until=19)
        assert told["mode"]["until_at"] == pytest.approx(opened.clock.wall() + 19)
        assert len(told["mode"]["until"].split(":")) == 3
        await opened.play_to(29.9)
        assert opened.view.state()["mode"]["effective"] == "static"
        await opened.play_to(30.0)
        assert opened.view.state()["mode"]["effective"] == "live"
        await opened.play_to(35)
        assert [provider for _, provider in await played(opened)] == ["live", "static", "live"]
        assert opened.modes.forces == ()


@pytest.mark.parametrize("step", [3601.0, -3601.0, 86_400.0 * 3650])
async def test_a_number_of_seconds_is_that_many_whatever_the_clock_is_set_to(
    tmp_path: Path, step: float
) -> None:
    async with show(tmp_path) as opened:
        await ask(opened, "mode.force", mode="static", until="20")
        await opened.play_to(5)
        opened.clock.step_wall(step)
        await opened.play_to(19.5)
        told = opened.view.state()["mode"]
        assert told["effective"] == "static"
        assert told["until_at"] == pytest.approx(opened.opened_at + step + 20, abs=0.01)
        assert told["until_at"] is not None
        at = datetime.fromtimestamp(told["until_at"], UTC)
        assert told["until"] == f"{at:%H:%M:%S}", "printed as the clock is now"
        await opened.play_to(20.5)
        assert opened.view.state()["mode"]["effective"] == "live"


async def test_a_force_until_the_end_of_the_screening(tmp_path: Path) -> None:
    toml = LIVE.replace('kind = "loop"', 'kind = "loop"\ngap = 20')
    async with show(tmp_path, toml) as opened:
        await opened.play_to(11)
        await ask(opened, "mode.force", mode="static", until="end of screening")
        await opened.play_to(119)
        assert opened.view.state()["mode"]["until"] == "end of screening"
        await opened.play_to(121)
        assert forced(opened) is None
        await ask(opened, "mode.force", mode="static", until="end_of_screening")
        await opened.play_to(139)
        assert forced(opened) == "static", "in the lobby: for the screening to come"
        await opened.play_to(155)
        assert (await played(opened))[-1] == ("nr0", "static")
        await opened.play_to(262)
        assert forced(opened) is None


async def test_forces_survive_a_restart_and_those_that_are_over_do_not(tmp_path: Path) -> None:
    kept: list[tuple[Force, ...]] = []
    clock = VirtualClock()
    async with show(tmp_path / "a", clock=clock, book=ForceBook((), kept.append)) as opened:
        await ask(opened, "mode.force", mode="static", until=60, reason="rain")
        await ask(opened, "mode.force", mode="hybrid", cue="nr1")
    path = tmp_path / "state.json"
    async with StateFile.open(path) as state_file:
        state_file.content.forces = kept[-1]
        state_file.touch()
    async with StateFile.open(path) as state_file:
        remembered = state_file.content.forces
    assert remembered == kept[-1]
    async with show(tmp_path / "b", book=ForceBook(remembered)) as opened:
        assert opened.modes.force is not None
        assert opened.modes.force.words == "forced static by foh-tablet: rain"
        assert [force.cue for force in opened.modes.forces] == [None, "nr1"]
    later = VirtualClock(clock.now() + 3600)
    async with show(tmp_path / "c", clock=later, book=ForceBook(remembered)) as opened:
        assert [force.cue for force in opened.modes.forces] == ["nr1"]


def test_a_memory_without_forces_is_as_good() -> None:
    assert PersistedState.model_validate_json('{"alive_at": 1.0}').forces == ()


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ({}, "bad_args"),
        ({"mode": "fast"}, "bad_args"),
        ({"mode": "STATIC"}, "bad_args"),
        ({"mode": ["static"]}, "bad_args"),
        ({"mode": "static", "cue": "nobody"}, "unknown_cue"),
        ({"mode": "static", "cue": 10}, "unknown_cue"),
        ({"mode": "static", "until": "tomorrow"}, "bad_args"),
        ({"mode": "static", "until": "time"}, "bad_args"),
        ({"mode": "static", "until": 0}, "bad_args"),
        ({"mode": "static", "until": -5}, "bad_args"),
        ({"mode": "static", "until": "nan"}, "bad_args"),
        ({"mode": "static", "until": 1e300}, "bad_args"),
        ({"mode": "static", "until": True}, "bad_args"),
        ({"mode": "static", "reason": 7}, "bad_args"),
        ({"mode": "static", "reason": "x" * 500}, "bad_args"),
        ({"mode": "static", "now": "perhaps"}, "bad_args"),
        ({"mode": "static", "force": True}, "bad_args"),
    ],
)
async def test_what_cannot_be_forced(tmp_path: Path, args: dict[str, Any], code: str) -> None:
    async with show(tmp_path) as opened:
        assert await refused(opened, "mode.force", **args) == code
        assert opened.modes.forces == ()


async def test_auto_is_hybrid_and_a_cue_may_be_named_by_its_number(tmp_path: Path) -> None:
    async with show(tmp_path) as opened:
        await ask(opened, "mode.force", mode="auto", cue=3)
        (force,) = opened.modes.forces
        assert (force.mode, force.cue) == ("hybrid", "nr3")
        assert (await ask(opened, "mode.release", cue="3"))["released"] is True


# ---------------------------------------------------------------- what is known


async def test_hybrid_plays_sets_and_draws_what_has_none(tmp_path: Path) -> None:
    async with show(tmp_path, HYBRID, rhythms={"nr1": Rhythm(sets=0)}) as opened:
        standby = opened.view.state()["standby"]
        assert standby is not None
        assert (standby["ready"], standby["provider"]) == (True, "static")
        await opened.play_to(15)
        standby = opened.view.state()["standby"]
        assert standby is not None
        assert (standby["provider"], standby["engine"]) == ("live", "gpu")
        await opened.play_to(35)
        assert await played(opened) == [("nr0", "static"), ("nr1", "live"), ("nr2", "static")]
        assert (await opened.rows())[1]["why"] == "hybrid as configured; there is no set"


async def test_hybrid_follows_whether_the_store_answers(tmp_path: Path) -> None:
    async with show(tmp_path, HYBRID) as opened:
        await opened.play_to(19)
        opened.store.answering.clear()
        await opened.play_to(35)
        rows = await opened.rows()
        assert [row["outcome"] for row in rows] == ["completed", "failed over", "completed"]
        assert [row["provider"] for row in rows] == ["static", "live", "live"]
        assert "no set can be here in time" in rows[2]["why"]
        opened.store.answering.set()
        await opened.play_to(22 + STORE_IN_DOUBT + 12)
        assert (await played(opened))[-1][1] == "static"


async def test_no_more_live_runs_than_allowed(tmp_path: Path) -> None:
    async with show(tmp_path, LIVE + "live_runs_per_hour = 2\n") as opened:
        await opened.play_to(45)
        assert [provider for _, provider in await played(opened)] == [
            "live",
            "live",
            "static",
            "static",
        ]
        why = (await opened.rows())[2]["why"]
        assert why == "live as configured; the 2 live runs of this hour are spent; playing a set"


async def test_a_cap_that_was_reached_in_between_is_no_fault_of_the_engines(tmp_path: Path) -> None:
    async with show(tmp_path, LIVE + "live_at_once = 1\n") as opened:
        provider = opened.modes.provider(Rung("live", "gpu"))
        action = opened.actions[0]
        await opened.play_to(9)
        decision = opened.modes.decide(action)
        async with provider.open(opened.actions[1], Slot(opened.clock.now())):
            with pytest.raises(Capped) as refused:
                async with provider.open(action, Slot(opened.clock.now())):
                    pass
            opened.modes.failed(decision.rungs[0], action, refused.value)
        assert opened.modes.health("gpu").failures == 0


async def test_a_failing_engine_is_rested_and_named(tmp_path: Path) -> None:
    clock = VirtualClock()
    gone = DrawingFailed("out of memory")
    engine = scripted(clock, [], gone, pause=0)
    async with show(tmp_path, clock=clock, engines=[engine]) as opened:
        await opened.play_to(24)
        assert len(engine.asked) == 1, "it rests"
        rows = await opened.rows()
        assert [row["outcome"] for row in rows] == ["failed over", "completed"]
        assert "engine gpu rests until" in rows[1]["why"]
        assert rows[1]["why"].endswith("after 1 failure; playing a set")
        (told,) = (await ask(opened, "engines", "viewer"))["engines"]
        assert (told["name"], told["state"], told["failures"]) == ("gpu", "resting", 1)
        assert told["reason"] == "out of memory"
        assert opened.view.state()["engines"] == [told]
        await opened.readiness.look()
        assert "engine gpu is resting" in opened.view.state()["health"]["reason"]
        (told,) = (await ask(opened, "engine.reset", engine="gpu"))["engines"]
        assert told["state"] == "untried"
        await opened.play_to(35)
        assert len(engine.asked) == 2
        assert await refused(opened, "engine.reset", engine="nobody") == "unknown_engine"
        assert await refused(opened, "engine.reset") == "bad_args"


async def test_an_engine_that_has_not_answered_yet_is_starting_and_does_not_rest(
    tmp_path: Path,
) -> None:
    clock = VirtualClock()
    gone = EngineUnavailable("connection refused")
    engine = scripted(clock, [], gone, pause=0)
    async with show(tmp_path, clock=clock, engines=[engine]) as opened:
        await opened.play_to(24)
        rows = await opened.rows()
        assert "engine gpu has not answered yet: connection refused" in rows[1]["why"]
        (told,) = (await ask(opened, "engines", "viewer"))["engines"]
        assert (told["state"], told["failures"], told["usable"]) == ("starting", 0, False)
        # A probe finds it there: it is trusted at once, with no grace.
        opened.modes.probe_ok("gpu")
        (told,) = (await ask(opened, "engines", "viewer"))["engines"]
        assert (told["state"], told["reason"], told["usable"]) == ("trusted", "", True)
        opened.modes.failed(Rung("live", "gpu"), opened.show.plan({}).actions[0], NotThere("gone"))
        (told,) = (await ask(opened, "engines", "viewer"))["engines"]
        assert (told["state"], told["failures"]) == ("resting", 1), "it was there before"


async def test_what_an_engine_cannot_draw_it_is_not_asked_again_and_does_not_rest_for(
    tmp_path: Path,
) -> None:
    clock = VirtualClock()
    engine = scripted(clock, [], RecipeRefused("no such model"), pause=0)
    cues = [prompt(10, "one", id="one"), prompt(20, "one", id="again"), prompt(30, "two", id="two")]
    async with show(tmp_path, clock=clock, engines=[engine], cues=[*cues, cue(90, "end")]) as at:
        await at.play_to(35)
        assert [recipe.prompt.split(",")[0] for recipe in engine.asked] == ["one", "two"]
        rows = await at.rows()
        assert "engine gpu cannot draw this" in rows[1]["why"]
        assert at.modes.health("gpu").usable


async def test_joined_in_the_middle_a_set_shows_what_should_be_there(tmp_path: Path) -> None:
    async with show(tmp_path) as opened:
        await opened.play_to(1)
        opened.playback.seek(14.0)
        await opened.rest()
        assert (await opened.rows())[-1]["provider"] == "static"
        assert opened.of("frame")[-1].message["final"]


# ---------------------------------------------------------------- trying engines out


async def test_an_engine_that_rested_is_tried_out_between_cues_and_has_its_grace(
    tmp_path: Path,
) -> None:
    clock = VirtualClock()
    script = scripted(clock, drawing("gpu", 8), pause=0.2)
    cues = [prompt(10, "one", id="one"), prompt(30, "two", id="two"), prompt(60, "three", id="x")]
    async with show(
        tmp_path,
        clock=clock,
        engines=[script],
        cues=[*cues, prompt(90, "four", id="four"), cue(120, "end")],
        watch_engines=True,
    ) as opened:
        await opened.play_to(5)
        assert [recipe.width for recipe in script.asked] == [256], "tried out before it is needed"
        assert opened.modes.health("gpu").state == "trusted"
        opened.modes.probe_failed("gpu", "a test")
        await opened.play_to(29)
        assert opened.modes.health("gpu").state == "grace"
        assert len(script.asked) == 2
        probed_at = (opened.modes.health("gpu").until or 0) - 15 - opened.opened_at
        assert 20 <= probed_at < 25, "its rest over, no run on, and none due soon"
        await opened.play_to(35)
        assert (await played(opened))[-1] == ("two", "static")
        assert "not relied on before" in (await opened.rows())[-1]["why"]
        assert opened.modes.health("gpu").failures == 1
        await opened.play_to(65)
        assert (await played(opened))[-1] == ("x", "live")
        assert opened.modes.health("gpu").failures == 0, "it gave a picture"
        assert len(script.left) == len(script.asked)


async def test_an_engine_that_fails_when_tried_out_rests_longer(tmp_path: Path) -> None:
    clock = VirtualClock()
    script = scripted(clock, drawing("gpu", 8)[:3], hangs=True)
    async with show(
        tmp_path,
        clock=clock,
        engines=[script],
        cues=[cue(0, "start"), *SHOW[-2:]],
        watch_engines=True,
    ) as opened:
        await opened.play_to(92, step=1.0)
        health = opened.modes.health("gpu")
        assert (health.state, health.failures) == ("resting", 1)
        assert "tried out" in health.reason


async def test_an_engine_that_is_taken_for_the_show_when_tried_out_is_tried_again(
    tmp_path: Path,
) -> None:
    clock = VirtualClock()
    engine = scripted(clock, drawing("gpu", 8)[:2], EnginePreempted("the show"), pause=0.1)
    async with show(
        tmp_path,
        clock=clock,
        engines=[engine],
        cues=[cue(0, "start"), *SHOW[-2:]],
        watch_engines=True,
    ) as opened:
        await opened.play_to(20)
        assert len(engine.asked) > 3
        health = opened.modes.health("gpu")
        assert (health.state, health.failures) == ("untried", 0)
        failed = Preempted("the show")
        opened.modes.failed(Rung("live", "gpu"), opened.actions[0], failed)
        assert opened.modes.health("gpu").usable


async def test_an_engine_that_draws_for_others_when_tried_out_has_proved_itself(
    tmp_path: Path,
) -> None:
    class Occupied(ScriptedEngine):
        def render_proof(
            self, wanted: Recipe
        ) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
            return ScriptedEngine([], EngineOccupied("others")).render(wanted)

    clock = VirtualClock()
    engine = Occupied(drawing("gpu", 8), pause=0.1, sleep=clock.sleep)
    async with show(
        tmp_path, clock=clock, engines=[engine], cues=SHOW, watch_engines=True
    ) as opened:
        opened.modes.probe_failed("gpu", "a test")
        assert not opened.modes.health("gpu").usable
        await opened.play_to(45)
        assert opened.modes.health("gpu").usable
        await opened.play_to(55)
        assert (await played(opened))[-1] == ("nr4", "live")


async def test_nobody_is_tried_out_while_a_picture_is_drawn_or_due(tmp_path: Path) -> None:
    clock = VirtualClock()
    script = scripted(clock, drawing("gpu", 8), pause=0.1)
    cues = [prompt(3 + 6 * k, f"nr {k}", id=f"nr{k}") for k in range(19)]
    async with show(
        tmp_path,
        LOOP + "[playback]\nfallback = false\n",
        clock=clock,
        engines=[script],
        cues=[*cues, cue(120, "end")],
        watch_engines=True,
    ) as opened:
        opened.modes.probe_failed("gpu", "a test")
        await opened.play_to(110)
        assert script.asked == [], "a show without pauses"
        await opened.play_to(150)
        assert len(script.asked) == 1, "then any moment without a run will do"


# ---------------------------------------------------------------- a real server


def test_a_server_that_is_killed_comes_back_under_the_same_force(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", SHOW, rhythm=SETS)
    with server_process(tiny.folder) as server:
        server.control("mode.force", mode="live", until=600, reason="a test")
        server.control("mode.force", mode="static", cue="nr3")
        until = time.monotonic() + 15
        while "nr3" not in memory_of(tiny):
            assert time.monotonic() < until, "it is not written down"
            time.sleep(0.05)
        before = server.state()["mode"]
        server.kill()
    with server_process(tiny.folder) as server:
        assert server.state()["mode"] == before
        assert before["effective"] == "live"
        assert before["cues"][0]["forced"] == "static"
        assert server.control("mode.release")["mode"]["effective"] == "static"


def memory_of(tiny: TinyShow) -> str:
    path = tiny.state / "state.json"
    return path.read_text() if path.exists() else ""
