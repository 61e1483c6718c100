"""`understudy studio try`, `retry`, `jobs` and `cancel`: a running Studio's jobs, over HTTP."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

import typer
from rich.text import Text

from cache.durable import write_durably
from cache.untrusted import one_line
from server.cli.common import JsonOption, errors, fail, print_json, print_table
from server.cli.studio_client import (
    ENDED,
    STUDIO_URL,
    JobAnswer,
    JobsAnswer,
    StudioAway,
    StudioClient,
    StudioFailed,
    UrlOption,
    studio_address,
    with_studio,
)
from server.core.formatting import count, duration

T = TypeVar("T")

_LOOK_FOR: Final = 25
"""Seconds for which one question after a job waits for its end."""

_AWAY_FOR: Final = 60.0
"""Seconds for which a Studio that was there may be away, while somebody waits for pictures."""

_AGAIN_EACH: Final = 1.0
_SHOWN: Final = 60
_MOST_JOBS: Final = 200
_SHORT: Final = re.compile(r"[0-9a-f-]{4,36}")

ToOption = Annotated[Path | None, typer.Option(help="A folder for the final images.")]
JobArgument = Annotated[str, typer.Argument(help="Its id, or the beginning of it.")]


def ask(
    prompt: Annotated[
        str | None, typer.Argument(help="What the pictures are of; with --cue, the cue's own.")
    ] = None,
    *,
    n: Annotated[int, typer.Option("-n", min=1, max=64, help="How many.")] = 4,
    style: Annotated[str | None, typer.Option(help="Words laid over the prompt.")] = None,
    program: Annotated[str | None, typer.Option(help="How they are drawn.")] = None,
    cue: Annotated[str | None, typer.Option(help="Whose action they are for.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first picture.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="In fewer steps.")] = False,
    to: ToOption = None,
    url: UrlOption = STUDIO_URL,
    as_json: JsonOption = False,
) -> None:
    """Have pictures drawn, and say where they are."""
    wanted = {"prompt": prompt, "style": style, "program": program, "cue": cue, "seed": seed}
    body = {name: value for name, value in wanted.items() if value is not None}
    body |= {"kind": "draw", "n": n, "speed": "fast" if fast else "full"}
    key = {"Idempotency-Key": str(uuid.uuid4())}

    async def begin(studio: StudioClient) -> Any:  # noqa: ANN401 - what JSON holds
        return await studio.json("POST", "/api/jobs", body, key)

    _draw(url, begin, to, as_json=as_json)


def retry(
    job: JobArgument,
    *,
    to: ToOption = None,
    url: UrlOption = STUDIO_URL,
    as_json: JsonOption = False,
) -> None:
    """Have what failed of a job drawn once more, with the same seeds."""

    async def begin(studio: StudioClient) -> Any:  # noqa: ANN401 - what JSON holds
        return await studio.json("POST", f"{await _path_of(studio, job)}/retry", {})

    _draw(url, begin, to, as_json=as_json)


def jobs(
    *,
    status: Annotated[
        str | None, typer.Option(help="Only those in this state, or in some: queued,processing.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=_MOST_JOBS, help="How many.")] = 20,
    url: UrlOption = STUDIO_URL,
    as_json: JsonOption = False,
) -> None:
    """Your jobs, the newest first."""
    only = "" if status is None else f"&status={quote(status, safe=',')}"

    async def look(studio: StudioClient) -> tuple[Any, JobsAnswer]:
        found = await studio.json("GET", f"/api/jobs?limit={limit}{only}")
        return found, studio.read(JobsAnswer, found)

    document, found = with_studio(url, look)
    if as_json:
        print_json(document)
        return
    rows = [
        (
            job.short,
            job.status,
            f"{job.done}/{job.total}",
            _time_left(job),
            one_line(str(job.request.get("prompt") or job.request.get("cue") or ""), _SHOWN),
            one_line(_why_not(job), _SHOWN),
        )
        for job in found.jobs
    ]
    print_table(("id", "status", "drawn", "left", "what", "why not"), rows)


def cancel(job: JobArgument, *, url: UrlOption = STUDIO_URL, as_json: JsonOption = False) -> None:
    """Call a job off; what is drawn stays."""

    async def call_off(studio: StudioClient) -> tuple[Any, JobAnswer]:
        found = await studio.json("DELETE", await _path_of(studio, job))
        return found, studio.read(JobAnswer, found)

    document, found = with_studio(url, call_off)
    if as_json:
        print_json(document)
    else:
        typer.echo(f"{found.status}: {found.done} of {count(found.total, 'picture')} drawn")


# ---------------------------------------------------------------- waiting for pictures


def _draw(
    url: str, begin: Callable[[StudioClient], Awaitable[Any]], to: Path | None, *, as_json: bool
) -> None:
    """Have a job begun, wait for its end, and say what came of it: the end of the program."""
    if to is not None:
        with _writing(to):  # before anything is drawn for it
            to.mkdir(parents=True, exist_ok=True)
    begun: list[JobAnswer] = []

    async def work(studio: StudioClient) -> tuple[Any, dict[int, Path]]:
        document = await begin(studio)
        begun.append(studio.read(JobAnswer, document))
        document = await _when_over(studio, document)
        job = studio.read(JobAnswer, document)
        return document, {} if to is None else await _saved(studio, job, to)

    def stopped() -> str:
        if not begun:
            return "stopped before the Studio said that it was heard: understudy studio jobs"
        return (
            f"stopped; what was asked for is drawn all the same: "
            f"understudy studio cancel {begun[0].short} calls it off"
        )

    document, saved = with_studio(url, work, stopped)
    job = JobAnswer.model_validate(document)
    if as_json:
        for item in document["items"]:
            item["file"] = str(saved[item["n"]]) if item["n"] in saved else None
        print_json(document)
    for item in job.items:
        if item.url is None:
            why = f": {item.error.message}" if item.error is not None else ""
            errors.print(f"seed {item.seed}  {item.status}{why}", markup=False)
        elif not as_json:
            typer.echo(f"seed {item.seed}  {saved.get(item.n) or studio_address(url) + item.url}")
    if job.done < job.total:
        _say_what_is_missing(job)


def _say_what_is_missing(job: JobAnswer) -> None:
    if job.status == "cancelled":
        fail(f"called off: {job.done} of {count(job.total, 'picture')} drawn", 1)
    remedy = f"understudy studio retry {job.short} has what failed drawn once more"
    if job.done:
        fail(f"{job.failed} of {count(job.total, 'picture')} failed: {remedy}", 1)
    reason = job.error.message if job.error is not None else "nothing was drawn"
    fail(f"failed: {reason}\n{remedy}", 1)


async def _when_over(studio: StudioClient, document: Any) -> Any:  # noqa: ANN401 - what JSON holds
    """The job once it has come to its end, whatever the Studio does meanwhile."""
    progress = JobProgress(studio.read(JobAnswer, document))
    path = f"/api/jobs/{progress.job.id}"
    away_since: float | None = None
    with _shown(progress) as show:
        while progress.job.status not in ENDED:
            try:
                if errors.is_terminal:
                    await _watch(studio, path, progress, show)
                document = await studio.json("GET", f"{path}?wait={_LOOK_FOR}")
            except StudioAway as error:
                now = time.monotonic()
                away_since = now if away_since is None else away_since
                if now - away_since > _AWAY_FOR:
                    kept = "what was asked for is drawn once it is back: understudy studio jobs"
                    raise StudioFailed(f"{error}\n{kept}") from error
                await asyncio.sleep(_AGAIN_EACH)
            else:
                away_since = None
                progress.job = studio.read(JobAnswer, document)
    return document


async def _watch(
    studio: StudioClient, path: str, progress: JobProgress, show: Callable[[], None]
) -> None:
    """Show each step as it comes, for as long as the Studio tells of them."""
    async with aclosing(studio.events(f"{path}/events")) as messages:
        async for message in messages:
            if message.get("type") == "step":
                progress.take_step(message)
            else:
                progress.job = studio.read(JobAnswer, await studio.json("GET", path))
            show()


@contextmanager
def _shown(progress: JobProgress) -> Iterator[Callable[[], None]]:
    """A line that says how far a job is; nothing where nobody looks at a terminal."""
    if not errors.is_terminal:
        yield lambda: None
        return
    with errors.status(progress.line) as line:
        yield lambda: line.update(progress.line)


@dataclass
class JobProgress:
    """How far a job is: what was last read of it, and of each picture the step that came last."""

    job: JobAnswer
    _steps: dict[int, tuple[int, int]] = field(default_factory=dict)

    def take_step(self, message: Mapping[str, Any]) -> None:
        """A step of a picture is there."""
        n, step, steps = (message.get(name) for name in ("n", "step", "steps"))
        if isinstance(n, int) and isinstance(step, int) and isinstance(steps, int):
            self._steps[n] = step, steps

    @property
    def line(self) -> Text:
        """What there is to say of it."""
        drawn = [item.n for item in self.job.items if item.status == "running"]
        steps = [self._steps[n] for n in drawn if n in self._steps]
        parts = [f"{self.job.short}: {self.job.done} of {self.job.total} drawn"]
        parts += [f"step {step} of {of}" for step, of in steps]
        if not drawn:
            parts.append(_why_not(self.job) or "it waits for its turn")
        left = _time_left(self.job)
        return Text(" · ".join(part for part in (*parts, left and f"{left} left") if part))


async def _saved(studio: StudioClient, job: JobAnswer, to: Path) -> dict[int, Path]:
    saved: dict[int, Path] = {}
    for item in job.items:
        if item.url is not None:
            picture = await studio.picture(item.url)
            path = to / f"{job.short}-{item.n}{picture.suffix}"
            with _writing(path):
                await asyncio.to_thread(write_durably, path, picture.data)
            saved[item.n] = path
    return saved


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fail(f"--to: {path}: {error.strerror or error}", 1)


# ---------------------------------------------------------------- asking


async def _path_of(studio: StudioClient, job: str) -> str:
    """The path of a job of one's own, by its id or by the beginning of it."""
    try:
        return f"/api/jobs/{uuid.UUID(job)}"
    except ValueError:
        pass
    if _SHORT.fullmatch(job.lower()) is None:
        expected = "expected the id of a job, or its first 4 characters or more"
        raise StudioFailed(f"{expected}, not {job!r:.60}: understudy studio jobs", 2)
    found = studio.read(JobsAnswer, await studio.json("GET", f"/api/jobs?limit={_MOST_JOBS}"))
    meant = [each.id for each in found.jobs if each.id.startswith(job.lower())]
    if len(meant) != 1:
        many = f"several of your jobs begin with {job}" if meant else "none of your last jobs does"
        raise StudioFailed(f"{job}: {many}: understudy studio jobs --limit {_MOST_JOBS}")
    return f"/api/jobs/{meant[0]}"


# ---------------------------------------------------------------- for people


def _why_not(job: JobAnswer) -> str:
    """Why it failed, or is not drawn now; empty where there is nothing to say."""
    problems = (job.error, *(item.error for item in job.items))
    return next((each.message for each in problems if each is not None), "")


def _time_left(job: JobAnswer) -> str:
    return "" if job.eta_seconds is None else f"about {duration(max(1, job.eta_seconds))}"
