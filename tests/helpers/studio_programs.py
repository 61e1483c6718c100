"""The Studio in processes of its own: asked over HTTP, listened to, and killed at random moments.

What is checked is what somebody outside can see: what was promised, what was told, the pictures in
the store; and how often the engines were asked, who count that themselves.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from PIL import Image

from cache.tasks import cancel_and_wait
from generator.engines.port import StepImage, Timing
from generator.engines.testcard.engine import TestCardEngine
from generator.sheet.recipe import Recipe
from generator.worker import Worker
from tests.helpers.programs import Program, start
from tests.helpers.servers import Address, free_port, serving_app
from tests.helpers.shows import MANUAL, cue, prompt, write_show

PATIENCE: Final = 60.0
CARD: Final = '[[engines]]\nname = "card"\nkind = "testcard"\n'
"""An engine of this machine."""

_ORDER: Final = {"queued": 0, "processing": 1, "completed": 2, "failed": 2, "cancelled": 2}
_PROBE: Final = Recipe(model="none", prompt="a lamp", steps=1, width=64, height=64)
_TOLD: Final = {"job.queued": 0, "job.started": 1, "job.completed": 2}


# ---------------------------------------------------------------- the process


@dataclass
class StudioProgram:
    """`understudy studio serve`, always at the same port, started as often as one likes.

    Attributes:
        folder: the show's.
        port: where it listens.
        environment: more of it.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Program | None = None

    @property
    def address(self) -> Address:
        """Where it is."""
        return Address(self.port)

    @property
    def log(self) -> Path:
        """What it said, each time."""
        return self.folder / "studio.log"

    @property
    def database(self) -> Path:
        """Its file, where it has one."""
        return self.folder / ".understudy" / "studio.sqlite"

    def begin(self) -> Program:
        """Start it, without waiting for anything."""
        words = ["studio", "serve", "--show", self.folder, "--port", self.port]
        self.program = start(words, self.log, self.environment)
        return self.program

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        program = self.begin()
        async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(PATIENCE):
            while True:
                with suppress(httpx.TransportError):
                    await client.get(f"{self.address.http}/healthz", timeout=5)
                    return
                assert program.running, program.said()[-2000:]
                await asyncio.sleep(0.01)

    def kill(self) -> None:
        """As a power cut would."""
        assert self.program is not None
        assert self.program.running, self.program.said()[-3000:]
        self.program.kill()

    def terminate(self) -> int:
        """As systemd would: its exit status."""
        assert self.program is not None
        self.program.process.terminate()
        return self.program.wait()

    def close(self) -> None:
        """Be done with it, whatever became of it."""
        if self.program is not None and self.program.running:
            self.program.kill()

    def errors(self) -> list[dict[str, Any]]:
        """What it logged as an error."""
        lines = [
            json.loads(text) for text in self.log.read_text().splitlines() if text.startswith("{")
        ]
        return [line for line in lines if line.get("level") in {"error", "critical"}]


@contextmanager
def studio_program(folder: Path, **options: Any) -> Iterator[StudioProgram]:
    """A Studio that can be started, ended at the end."""
    studio = StudioProgram(folder, **options)
    try:
        yield studio
    finally:
        studio.close()


def write_studio(
    folder: Path, engines: str = CARD, *, store: str = "file:store", studio: str = "keep_free = 0"
) -> Path:
    """A show of small pictures.

    Args:
        folder: where; it is made.
        engines: its `[[engines]]`.
        store: where the pictures go.
        studio: what stands in `[studio]`.
    """
    toml = (
        f'{MANUAL}[store]\nurl = "{store}"\n[studio]\n{studio}\n{engines}\n'
        '[programs.P4]\nkind = "text-to-image"\nmodel = "none"\n'
        "steps = 4\nwidth = 96\nheight = 64\n"
    )
    return write_show(folder, [prompt(0, "a lamp"), cue(10, "end")], toml)


# ---------------------------------------------------------------- engines that count


@dataclass
class CountedEngine:
    """Draws test cards step by step, and counts how often it was asked.

    Attributes:
        step: seconds a step.
        asked: the seeds that it was asked for, each time.
    """

    step: float
    asked: list[int] = field(default_factory=list)
    name: str = "counted 1"
    timing: Timing = "simulated"

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """See `Engine.render`."""
        self.asked.append(recipe.seed)
        async with (
            TestCardEngine(wait=False).render(recipe) as images,
            aclosing(self._in_time(images)) as drawn,
        ):
            yield drawn

    async def _in_time(self, images: AsyncIterator[StepImage]) -> AsyncGenerator[StepImage, None]:
        async for image in images:
            await asyncio.sleep(self.step)
            yield image


