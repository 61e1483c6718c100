"""`understudy studio`: the artist's server, and who may ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cache.stores.urls import BadStoreAddress
from generator.jobs.backup import backup
from generator.jobs.database import DatabaseError, open_database
from generator.jobs.members import BadMemberName, Member, MemberExists, Members, Role
from server.cli import studio_jobs, studio_stats
from server.cli.common import (
    JsonOption,
    LogLevelOption,
    ShowOption,
    StoreOption,
    errors,
    fail,
    load,
    print_json,
    print_table,
)
from server.config.show import Show
from server.core.child_process import give_way
from server.core.clock import SystemClock
from server.core.formatting import size
from server.core.host_process import HostProcess
from server.core.output import output_in_background
from server.network.serving import NotServed, serve_app
from server.studio.app import create_studio, why_not_to_listen
from server.studio.opening import database_url

T = TypeVar("T")

studio = typer.Typer(
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
    """The artist's server: ask for pictures, see them drawn, choose. Alone, it serves."""
    command = context.invoked_subcommand
    if command is None:
        serve(show=show, host=host, port=port, store=store, log_level=log_level)
    elif (show, host, port, store, log_level) != (None, None, None, None, "info"):
        fail(f"options stand behind the command: understudy studio {command} --…", 2)


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
        async with open_database(database_url(show)) as database:
            return await work(Members(database))

    try:
        return asyncio.run(opened())
    except BadMemberName as error:
        fail(str(error), 2)
    except LookupError as error:
        fail(f"{error}: understudy studio member list", 1)
    except MemberExists as error:
        fail(f"{error}: understudy studio member token NAME gives it another token", 1)
    except DatabaseError as error:
        fail(str(error), 1)


@member.command("add")
def add_member(
    name: Annotated[str, typer.Argument(help="Of a person, or of a program.")],
    *,
    role: Annotated[
        Role, typer.Option(help="An artist may pause the queue and sees how all went.")
    ] = "artist",
    pictures_a_day: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures it may ask for in 24 hours; else as show.toml says."),
    ] = None,
    show: ShowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let somebody in; the token is printed once, and kept nowhere in clear."""
    loaded = load(show)
    limit = pictures_a_day or loaded.settings.studio.pictures_a_day

    async def add(members: Members) -> tuple[bool, Member, str]:
        first = not await members.all()
        return first, *await members.add(name, role, limit)

    first, added, token = _with_members(loaded, add)
    if first:
        errors.print("from now on everybody needs a token, on this machine too")
    _print_token(added, token, as_json=as_json)


@member.command("list")
def list_members(*, show: ShowOption = None, as_json: JsonOption = False) -> None:
    """Who may ask."""
    found = _with_members(load(show), lambda members: members.all())
    if as_json:
        print_json([_document(each) for each in found])
    elif found:
        rows = [(each.name, each.role, each.pictures_a_day or "any number") for each in found]
        print_table(("name", "role", "pictures a day"), rows)
    else:
        errors.print("nobody has a token: whoever sits at the machine is the one artist")


@member.command("token")
def new_token(
    name: Annotated[str, typer.Argument(help="Whose.")],
    *,
    show: ShowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a member another token; the one before is worth nothing from now on."""

    async def renew(members: Members) -> tuple[Member, str]:
        token = await members.renew_token(name)
        found = await members.by_token(token)
        if found is None:  # somebody removed it meanwhile
            raise LookupError(f"there is no member {name!r:.80} any more")
        return found, token

    _print_token(*_with_members(load(show), renew), as_json=as_json)


@member.command("remove")
def remove_member(
    name: Annotated[str, typer.Argument(help="Who.")], *, show: ShowOption = None
) -> None:
    """Let somebody in no longer; what it asked for stays, its webhooks end."""

    async def remove(members: Members) -> bool:
        await members.remove(name)
        return not await members.all()

    if _with_members(load(show), remove):
        errors.print("nobody has a token now: whoever sits at the machine is the one artist")


def _document(member: Member) -> dict[str, Any]:
    return {"name": member.name, "role": member.role, "pictures_a_day": member.pictures_a_day}


def _print_token(member: Member, token: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**_document(member), "token": token})
    else:
        typer.echo(token)


# ---------------------------------------------------------------- what is kept


@studio.command("backup")
def back_up(
    file: Annotated[Path, typer.Argument(help="A new file.")],
    *,
    show: ShowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy jobs, members and webhooks, all as of one moment; a Studio may run meanwhile."""
    try:
        copied = asyncio.run(backup(database_url(load(show)), file))
    except DatabaseError as error:
        fail(str(error), 1)
    if as_json:
        print_json({"file": str(file), "bytes": copied})
    else:
        typer.echo(f"{file}: {size(copied)}")


studio.command("try")(studio_jobs.ask)
studio.command("jobs")(studio_jobs.jobs)
studio.command("cancel")(studio_jobs.cancel)
studio.command("retry")(studio_jobs.retry)
studio.command("stats")(studio_stats.stats)
