"""A control command: declared once, as one function, from which everything else follows.

    class ShowCommands:
        @command("seek")
        async def seek(self, args: SeekArguments) -> Result: ...

The function may take `args`, annotated with the model that the arguments are read into, and
`caller`; its docstring is the help. From that the dispatcher, HTTP and the terminal know what
the command takes and who may give it, and so do the help and the tables in `docs/control.md`.
OSC has no names for arguments: there they stand in the order of the model's fields.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from server.core.refusal import Refused
from server.network.access import Role

Result = dict[str, Any]
"""What a command answers, as JSON values."""

CODES: Final[Mapping[str, tuple[int, str]]] = {
    "unauthorized": (401, "no token of ours"),
    "forbidden": (403, "not with that token"),
    "unknown_command": (404, "no such word"),
    "bad_args": (400, "not with these arguments"),
    "unknown_cue": (404, "none of that name"),
    "unknown_screen": (404, "none of that name is connected"),
    "unknown_engine": (409, "none of that name may draw live"),
    "too_soon": (429, "a `go` within `min_go` (0.5 s) of the last"),
    "expired": (410, "after its `ttl`"),
    "id_reused": (422, "the id was another command's"),
    "panicked": (409, "not while the wall is black"),
    "not_panicked": (409, "there is nothing to restore"),
    "not_active": (409, "no screening is on"),
    "not_paused": (409, "the show is not paused"),
    "no_standby": (409, "no cue is left to fire"),
    "no_such_cue": (409, "there is no next, or no previous one"),
    "out_of_range": (409, "not within the show"),
    "nothing_drawn": (409, "there is no picture to draw"),
    "rehearsing": (409, "one at a time"),
    "not_rehearsing": (409, "there is none to break off"),
    "screen_connected": (409, "it cannot be forgotten: it is there"),
    "screen_named": (409, "it cannot be forgotten: it stands in `show.toml`"),
    "unknown_failure": (404, "nothing of that name can be made to fail"),
    "store_unavailable": (503, "the store does not answer; what was known of it stays"),
    "no_report": (404, "nothing has been rehearsed yet"),
    "busy": (409, "32 commands of one client are not answered yet"),
    "interrupted": (409, "its caller went away while it was carried out"),
    "internal": (500, "our mistake; the log has it"),
}
"""Every code that a command may be refused with: its status over HTTP, and why not."""


class CommandError(Refused):
    """A command that was not carried out; `code` is out of `CODES`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who gives a command.

    Attributes:
        role: what they may.
        name: who they are, for logs and for other people: ``http 10.0.0.7 (operator)``.
    """

    role: Role
    name: str


class Arguments(BaseModel):
    """What a command takes. A field's description says what is expected of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class ControlCommand:
    """A declared command.

    Attributes:
        name: as it is given.
        viewers: whether it changes nothing, so that a viewer may give it.
        function: what it means; a method of a group of commands.
    """

    name: str
    viewers: bool
    function: Callable[..., Awaitable[Result]]

    @property
    def summary(self) -> str:
        """What it does."""
        return " ".join((self.function.__doc__ or "").split())

    @cached_property
    def arguments(self) -> type[BaseModel]:
        """The model of its arguments."""
        found: type[BaseModel] = get_type_hints(self.function).get("args", Arguments)
        return found

    @cached_property
    def fields(self) -> Mapping[str, FieldInfo]:
        """Its arguments by their names, in the order in which they may stand without."""
        fields = self.arguments.model_fields
        return {field.alias or name: field for name, field in fields.items()}

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Its arguments that may be numbers or truth values."""
        properties = self.arguments.model_json_schema().get("properties", {})
        kinds = {
            name: {each.get("type") for each in (schema, *schema.get("anyOf", ()))}
            for name, schema in properties.items()
        }
        return frozenset(name for name in kinds if kinds[name] & {"number", "integer", "boolean"})

    @property
    def takes_number(self) -> bool:
        """Whether a single number is its argument: seconds, or how many; else it is a button."""
        return len(self.fields) == 1 and bool(self.numbers)

    @property
    def usage(self) -> str:
        """What it takes, for one who gave it something else."""
        names = ", ".join(f"{name}=…" for name in self.fields)
        return f"{self.name} takes {names or 'no arguments'}"

    async def carry_out(self, group: object, given: Mapping[str, Any], caller: Caller) -> Result:
        """Read the arguments, and do what the command means.

        Raises:
            CommandError: `bad_args`, or why the function refuses.
        """
        known = {"args": self.read(given), "caller": caller}
        takes = inspect.signature(self.function).parameters
        return await self.function(group, **{name: known[name] for name in known if name in takes})

    def read(self, given: Mapping[str, Any]) -> BaseModel:
        """The arguments as the model has them.

        Raises:
            CommandError: `bad_args`, with the argument and what was expected.
        """
        try:
            return self.arguments.model_validate(given)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            # A name that is not known first: it may be why another is missing.
            problems.sort(key=lambda each: each["type"] != "extra_forbidden")
            raise CommandError("bad_args", self._expected(problems[0])) from None

    def _expected(self, problem: ErrorDetails) -> str:
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:  # several of them together
            return message
        name, kind = str(problem["loc"][0]), problem["type"]
        if kind == "extra_forbidden":
            takes = ", ".join(self.fields) or "no arguments"
            return f"unknown argument {name!r:.40}: it takes {takes}"
        described = self.fields[name].description
        if described is None or kind == "value_error":
            return f"{name}: {message[:1].lower()}{message[1:]}"
        found = "" if kind == "missing" else f", not {problem['input']!r:.40}"
        return f"{name}: expected {described}{found}"


def command(
    name: str, *, viewers: bool = False
) -> Callable[[Callable[..., Awaitable[Result]]], ControlCommand]:
    """Declare a method as a command; see `ControlCommand`."""
    return lambda function: ControlCommand(name, viewers, function)


def commands_of(group: type) -> tuple[ControlCommand, ...]:
    """The commands that a class declares, in their order."""
    return tuple(each for each in vars(group).values() if isinstance(each, ControlCommand))


def command_help(commands: Iterable[ControlCommand]) -> str:
    """Every command with its arguments and what it does, for a terminal."""
    return "\n".join(" ".join([each.name, *each.fields]) + f": {each.summary}" for each in commands)


def kept_or_not(why_not: str | None) -> Result:
    """Whether what a command did survives a restart, for its result: `kept`, and why not."""
    return {"kept": True} if why_not is None else {"kept": False, "not_kept": why_not}