@asynccontextmanager
async def counted_workers(
    count: int, step: float
) -> AsyncIterator[tuple[list[CountedEngine], str]]:
    """Workers that outlive every Studio, and the `[[engines]]` by which one has them."""
    engines = [CountedEngine(step) for _ in range(count)]
    async with AsyncExitStack() as stack:
        lines = []
        for number, engine in enumerate(engines):
            app = Worker(engine, probe=_PROBE).app()
            address = await stack.enter_async_context(serving_app(app))
            lines.append(
                f'[[engines]]\nname = "w{number}"\nkind = "worker"\nurl = "{address.http}"\n'
            )
        yield engines, "".join(lines)


# ---------------------------------------------------------------- what was seen from outside


@dataclass
class SeenOutside:
    """What somebody saw who asked for jobs while the Studios were killed.

    Attributes:
        store: the folder that the pictures are in.
        promised: the ids of jobs that were answered with 202 or 200, by their idempotency key.
        heard: the events that were told, in order.
        statuses: the last status that a job was seen in, over HTTP.
        wrong: what must not be.
        kills: how often a Studio was killed.
        refused: how often an answer did not come, or was no good one.
    """

    store: Path
    promised: dict[str, str] = field(default_factory=dict)
    heard: list[dict[str, Any]] = field(default_factory=list)
    statuses: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    kills: int = 0
    refused: int = 0

    @property
    def claims(self) -> int:
        """How often an item was begun: an engine is asked once for each, or not at all."""
        return sum(each["event"] == "item.running" for each in self.heard)

    def hear(self, event: dict[str, Any]) -> None:
        """An event was told, this very moment: what it says must be so already."""
        if self.heard and event["id"] <= self.heard[-1]["id"]:
            self.wrong.append(f"{event} after {self.heard[-1]['id']}")
        self.heard.append(event)
        if event["event"] == "item.ready":
            self._look_at(event["data"]["take"])

    def _look_at(self, take: str) -> None:
        try:
            with Image.open(io.BytesIO(picture_of(self.store, take))) as image:
                image.load()
            meta = take_folder(self.store, take) / "meta.json"
            json.loads(meta.read_bytes())
        except (OSError, ValueError) as error:
            self.wrong.append(f"told ready, and is not there: {take}: {error}")

    def see(self, job: Mapping[str, Any]) -> None:
        """A job was looked at."""
        before = self.statuses.get(job["id"], "queued")
        if _ORDER[job["status"]] < _ORDER[before]:
            self.wrong.append(f"{job['id']} was {before} and is {job['status']}")
        self.statuses[job["id"]] = job["status"]
        if job["status"] == "completed":
            for item in job["items"]:
                self._look_at(item["take"])

    def look_through(self) -> None:
        """Look through what was told of each job, all of it together."""
        by_job: dict[str, list[dict[str, Any]]] = {}
        for event in self.heard:
            by_job.setdefault(event["job"], []).append(event)
        for job, told in by_job.items():
            ranks = [_TOLD.get(each["event"], -9) for each in told if each["event"][0] == "j"]
            if ranks != [0, 1, 2]:
                self.wrong.append(f"{job} was told {[each['event'] for each in told]}")
            for n in {each["data"].get("n") for each in told} - {None}:
                kinds = [each["event"] for each in told if each["data"].get("n") == n]
                steps = ["item.running", "item.queued"] * len(kinds)
                if kinds[-1] != "item.ready" or kinds[:-1] != steps[: len(kinds) - 1]:
                    self.wrong.append(f"{job}/{n} was told {kinds}")


def take_folder(store: Path, take: str) -> Path:
    """Where a take is."""
    (found,) = (store / f"studio/takes/{take}/actions").iterdir()
    return found / "sets" / "0"


def picture_of(store: Path, take: str) -> bytes:
    """The final image of a take."""
    return (take_folder(store, take) / "final.jpg").read_bytes()


async def ask_for(
    studios: Sequence[StudioProgram],
    seen: SeenOutside,
    seeds: Sequence[int],
    chances: random.Random,
    until: asyncio.Event,
) -> None:
    """Ask for a picture of each seed, three at a time; again and again where no answer comes.

    Args:
        studios: any of them is asked.
        seen: what was promised is noted there.
        seeds: of the pictures.
        chances: where and when.
        until: the second half is asked for slowly, until this is set.
    """
    waiting = list(enumerate(seeds))[::-1]

    async def ask(client: httpx.AsyncClient) -> None:
        while waiting:
            number, seed = waiting.pop()
            key = f"key-{seed}"
            body = {"kind": "draw", "prompt": f"lamp {seed}", "program": "P4", "seed": seed}
            while key not in seen.promised:
                where = chances.choice(studios).address.http
                try:
                    answer = await client.post(
                        f"{where}/api/jobs", json=body, headers={"idempotency-key": key}
                    )
                except httpx.TransportError:
                    seen.refused += 1
                    await asyncio.sleep(0.02)
                    continue
                if answer.status_code in {200, 202}:
                    seen.promised[key] = answer.json()["id"]
                elif answer.status_code == 503:
                    seen.refused += 1
                    await asyncio.sleep(0.02)
                else:
                    seen.wrong.append(f"{answer.status_code}: {answer.text}")
                    return
            if number > len(seeds) // 2 and not until.is_set():
                await asyncio.sleep(chances.random() * 0.2)

    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        await asyncio.gather(*(ask(client) for _ in range(3)))


