"""The job room at work: pictures asked for over HTTP, beside a bare loop that records the same.

Both draw the same test cards, by turns. The bare loop is one process with a recorder in it and
nothing else; it is as nice to others as the Studio's engines are, so that both get on alike on a
machine that does something else as well. Beside that: how soon a job's first step is seen, how
soon a slot is free of a job that was called off, and how well the end of forty jobs is foretold.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.lengths import length
from benchmarks.machinery import Running, say, serving, spread, working
from benchmarks.shows import write_plain_show
from cache.stores.folder import FolderStore
from cache.tasks import cancel_and_wait
from generator.engines.testcard.engine import TestCardEngine
from generator.jobs.drawing import NO_ACTION, take_store
from generator.sets.recorder import PlannedSet, Recorder
from generator.sheet.description import Description
from generator.sheet.recipe import Recipe
from server.core.child_process import NICENESS

_ROUNDS = length(3, 1)
_SMALL = Recipe(model="card", prompt="a lamp", steps=4, width=256, height=256)
_USUAL = Recipe(model="card", prompt="a lamp", steps=30, width=1024, height=1024)
_PICTURES = length(300, 4)
_USUAL_PICTURES = 40
_TOGETHER = length(4, 2)
"""Pictures of one job, where they are asked for together."""

_POSTERS = 8
_TURNS = length(20, 2)
_STEP = length(0.2, 0.05)
"""Seconds a step of the engine whose jobs are called off."""

_FORETOLD = length(40, 8)
_FORETOLD_STEP = length(0.05, 0.15)
"""Seconds; the fewer jobs, the longer each, so that some are left when the forecast is asked."""

_PATIENCE = 120.0

_CARD = '[[engines]]\nname = "card"\nkind = "testcard"\n'


def main() -> None:
    """Print the figures."""
    small, usual = ("small", _SMALL, _PICTURES), ("usual", _USUAL, _USUAL_PICTURES)
    for name, recipe, pictures in length((small, usual), (small,)):
        _beside_a_bare_loop(name, recipe, pictures)
    with _studio(_CARD) as server:
        seen = asyncio.run(_first_steps(server))
    say(f"from asking an idle Studio to the first step on the socket: {spread(seen)}")
    with _slow_studio(_STEP) as server:
        free = asyncio.run(_called_off(server))
    say(f"from calling off a job, a step taking {_STEP * 1e3:.0f} ms, to the next: {spread(free)}")
    with _slow_studio(_FORETOLD_STEP) as server:
        said, really = asyncio.run(_foretold(server))
    began = f"of {_FORETOLD} jobs, a quarter done, the last was"
    if said is None:
        say(f"{began} not foretold: it was over before it could be asked")
    else:
        off = abs(said / really - 1)
        say(f"{began} foretold in {said:.1f} s and took {really:.1f} s: {off:.0%} off")


@contextmanager
def _studio(engines: str) -> Iterator[Running]:
    """A Studio of a show that has these engines."""
    with tempfile.TemporaryDirectory() as folder:
        write_plain_show(Path(folder), engines)
        with serving(Path(folder), command=("studio", "serve")) as server:
            yield server


@contextmanager
def _slow_studio(pace: float) -> Iterator[Running]:
    """A Studio whose engine is elsewhere and keeps the rhythm that it pretends to have."""
    with tempfile.TemporaryDirectory() as folder:
        write_plain_show(Path(folder), f"{_CARD}pace = {pace}\n")
        with (
            working(Path(folder), "card") as url,
            _studio(f'[[engines]]\nname = "far"\nkind = "worker"\nurl = "{url}"\n') as server,
        ):
            yield server


# ---------------------------------------------------------------- the whole of it


def _beside_a_bare_loop(name: str, recipe: Recipe, pictures: int) -> None:
    took: dict[str, list[float]] = {"bare": [], "one by one": [], "together": []}
    for _ in range(_ROUNDS):
        took["bare"].append(_bare(recipe, pictures))
        for how, each in (("one by one", 1), ("together", _TOGETHER)):
            with _studio(_CARD) as server:
                took[how].append(asyncio.run(_drawn(server, recipe, pictures, each)))
    size = f"{recipe.width} x {recipe.height}, {recipe.steps} steps"
    say(f"{pictures} {name} test cards ({size}), {_ROUNDS} rounds by turns, medians")
    bare = median(took["bare"])
    say(f"  a bare recorder loop       {bare:.2f} s, {bare / pictures * 1e3:.0f} ms each")
    for how, jobs in (("one by one", pictures), ("together", pictures // _TOGETHER)):
        ours = median(took[how])
        # Each round against the bare run beside it, so that what else the machine does cancels.
        ratio = median(a / b for a, b in zip(took[how], took["bare"], strict=True))
        say(f"  {jobs} jobs over HTTP".ljust(29) + f"{ours:.2f} s, {ratio:.2f} x")


def _bare(recipe: Recipe, pictures: int) -> float:
    """Seconds that a recorder alone takes."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_record_alone, args=(recipe, pictures, theirs))
    process.start()
    theirs.close()  # so that nobody waits for a process that has ended
    try:
        took: float = ours.recv()
    finally:
        process.join(10)
        process.kill()
    return took


def _record_alone(recipe: Recipe, pictures: int, answer: Connection) -> None:
    os.nice(NICENESS)

    async def record() -> float:
        with tempfile.TemporaryDirectory() as folder:
            async with FolderStore(folder) as store:
                engine, began = TestCardEngine(wait=False), 0.0
                for number in range(pictures + 1):
                    if number == 1:  # the first warms up
                        began = time.perf_counter()
                    own = take_store(store, str(uuid.uuid4()))
                    planned = PlannedSet(NO_ACTION, 0, recipe.with_seed(number), Description())
                    await Recorder(engine, own, alone=True).record_planned(planned)
                return time.perf_counter() - began

    answer.send(asyncio.run(record()))


