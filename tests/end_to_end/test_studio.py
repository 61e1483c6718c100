"""The Studio as a whole, killed at random moments of its work."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.postgres import postgres
from tests.helpers.servers import ROOT
from tests.helpers.studio_programs import (
    PATIENCE,
    SeenOutside,
    StudioProgram,
    counted_workers,
    disturbed,
    picture_of,
    studio_program,
    takes_by_seed,
    write_studio,
)

SLOTS = 2
SEEDS = range(1000, 1024)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """The pictures of a Studio that nobody kills, which an engine of this machine has drawn."""
    folder = write_studio(tmp_path_factory.mktemp("peace") / "show")

    async def draw() -> dict[int, bytes]:
        with studio_program(folder) as studio:
            seen = await disturbed([studio], folder / "store", SEEDS, 0, random.Random(0))
            assert seen.claims == len(SEEDS)
            takes = await takes_by_seed(studio)
        return {seed: picture_of(folder / "store", take) for seed, take in takes.items()}

    return asyncio.run(draw())


async def check(
    seen: SeenOutside, studio: StudioProgram, calls: int, slots: int, expected: dict[int, bytes]
) -> None:
    assert seen.wrong == []
    assert len(set(seen.promised.values())) == len(expected)
    assert set(seen.statuses) == set(seen.promised.values())
    assert len(expected) <= calls <= seen.claims <= len(expected) + slots * seen.kills
    takes = await takes_by_seed(studio)
    assert {seed: picture_of(seen.store, take) for seed, take in takes.items()} == expected


async def test_killed_again_and_again_every_job_completes_as_if_nothing_had_been(
    tmp_path: Path, expected: dict[int, bytes]
) -> None:
    async with counted_workers(SLOTS, 0.02) as (engines, sections):
        write_studio(tmp_path / "show", sections)
        with studio_program(tmp_path / "show") as studio:
            seen = await disturbed([studio], tmp_path / "show/store", SEEDS, 3, random.Random(4))
            calls = sum(len(each.asked) for each in engines)
            await check(seen, studio, calls, SLOTS, expected)


async def test_two_studios_on_one_queue_are_killed_in_turn_and_every_job_completes(
    tmp_path: Path, expected: dict[int, bytes]
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(postgres())
        url = server.url.set(drivername="postgresql").render_as_string(hide_password=False)
        async with counted_workers(2 * SLOTS, 0.02) as (engines, sections):
            halves = sections.split("[[engines]]\n")[1:]
            studios = []
            for number, names in enumerate((halves[:2], halves[2:])):
                folder = tmp_path / f"show-{number}"
                write_studio(
                    folder,
                    "".join(f"[[engines]]\n{each}" for each in names),
                    store=f"file://{tmp_path}/store",
                    studio=f'keep_free = 0\ndatabase = "{url}"',
                )
                studios.append(stack.enter_context(studio_program(folder)))
            seen = await disturbed(studios, tmp_path / "store", SEEDS, 3, random.Random(5))
            calls = sum(len(each.asked) for each in engines)
            await check(seen, studios[0], calls, SLOTS, expected)


# ---------------------------------------------------------------- whoever has started it


async def test_systemd_is_told_when_it_serves_that_it_goes_on_and_when_it_ends(
    tmp_path: Path,
) -> None:
    show, address = write_studio(tmp_path / "show"), tmp_path / "notify"
    environment = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "900000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(address))
        ear.settimeout(PATIENCE)
        with studio_program(show, environment=environment) as studio:
            await studio.start()
            told = [ear.recv(1000).decode() for _ in range(4)]
            assert sorted(told) == ["READY=1", "STATUS=ok", "WATCHDOG=1", "WATCHDOG=1"]
            assert studio.terminate() == 0
            while "STOPPING=1" not in told:
                told.append(ear.recv(1000).decode())


def test_its_unit_is_what_systemd_understands(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd on this machine")
    unit = (ROOT / "deploy/understudy-studio.service").read_text()
    here = tmp_path / "understudy-studio.service"
    here.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", unit))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(here)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