async def listen_to(studio: StudioProgram, seen: SeenOutside, *, last: int = 0) -> None:
    """Hear everything that is told, over every end of the Studio; until cancelled."""
    async with httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(5, read=30)) as client:
        while True:
            headers = {"last-event-id": str(seen.heard[-1]["id"] if seen.heard else last)}
            with suppress(httpx.TransportError):
                async with client.stream(
                    "GET", f"{studio.address.http}/api/events", headers=headers
                ) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: "):
                            message = json.loads(line.removeprefix("data: "))
                            if message["type"] == "event":
                                seen.hear(message)
                            elif message["type"] == "reset":
                                seen.wrong.append(f"told to begin anew: {message}")
            await asyncio.sleep(0.01)


async def look_at_jobs(studios: Sequence[StudioProgram], seen: SeenOutside) -> None:
    """Look at all jobs again and again, at any of the Studios; until cancelled."""
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        for number in range(10**9):
            where = studios[number % len(studios)].address.http
            with suppress(httpx.TransportError):
                answer = await client.get(f"{where}/api/jobs", params={"limit": 200})
                if answer.status_code == 200:
                    for job in answer.json()["jobs"]:
                        seen.see(job)
            await asyncio.sleep(0.05)


async def kill_at_random(
    studios: Sequence[StudioProgram],
    seen: SeenOutside,
    kills: int,
    chances: random.Random,
    apart: int,
) -> None:
    """Kill one of them at so many random moments of its work, and start it again each time.

    Args:
        studios: they run.
        seen: what was seen of their work.
        kills: how often.
        chances: when, and whom.
        apart: at most so many items are begun between two of them.
    """
    for _ in range(kills):
        wanted = seen.claims + chances.randint(1, apart)
        async with asyncio.timeout(PATIENCE):
            while seen.claims < wanted:  # noqa: ASYNC110 - another process counts them
                await asyncio.sleep(0.002)
        await asyncio.sleep(chances.random() * 0.08)
        studio = chances.choice(studios)
        studio.kill()
        seen.kills += 1
        await studio.start()


async def disturbed(
    studios: Sequence[StudioProgram],
    store: Path,
    seeds: Sequence[int],
    kills: int,
    chances: random.Random,
) -> SeenOutside:
    """Have a picture of each seed drawn while Studios are killed; what was seen of it."""
    seen = SeenOutside(store)
    killed = asyncio.Event()
    await asyncio.gather(*(studio.start() for studio in studios))
    watching = [
        asyncio.create_task(listen_to(studios[0], seen), name="listening"),
        asyncio.create_task(look_at_jobs(studios, seen), name="looking"),
    ]
    try:
        asking = asyncio.create_task(ask_for(studios, seen, seeds, chances, killed))
        apart = max(1, int(len(seeds) * 0.8) // max(1, kills))
        await kill_at_random(studios, seen, kills, chances, apart)
        killed.set()
        await asking
        until = time.monotonic() + PATIENCE * 2
        while len(_over(seen)) < len(seeds) or set(seen.statuses.values()) != {"completed"}:
            assert time.monotonic() < until, Counter(each["event"] for each in seen.heard)
            assert not seen.wrong, seen.wrong
            for task in watching:
                assert not task.done(), task.result()
            await asyncio.sleep(0.05)
    finally:
        await cancel_and_wait(*watching)
    seen.look_through()
    return seen


def _over(seen: SeenOutside) -> set[str]:
    return {each["job"] for each in seen.heard if each["event"] == "job.completed"}


async def takes_by_seed(studio: StudioProgram) -> dict[int, str]:
    """The takes of all jobs, by their seed."""
    found: dict[int, str] = {}
    before: dict[str, str] = {}
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        while True:
            answer = await client.get(
                f"{studio.address.http}/api/jobs", params={"limit": "200", **before}
            )
            jobs = answer.json()["jobs"]
            if not jobs:
                return found
            before = {"before": jobs[-1]["id"]}
            found |= {item["seed"]: item["take"] for job in jobs for item in job["items"]}