def _client(server: Running) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://{server.address}", trust_env=False, timeout=_PATIENCE
    )


async def _ask(client: httpx.AsyncClient, recipe: Recipe, seed: int = 1, n: int = 1) -> str:
    """Ask for a job; its id."""
    asked = {"recipe": recipe.model_dump(mode="json"), "seed": seed, "n": n}
    answer = await client.post("/api/jobs", json=asked)
    answer.raise_for_status()
    job: str = answer.json()["id"]
    return job


async def _over(client: httpx.AsyncClient, job: str) -> Mapping[str, Any]:
    """A job, once it is over.

    Raises:
        RuntimeError: it failed.
    """
    while True:
        answer = await client.get(f"/api/jobs/{job}", params={"wait": 60})
        found: dict[str, Any] = answer.raise_for_status().json()
        if found["status"] == "completed":
            return found
        if found["status"] not in {"queued", "processing"}:
            raise RuntimeError(f"a job is {found['status']}: {found['error']}")


async def _drawn(server: Running, recipe: Recipe, pictures: int, each: int) -> float:
    """Seconds from the first post until all is drawn."""
    async with _client(server) as client:
        await _over(client, await _ask(client, recipe))  # the engine has started
        seeds = iter(range(0, pictures, each))
        asked: list[str] = []

        async def post() -> None:
            asked.extend([await _ask(client, recipe, seed, each) for seed in seeds])

        began = time.perf_counter()
        await asyncio.gather(*(post() for _ in range(_POSTERS)))
        done = [await _over(client, job) for job in reversed(asked[-_POSTERS:])]
        took = time.perf_counter() - began
        done += [await _over(client, job) for job in asked[:-_POSTERS]]
    if sum(job["done"] for job in done) != pictures:
        raise RuntimeError("not all pictures were drawn")
    return took


# ---------------------------------------------------------------- what is seen of it


@dataclass
class HeardOnTheFeed:
    """What one listener was told: each message, and when (steady seconds)."""

    messages: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def first(self, wanted: Callable[[dict[str, Any]], bool]) -> float:
        """When the first such message came; it is waited for."""
        looked = 0
        async with asyncio.timeout(_PATIENCE):
            while True:
                self.changed.clear()
                for at, message in self.messages[looked:]:
                    looked += 1
                    if wanted(message):
                        return at
                await self.changed.wait()

    async def listen(self, line: ClientConnection) -> None:
        """Take everything in, until the line closes."""
        async for text in line:
            self.messages.append((time.perf_counter(), json.loads(text)))
            self.changed.set()


@asynccontextmanager
async def _listening(server: Running) -> AsyncIterator[HeardOnTheFeed]:
    async with connect(
        f"ws://{server.address}/ws/studio", compression=None, open_timeout=_PATIENCE
    ) as line:
        await line.send(json.dumps({"type": "hello"}))
        heard = HeardOnTheFeed()
        task = asyncio.create_task(heard.listen(line))
        try:
            await heard.first(lambda message: message["type"] == "welcome")
            yield heard
        finally:
            await cancel_and_wait(task)


async def _first_steps(server: Running) -> list[float]:
    """Seconds from the post to the first step, an idle Studio each time."""
    took = []
    async with _client(server) as client, _listening(server) as heard:
        await _over(client, await _ask(client, _SMALL))
        for number in range(_TURNS):
            before = len(heard.messages)
            began = time.perf_counter()
            job = await _ask(client, _SMALL, number)

            def is_step(message: dict[str, Any], job: str = job) -> bool:
                return message["type"] == "step" and bool(message["job"] == job)

            took.append(await heard.first(is_step) - began)
            await _over(client, job)
            del heard.messages[:before]
            await asyncio.sleep(0.1)
    return took


def _begun(job: str) -> Callable[[dict[str, Any]], bool]:
    def is_that(message: dict[str, Any]) -> bool:
        return message.get("event") == "item.running" and bool(message["job"] == job)

    return is_that


async def _called_off(server: Running) -> list[float]:
    """Seconds from a delete until the slot works on the next job."""
    recipe = _SMALL.model_copy(update={"steps": 200})
    chance = random.Random(1)
    took = []
    async with _client(server) as client, _listening(server) as heard:
        job = await _ask(client, recipe)
        for _ in range(_TURNS):
            after = await _ask(client, recipe)
            await heard.first(_begun(job))
            await asyncio.sleep(chance.uniform(2 * _STEP, 4 * _STEP))
            began = time.perf_counter()
            (await client.delete(f"/api/jobs/{job}")).raise_for_status()
            took.append(await heard.first(_begun(after)) - began)
            job = after
        await client.delete(f"/api/jobs/{job}")
    return took


async def _foretold(server: Running) -> tuple[float | None, float]:
    """Seconds until the last job: as foretold after a quarter, if at all, and as it was."""
    async with _client(server) as client:
        jobs = [await _ask(client, _SMALL, seed) for seed in range(_FORETOLD)]
        await _over(client, jobs[_FORETOLD // 4 - 1])
        await asyncio.sleep(1.5)  # what was foretold is good for a second
        asked = time.perf_counter()
        answer = await client.get(f"/api/jobs/{jobs[-1]}")
        said: float | None = answer.json()["eta_seconds"]
        await _over(client, jobs[-1])
        return said, time.perf_counter() - asked


if __name__ == "__main__":
    main()
