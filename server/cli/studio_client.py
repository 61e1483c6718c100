"""`understudy studio try`, `jobs`, `cancel` and `stats`: asking a running Studio, over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

import httpx
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from cache.durable import write_durably
from cache.outgoing import has_password, reason_of, redacted
from cache.untrusted import Unfit, decode_answer, one_line
from generator.outgoing import Client, bearer, outgoing_client
from generator.outgoing import ask as ask_over_http
from server.cli.common import JsonOption, errors, fail

T = TypeVar("T")

_WITHIN: Final = 60.0
_LOOK_FOR: Final = 25
_SHOWN: Final = 60
_LONGEST: Final = 2**20
_MOST_BYTES: Final = 64 * 2**20
TOKEN: Final = "UNDERSTUDY_STUDIO_TOKEN"  # noqa: S105 - the variable's name

UrlOption = Annotated[str, typer.Option(help="Where the Studio is.")]
_URL: Final = "http://127.0.0.1:8100"


class StudioFailed(Exception):
    """The Studio cannot be reached, or does not do what it was asked to."""


@dataclass(frozen=True)
class StudioClient:
    """Asks one Studio.

    Args:
        client: to be entered and left by its owner.
        url: where it is.
        token: who asks; None for whoever sits at the machine.
    """

    client: Client
    url: str
    token: SecretStr | None

    async def json(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever JSON holds
        """What it answers.

        Raises:
            StudioFailed: with what it says.
        """
        request: dict[str, Any] = {} if body is None else {"json": body}
        answer = await self._ask(method, path, _LONGEST * 16, headers or {}, request)
        try:
            found = decode_answer(answer.content)
        except Unfit:
            text = f"{redacted(self.url)} answers {answer.status_code}, and not as a Studio does"
            raise StudioFailed(text) from None
        if answer.status_code >= httpx.codes.BAD_REQUEST:
            error = found.get("error") if isinstance(found, dict) else None
            message = error.get("message") if isinstance(error, dict) else None
            raise StudioFailed(one_line(str(message or f"it answers {answer.status_code}"), 600))
        return found

    async def bytes(self, path: str) -> bytes:
        """A picture.

        Raises:
            StudioFailed: it cannot be had.
        """
        answer = await self._ask("GET", path, _MOST_BYTES, {}, {})
        if answer.status_code != httpx.codes.OK:
            raise StudioFailed(f"{path.partition('?')[0]}: it answers {answer.status_code}")
        return answer.content

    async def _ask(
        self,
        method: str,
        path: str,
        limit: int,
        headers: Mapping[str, str],
        request: Mapping[str, Any],
    ) -> httpx.Response:
        try:
            return await ask_over_http(
                self.client,
                method,
                f"{self.url}{path}",
                within=_WITHIN,
                limit=limit,
                headers={**headers, **bearer(self.token)},
                **request,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            where, reason = redacted(self.url), reason_of(error, self.url)
            text = f"{where}: {reason}. Is it running? understudy studio, or --url"
            raise StudioFailed(text) from error


def ask(
    prompt: Annotated[str, typer.Argument(help="What the pictures are of.")],
    *,
    n: Annotated[int, typer.Option("-n", min=1, max=64, help="How many.")] = 4,
    style: Annotated[str | None, typer.Option(help="Words laid over the prompt.")] = None,
    program: Annotated[str | None, typer.Option(help="How they are drawn.")] = None,
    cue: Annotated[str | None, typer.Option(help="Whose action they are for.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first picture.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="In fewer steps.")] = False,
    to: Annotated[Path | None, typer.Option(help="A folder for the final images.")] = None,
    url: UrlOption = _URL,
    as_json: JsonOption = False,
) -> None:
    """Have takes drawn, and say where they are."""
    wanted = {"prompt": prompt, "style": style, "program": program, "cue": cue, "seed": seed}
    body = {name: value for name, value in wanted.items() if value is not None}
    body |= {"kind": "draw", "n": n, "speed": "fast" if fast else "full"}
    _run(url, lambda studio: _try(studio, body, to, as_json=as_json))


async def _try(
    studio: StudioClient, body: Mapping[str, Any], to: Path | None, *, as_json: bool
) -> None:
    job = await studio.json("POST", "/api/jobs", body, {"Idempotency-Key": str(uuid.uuid4())})
    with errors.status("asked for") as line:
        while job["status"] not in {"completed", "failed", "cancelled"}:
            line.update(f"{job['done']} of {job['total']} drawn{_left(job)}")
            job = await studio.json("GET", f"/api/jobs/{job['id']}?wait={_LOOK_FOR}")
    saved = await _saved(studio, job, to) if to is not None else {}
    if as_json:
        print_json(job)
    else:
        for item in job["items"]:
            where = saved.get(item["n"]) or item["url"] or (item["error"] or {}).get("message")
            typer.echo(f"{item['status']}  seed {item['seed']}  {where}")
    if job["status"] != "completed":
        fail(f"{job['status']}: {(job['error'] or {}).get('message', 'nothing was drawn')}", 1)


async def _saved(studio: StudioClient, job: Mapping[str, Any], to: Path) -> dict[int, Path]:
    saved: dict[int, Path] = {}
    for item in job["items"]:
        if item["url"]:
            path = to / f"{job['id'][:8]}-{item['n']}.jpg"
            write_durably(path, await studio.bytes(item["url"]))
            saved[item["n"]] = path
    return saved


def jobs(
    *,
    status: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    url: UrlOption = _URL,
    as_json: JsonOption = False,
) -> None:
    """Your jobs, the newest first."""
    only = "" if status is None else f"&status={quote(status)}"
    found = _run(url, lambda studio: studio.json("GET", f"/api/jobs?limit={limit}{only}"))
    if as_json:
        print_json(found)
        return
    table = Table("id", "status", "done", "left", "what", "why not", box=None)
    for job in found["jobs"]:
        errors_of_items = (each["error"] for each in job["items"] if each["error"])
        error = job["error"] or next(errors_of_items, None) or {}
        table.add_row(
            job["id"],
            job["status"],
            f"{job['done']}/{job['total']}",
            _left(job).lstrip(", "),
            one_line(str((job["request"] or {}).get("prompt", "")), _SHOWN),
            one_line(str(error.get("message", "")), _SHOWN),
        )
    Console().print(table)


def cancel(job: Annotated[str, typer.Argument(help="Its id.")], *, url: UrlOption = _URL) -> None:
    """Call a job off; what is drawn stays."""
    path = f"/api/jobs/{quote(job, safe='')}"
    found = _run(url, lambda studio: studio.json("DELETE", path))
    typer.echo(f"{found['status']}: {found['done']} of {found['total']} were drawn")


def stats(
    *,
    hours: Annotated[int, typer.Option(min=1)] = 24,
    url: UrlOption = _URL,
    as_json: JsonOption = False,
) -> None:
    """How the last hours went."""
    found = _run(url, lambda studio: studio.json("GET", f"/api/stats?hours={hours}"))
    if as_json:
        print_json(found)
        return
    table = Table(box=None, show_header=False)
    for name, value in found.items():
        table.add_row(name.replace("_", " "), json.dumps(value) if value is not None else "unknown")
    Console().print(table)


def print_json(document: object) -> None:
    """For other programs."""
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def _left(job: Mapping[str, Any]) -> str:
    seconds = job["eta_seconds"]
    return "" if seconds is None else f", about {max(1, round(seconds))} s left"


def _run(url: str, work: Any) -> Any:  # noqa: ANN401 - what JSON holds
    if has_password(url):
        fail(f"--url: without a password; the token comes from {TOKEN}", 2)

    async def asked() -> Any:  # noqa: ANN401 - what JSON holds
        token = os.environ.get(TOKEN)
        async with outgoing_client() as client:
            return await work(
                StudioClient(client, url.rstrip("/"), SecretStr(token) if token else None)
            )

    try:
        return asyncio.run(asked())
    except StudioFailed as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("stopped; what was asked for is drawn all the same: understudy studio jobs", 130)
