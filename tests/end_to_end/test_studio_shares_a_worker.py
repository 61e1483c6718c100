"""One worker for the Studio and for the show: the show goes first, and nothing is lost by it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa

from generator.engines.port import draw_for_nobody
from generator.engines.remote.engine import RemoteEngine
from generator.jobs.schema import items
from generator.outgoing import outgoing_client
from generator.sheet.recipe import Recipe
from tests.helpers.shows import write_show
from tests.helpers.studios import CUES, show_in, studio
from tests.helpers.workers import worker_process

LIVE = Recipe(model="none", prompt="a lake", steps=2, width=160, height=96)
LONG = LIVE.model_copy(update={"prompt": "a long night", "steps": 200})
PENCIL = '[[engines]]\nname = "pencil"\nkind = "sketch"\npace = 0.05\n'


async def test_a_live_cue_takes_the_worker_and_the_drawing_is_done_afterwards(
    tmp_path: Path,
) -> None:
    drawing = write_show(tmp_path / "box", CUES, toml=PENCIL)
    with worker_process(drawing, "pencil") as worker:
        shared = f'[[engines]]\nname = "box"\nkind = "worker"\nurl = "{worker.url}"\n'
        show = show_in(tmp_path / "show", shared)
        async with (
            studio(show, own_engines=True) as served,
            served.caller() as artist,
            outgoing_client() as client,
        ):
            asked = {"recipe": LONG.model_dump(mode="json", exclude_none=True)}
            job = (await artist.post("/api/jobs", json=asked)).json()
            await artist.until(job, lambda found: 0 < found["progress"] < 1)

            live = RemoteEngine(client, worker.url, priority="show")
            async with asyncio.timeout(10):
                await draw_for_nobody(live, LIVE)
            found = await artist.job(job)
            assert found["status"] == "processing"
            assert not found["failed"]

            done = await artist.over(job)
            assert (done["status"], done["attempt"], done["failed"]) == ("completed", 1, 0)
            tries = sa.select(items.c.tries)
            counted = await served.services.database.read(lambda found: found.scalar(tries))
            assert counted == 0
