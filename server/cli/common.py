"""What the commands share: their common options, loading the show, and how they fail."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cache.model.documents import FormatError, WrongVersion
from cache.stores.port import Store, StoreError
from cache.stores.urls import BadStoreAddress
from server.config.show import Show, ShowError, load_show
from server.config.stores import store_of

T = TypeVar("T")

errors = Console(stderr=True, highlight=False, soft_wrap=True)
"""Where people read what goes on; standard output is for what was asked for."""

ShowOption = Annotated[
    Path | None, typer.Option("--show", help="Show folder or its show.toml; the demo by default.")
]
StoreOption = Annotated[str | None, typer.Option("--store", help="Where the sets are.")]
LogLevelOption = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option(help="What is logged.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


_WIDE: Final = 200
"""Columns of a table that nobody sees in a terminal."""


def fail(message: str, status: int) -> NoReturn:
    """Say what is wrong and end the program with `status`."""
    errors.print(message, style="red", markup=False)
    raise SystemExit(status)


def token_of(*variables: str) -> str | None:
    """The token that the first of some variables holds, or the file that its ``_FILE`` names.

    None where none of them is set; the end of the program where a file cannot be read.
    """
    for name in variables:
        if token := os.environ.get(name, "").strip():
            return token
        if path := os.environ.get(f"{name}_FILE", "").strip():
            try:
                return Path(path).read_text(encoding="utf-8-sig").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "no text in UTF-8"
                fail(f"{name}_FILE: {path}: {reason}", 2)
    return None


@contextmanager
def reading(option: str) -> Iterator[None]:
    """End the program where the body cannot read what an option says."""
    try:
        yield
    except ValidationError as error:
        fail(f"{option}: {error.errors(include_url=False)[0]['msg']}", 2)
    except ValueError as error:
        fail(f"{option}: {error}", 2)


def load(path: Path | None, *, store: str | None = None, **sections: dict[str, Any]) -> Show:
    """Load a show with what the command line says, or end the program with what is wrong.

    See `load_or_raise`.
    """
    try:
        return load_or_raise(path, store=store, **sections)
    except ShowError as error:
        fail("\n".join(error.problems), 2 if is_wrong_use(error) else 1)


def load_or_raise(
    path: Path | None, *, store: str | None = None, **sections: dict[str, Any]
) -> Show:
    """Load a show with what the command line says; None means it says nothing.

    A store named on the command line is relative to where one stands, not to the show.

    Raises:
        ShowError: with everything that is wrong.
    """
    if store is not None and ":" not in store:
        store = str(Path(store).expanduser().resolve())
    overrides = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in {"store": {"url": store}, **sections}.items()
    }
    show = load_show(path, overrides)
    for remark in show.settings.remarks:
        errors.print(remark, style="yellow", markup=False)
    return show


def is_wrong_use(error: ShowError) -> bool:
    """Whether nothing is wrong but what the command line says."""
    return all(problem.startswith("command line:") for problem in error.problems)


def named_store(show: Show) -> Store:
    """The show's store, or the end of the program with what is wrong with its address."""
    try:
        return store_of(show)
    except BadStoreAddress as error:
        fail(f"[store] url: {error}", 1)


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run what takes long; Ctrl-C ends it cleanly, and the program with status 130."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from here", 130)


def in_store(
    show: Show, work: Callable[[Store], Coroutine[Any, Any, T]], *, resumes: bool = False
) -> T:
    """Run `work` with the show's store open.

    Where the store fails, say which it is, what is wrong, and what helps; the end of the program.
    What `resumes` is helped by the same command.
    """

    async def with_store() -> T:
        async with named_store(show) as store:
            return await work(store)

    try:
        return run_to_end(with_store())
    except (StoreError, FormatError) as error:
        remedy = ""
        if resumes:
            remedy = "\nthe same command goes on from here"
        elif isinstance(error, FormatError) and not isinstance(error, WrongVersion):
            remedy = "\nunderstudy generate reindex makes it anew from the sets"
        fail(f"{named_store(show).url}: {error}{remedy}", 1)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """For people; as wide as it has to be where it goes into a file or another program."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    for row in rows:  # as texts: what people wrote is no markup
        table.add_row(*(Text(str(each)) for each in row))
    console = Console(highlight=False)
    console.print(table, width=None if console.is_terminal else _WIDE, crop=False)


def print_json(document: object) -> None:
    """For other programs."""
    typer.echo(json.dumps(document, ensure_ascii=False, indent=1))
