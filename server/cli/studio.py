"""`understudy studio`: the artist's server, and what is asked of it from a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from cache.stores.urls import BadStoreAddress
from generator.jobs.backup import BackupRefused, backup
from generator.jobs.database import DatabaseError, open_database
from generator.jobs.members import BadMemberName, MemberExists, Members
from server.cli import studio_client
from server.cli.common import JsonOption, LogLevelOption, ShowOption, StoreOption, fail, load
from server.config.show import Show
from server.core.child_process import give_way
from server.core.clock import SystemClock
from server.core.host_process import HostProcess
from server.core.output import output_in_background
from server.network.serving import NotServed, serve_app
from server.studio.app import create_studio, why_not_to_listen
from server.studio.opening import database_url

T = TypeVar("T")

studio = typer.Typer(
    help="The artist's server: ask for pictures, see them drawn, choose.",
    invoke_without_command=True,
)
member = typer.Typer(no_args_is_help=True, help="Who may ask: people and programs with a token.")
studio.add_typer(member, name="member")

PortOption = Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 for any.")]
HostOption = Annotated[str | None, typer.Option(help="Address to listen on.")]


@studio.callback()
def by_default(
    context: typer.Context,
    *,
    show: ShowOption = None,
    host: HostOption = None,
    port: PortOption = None,
    store: StoreOption = None,
    log_level: LogLevelOption = "info",
) -> None:
    """Serve the Studio, unless a command says otherwise."""
    if context.invoked_subcommand is None:
        serve(show=show, host=host, port=port, store=store, log_level=log_level)


@studio.command()
def serve(
    *,
    show: ShowOption = None,
    host: HostOption = None,
    port: PortOption = None,
    store: StoreOption = None,
    log_level: LogLevelOption = "info",
) -> None:
    """Serve the Studio: its pages at /, its requests below /api."""
    with output_in_background():
        loaded = load(show, store=store, studio={"host": host, "port": port})
        _look_before_serving(loaded)
        give_way()
        process = HostProcess.of_this_server()
        app = create_studio(loaded, SystemClock(), process)
        title = f"{loaded.title}, the Studio"
        try:
            serve_app(loaded.settings.studio.server, app, title, process, log_level=log_level)
        except NotServed as error:
            fail(str(error), error.status)


def _look_before_serving(show: Show) -> None:
    """End the program with what keeps a Studio from serving, if something does."""
    try:
        refusal = asyncio.run(why_not_to_listen(show))
    except BadStoreAddress as error:
        fail(f"[store] url: {error}", 1)
    except DatabaseError as error:
        fail(str(error), 1)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", 1)
    if refusal is not None:
        fail(refusal, 2)


# ---------------------------------------------------------------- who may ask


def _with_members(show: Show, work: Callable[[Members], Awaitable[T]]) -> T:
    """Do something with a show's members, or end the program with what is wrong."""

    async def opened() -> T:
        show.state_folder.mkdir(parents=True, exist_ok=True)
        async with open_database(database_url(show)) as database:
            return await work(Members(database))

    try:
        return asyncio.run(opened())
    except (DatabaseError, MemberExists, BadMemberName, LookupError, OSError) as error:
        fail(str(error), 1)


@member.command("add")
def add_member(
    name: Annotated[str, typer.Argument(help="Of a person, or of a program.")],
    *,
    role: Annotated[
        Literal["artist", "client"],
        typer.Option(help="An artist may pause the queue and sees how all went."),
    ] = "artist",
    pictures_a_day: Annotated[
        int | None, typer.Option(min=1, help="Pictures it may ask for in 24 hours.")
    ] = None,
    show: ShowOption = None,
) -> None:
    """Let somebody in; the token is printed once, and kept nowhere in clear."""
    loaded = load(show)
    limit = pictures_a_day or loaded.settings.studio.pictures_a_day
    _, token = _with_members(loaded, lambda members: members.add(name, role, limit))
    typer.echo(token)


@member.command("list")
def list_members(*, show: ShowOption = None, as_json: JsonOption = False) -> None:
    """Who may ask."""
    found = _with_members(load(show), lambda members: members.all())
    if as_json:
        studio_client.print_json([{"name": each.name, "role": each.role} for each in found])
        return
    table = Table("name", "role", "pictures a day", box=None)
    for each in found:
        table.add_row(each.name, each.role, str(each.pictures_a_day or "any number"))
    Console().print(table)


@member.command("token")
def new_token(
    name: Annotated[str, typer.Argument(help="Whose.")], *, show: ShowOption = None
) -> None:
    """Give a member another token; the one before is worth nothing from now on."""
    typer.echo(_with_members(load(show), lambda members: members.renew_token(name)))


@member.command("remove")
def remove_member(
    name: Annotated[str, typer.Argument(help="Who.")], *, show: ShowOption = None
) -> None:
    """Let somebody in no longer; what it asked for stays."""
    _with_members(load(show), lambda members: members.remove(name))


# ---------------------------------------------------------------- what is kept


@studio.command("backup")
def back_up(
    file: Annotated[Path, typer.Argument(help="A new file.")], *, show: ShowOption = None
) -> None:
    """Copy jobs, members, webhooks and all else that only the Studio's database has."""
    try:
        asyncio.run(backup(database_url(load(show)), file))
    except (BackupRefused, DatabaseError, OSError) as error:
        fail(str(error), 1)


studio.command("try")(studio_client.ask)
studio.command("jobs")(studio_client.jobs)
studio.command("cancel")(studio_client.cancel)
studio.command("stats")(studio_client.stats)
