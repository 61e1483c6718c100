"""A mode is forced over the socket, HTTP, OSC and the terminal, and somebody else sees it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from server.performance.state_file import PersistedState
from tests.helpers.osc import surface
from tests.helpers.screens import command
from tests.helpers.servers import ROOT, Address, plain_environment, server_process, serving
from tests.helpers.shows import MANUAL, Rhythm, cue, make_show, prompt
from tests.helpers.technicians import Technician, technician

CUES = [cue(0, "start"), prompt(5, "a", id="a"), prompt(10, "b", id="b"), cue(60, "end")]
RHYTHM = Rhythm(previews=2, step=0.1)

Force = Callable[[str], Awaitable[object]]


def free_port() -> int:
    """A UDP port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


async def in_a_terminal(address: Address, *words: str) -> None:
    """`understudy control`, as a real process."""
    url = f"ws://127.0.0.1:{address.port}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "control", "--url", url, *words),
        cwd=ROOT,
        env=plain_environment(),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0


def mode(of: Technician) -> dict[str, Any]:
    told: dict[str, Any] = of.state["mode"]
    return told


async def test_forced_over_each_of_the_four_it_is_seen_by_another(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=MANUAL)
    port = free_port()
    async with (
        serving(tiny.load(server={"osc_port": port})) as address,
        technician(address, "foh") as foh,
        technician(address, "another") as other,
        surface(port) as desk,
    ):
        ways: dict[str, Force] = {
            "foh": lambda to: foh.ask("mode.force", mode=to),
            "http": lambda to: command(address, "mode.force", mode=to),
            "osc": lambda to: desk.ask("/understudy/mode/force", to),
            "terminal": lambda to: in_a_terminal(address, "mode.force", f"mode={to}"),
        }
        for who, force in ways.items():
            for to in ("live", "hybrid", "static"):
                await force(to)
                # mypy infers no type for the default that ties `to` to this round.
                await other.until(lambda me, to=to: mode(me)["effective"] == to)  # type: ignore[misc]  # mypy infers no lambda with a default
                assert mode(other)["forced"] == to
                assert who == "terminal" or mode(other)["by"].startswith(who)
                assert mode(other)["reason"].startswith(f"forced {to} by ")

        # A force for a cue is stronger, and the cue on standby says so.
        await foh.ask("mode.force", mode="hybrid", cue="a", reason="only this one")
        await other.until(lambda me: mode(me)["cues"])
        standby = (await foh.ask("state"))["result"]["standby"]
        assert (standby["cue"], standby["mode"]) == ("a", "hybrid")
        assert "only this one" in standby["why"]
        assert mode(other)["effective"] == "static"

        await desk.ask("/understudy/mode/release")
        await other.until(lambda me: mode(me)["forced"] is None)
        assert mode(other)["effective"] == mode(other)["configured"] == "static"


async def test_a_force_survives_a_server_that_is_killed(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=MANUAL)
    with server_process(tiny.folder) as server:
        server.control("mode.force", mode="live", reason="the opening", until=3600)
        kept = tiny.state / "state.json"
        for _ in range(200):  # it is written soon, not at once
            if kept.exists() and PersistedState.model_validate_json(kept.read_bytes()).forces:
                break
            await asyncio.sleep(0.05)
        server.kill()
    with server_process(tiny.folder) as server:
        told = server.state()["mode"]
    assert (told["effective"], told["forced"]) == ("live", "live")
    assert "the opening" in told["reason"]
