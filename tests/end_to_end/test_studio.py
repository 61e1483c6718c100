"""The Studio as a whole, killed at random moments of its work."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

from tests.helpers.postgres import postgres
from tests.helpers.studio_programs import (
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
SEEDS = range(1000, 1040)


async def undisturbed(folder: Path, seeds: range) -> dict[int, bytes]:
    """The pictures of a Studio that nobody kills, drawn on this machine."""
    write_studio(folder, '[[engines]]\nname = "card"\nkind = "testcard"\n')
    with studio_program(folder) as studio:
        await disturbed([studio], folder / "store", seeds, 0, random.Random(0))
        takes = await takes_by_seed(studio)
    return {seed: picture_of(folder / "store", take) for seed, take in takes.items()}


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
    tmp_path: Path,
) -> None:
    expected = await undisturbed(tmp_path / "peace", SEEDS)
    async with counted_workers(SLOTS, 0.02) as (engines, sections):
        write_studio(tmp_path / "show", sections)
        with studio_program(tmp_path / "show") as studio:
            seen = await disturbed([studio], tmp_path / "show/store", SEEDS, 4, random.Random(4))
            calls = sum(len(each.asked) for each in engines)
            await check(seen, studio, calls, SLOTS, expected)


async def test_two_studios_on_one_queue_are_killed_in_turn_and_every_job_completes(
    tmp_path: Path,
) -> None:
    expected = await undisturbed(tmp_path / "peace", SEEDS)
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
            seen = await disturbed(studios, tmp_path / "store", SEEDS, 4, random.Random(5))
            calls = sum(len(each.asked) for each in engines)
            await check(seen, studios[0], calls, SLOTS, expected)
