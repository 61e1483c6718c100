"""The command line, also as `python -m server`.

Exit status: 0 well, 1 problems found, 2 wrong use.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

import cache
import generator
import server
from server.core.output import occupy_standard_descriptors, unwritten_output

if TYPE_CHECKING:  # typer has no public name for what its groups are made of
    from typer._click.core import Command, Context

COMMANDS: Final[Mapping[str, str]] = {
    "serve": "server.cli.serve:serve",
    "asrun": "server.cli.asrun:asrun",
    "control": "server.cli.control:control",
    "rehearse": "server.cli.rehearse:rehearse_show",
    "worker": "server.cli.worker:worker",
    "pull": "server.cli.pull:pull_store",
    "generate": "server.cli.generate:generate",
    "studio": "server.cli.studio:studio",
}
"""Every command, and the function or group that it is. One is imported when it is asked for:
a server that starts does not wait for what draws or rehearses."""

_OURS: Final = frozenset({"cache", "generator", "server"})
EXTRAS: Final[Mapping[str, str]] = {"studio": "studio"}
"""The extra that a command needs, for those that need one."""


class _CommandsByName(TyperGroup):
    """Finds a command by `COMMANDS`."""

    def list_commands(self, ctx: Context) -> list[str]:
        """All of them, as they stand in the help."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """The command of that name, imported now."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        name, _, attribute = COMMANDS[cmd_name].partition(":")
        try:
            module = _loaded(name)
        except ModuleNotFoundError as error:
            if cmd_name not in EXTRAS or (error.name or "").partition(".")[0] in _OURS:
                raise
            return _not_installed(cmd_name, str(error.name))
        found = getattr(module, attribute)
        if isinstance(found, typer.Typer):
            group = get_group(found)
            group.name = cmd_name
            return group
        single = typer.Typer(add_completion=False)
        single.command(name=cmd_name, epilog=getattr(module, "EPILOG", None))(found)
        return get_command(single)


def _not_installed(command: str, package: str) -> Command:
    """What stands for a command whose extra is not installed: it says so, whatever it is given."""
    extra = f"pip install 'understudy[{EXTRAS[command]}]'"
    single = typer.Typer(add_completion=False)
    anything = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

    told = f"Not installed: make {command} installs it."

    @single.command(name=command, help=told, context_settings=anything)
    def say_so() -> None:
        _fail(f"understudy {command} needs {package}, which is not installed: {extra}", 2)

    return get_command(single)


def _loaded(name: str) -> ModuleType:
    """A module, with all that it imports.

    What that defines stays for good, so nobody looks through it for garbage: not meanwhile, which
    would be a tenth of a start, and not later, while the show plays.
    """
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()


app = typer.Typer(
    name="understudy",
    cls=_CommandsByName,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"understudy {server.__version__}")
        raise typer.Exit


@app.callback()
def understudy(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, and end."
        ),
    ] = False,
) -> None:
    """Exhibition playback for AI-image pieces."""
    del version  # its callback has said it


def main(args: Sequence[str] | None = None) -> None:
    """Run the program."""
    occupy_standard_descriptors()
    _check_packages()
    _print_what_can_be()
    try:
        app(args=list(args) if args is not None else None, prog_name="understudy")
    except (OSError, SystemExit) as ended:
        # Much of what was said is written only now; on a full disk, it is not.
        if (reason := unwritten_output(ended)) is not None:
            _fail(f"output cannot be written: {reason}", 1)
        raise


def _fail(message: str, status: int) -> NoReturn:
    from server.cli.common import fail  # noqa: PLC0415 - it loads the settings, and what they need

    fail(message, status)


def _print_what_can_be() -> None:
    """Write what a terminal has no character for as its number; it is no reason to end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors in {"strict", "surrogateescape"}:
            stream.reconfigure(errors="backslashreplace")


def _check_packages() -> None:
    """Our package names are common: make sure that all three are this checkout's."""
    here = Path(__file__).resolve().parents[2]
    for package in (cache, generator):
        found = Path(package.__file__ or "").resolve().parent.parent
        if found != here:
            _fail(
                f"another package is in the way: expected {package.__name__} in {here}, found it "
                f"in {found}; run Understudy from an environment of its own (make run makes one)",
                2,
            )
