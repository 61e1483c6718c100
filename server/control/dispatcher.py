"""The one dispatcher for everything a technician can ask, however it arrives.

Adapters (the control socket, HTTP, OSC, through the first a terminal) find out who speaks
and pass on a command's name and arguments; every caller hears the outcome. What the words
mean is declared in `server/control/commands/`.

What is promised here holds for all of them: a command whose time is over is not carried
out, the same id twice takes effect once, and who asked for what is written down.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog
from cachetools import TTLCache

from cache.untrusted import clean_text, mended
from server.control.command import Caller, CommandError, ControlCommand, commands_of
from server.control.contract import CommandState
from server.core.clock import Clock
from server.core.refusal import Refused
from server.network.access import Role

_log = structlog.get_logger(__name__)

REMEMBERED = 600.0
"""Seconds for which the reply to an id is kept, for those who did not hear it."""

MAX_ID = 128
"""Characters of a command's id: thousands of them are remembered."""

_MOST_REMEMBERED = 4096
_LOGGED = 200
_MOST_EXACT = 2**53

Args = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Envelope:
    """How a command is to be taken.

    Attributes:
        id: the caller's own name for this one command; sent again, it takes effect once.
        ttl: seconds after which it is worth nothing any more; None for never.
        sent_at: steady time at which it was given; what came by itself came now.
    """

    id: str | None = None
    ttl: float | None = None
    sent_at: float | None = None

    def too_old(self, now: float) -> bool:
        """Whether its time is over."""
        if self.ttl is None:
            return False
        age = 0.0 if self.sent_at is None else max(0.0, now - self.sent_at)
        return age >= self.ttl


class CommandLog:
    """The commands of late, newest first; the whole log is the server's."""

    def __init__(self) -> None:
        self.entries: deque[CommandState] = deque(maxlen=_LOGGED)
        self._count = 0

    def add(
        self, at: float, caller: Caller, command: str, args: Args, problem: CommandError | None
    ) -> None:
        """Write one down, and why it was not carried out, where it was not."""
        self._count += 1
        self.entries.appendleft(
            {
                "number": self._count,
                "at": round(at, 3),
                "sender": caller.name,
                "role": caller.role,
                "command": f"{command:.60}",
                "args": _shortened(args),
                "ok": problem is None,
                "code": problem.code if problem else None,
                "message": str(problem) if problem else None,
            }
        )

    def newest(self, limit: int) -> list[CommandState]:
        """The last `limit` of them, newest first."""
        return list(islice(self.entries, limit))


@dataclass(frozen=True, slots=True)
class _Once:
    """A command that was given under an id, and the outcome, as soon as there is one."""

    command: str
    args: str
    outcome: asyncio.Future[dict[str, Any] | CommandError]


class Dispatcher:
    """Carries out commands.

    Args:
        groups: who carries them out; no two declare the same one.
        clock: what their age is measured by.
        log: where they are written down.
        changed: called after each command that may have changed something.

    Attributes:
        commands: what may be asked, by name.
    """

    def __init__(
        self,
        groups: Iterable[object],
        clock: Clock,
        log: CommandLog | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._groups: dict[str, object] = {}
        commands: dict[str, ControlCommand] = {}
        for group in groups:
            for each in commands_of(type(group)):
                if each.name in commands:
                    raise ValueError(f"two groups declare the command {each.name!r}")
                commands[each.name], self._groups[each.name] = each, group
        self.commands: Mapping[str, ControlCommand] = commands
        self._clock = clock
        self._log = log if log is not None else CommandLog()
        self.changed = changed
        self._once: MutableMapping[tuple[str, str], _Once] = TTLCache(
            _MOST_REMEMBERED, REMEMBERED, timer=clock.now
        )

    def open_to(self, role: Role) -> list[str]:
        """What somebody of that role may ask."""
        return [each.name for each in self.commands.values() if role == "operator" or each.viewers]

    async def dispatch(
        self, command: str, args: Args, caller: Caller, envelope: Envelope | None = None
    ) -> dict[str, Any]:
        """Carry out `command` for `caller`.

        Raises:
            CommandError: it was not carried out, and why.
        """
        envelope = envelope or Envelope()
        # The adapters' borders have cleaned them; here pass those of every adapter, of OSC and of
        # whoever comes next as well, so that the command log and the state can always be told.
        command = clean_text(command)
        args = mended({name: value for name, value in args.items() if value is not None})
        known = self.commands.get(command)
        # What is refused anyway is not remembered: nobody may fill the memory with it.
        if envelope.id is None or known is None or known.viewers or caller.role != "operator":
            return await self._carry_out(command, args, caller, envelope)
        key = caller.name, envelope.id
        # Its hash: thousands of them are remembered, and each may be as long as a message.
        given = hashlib.sha256(json.dumps(args, sort_keys=True).encode()).hexdigest()
        before = self._once.get(key)
        if before is not None:
            if (before.command, before.args) != (command, given):
                message = f"the id {envelope.id!r:.40} was another command's; give each its own"
                raise CommandError("id_reused", message)
            return _raise_or_return(await asyncio.shield(before.outcome))
        once = _Once(command, given, asyncio.get_running_loop().create_future())
        self._once[key] = once
        outcome: dict[str, Any] | CommandError = CommandError(
            "interrupted", "its caller went away while it was carried out"
        )
        try:
            outcome = await self._carry_out(command, args, caller, envelope)
        except CommandError as error:
            outcome = error
        finally:
            once.outcome.set_result(outcome)
        return _raise_or_return(outcome)

    async def _carry_out(
        self, command: str, args: Args, caller: Caller, envelope: Envelope
    ) -> dict[str, Any]:
        problem: CommandError | None = None
        result: dict[str, Any] = {}
        try:
            allowed = self._allowed(command, args, caller, envelope)
            result = await allowed.carry_out(self._groups[command], args, caller)
        except Refused as error:  # of the command, or of whoever was to do it
            problem = CommandError(error.code, str(error))
        except Exception:  # noqa: BLE001 - a command that breaks must not take its adapter along
            _log.exception("command_failed", command=command, sender=caller.name)
            problem = CommandError("internal", f"{command} failed; the server's log says why")
        if problem is None and self.commands[command].viewers:
            return result
        self._log.add(self._clock.wall(), caller, command, args, problem)
        note: dict[str, Any] = {"ok": True} if problem is None else {"ok": False}
        if problem is not None:
            note["code"] = problem.code
        _log.info("command", command=command, args=_shortened(args), sender=caller.name, **note)
        self.changed()
        if problem is not None:
            raise problem
        return result

    def _allowed(
        self, command: str, args: Args, caller: Caller, envelope: Envelope
    ) -> ControlCommand:
        known = self.commands.get(command)
        if known is None:
            names = ", ".join(sorted(self.commands))
            raise CommandError("unknown_command", f"unknown command {command!r:.40}: try {names}")
        if caller.role != "operator" and not known.viewers:
            raise CommandError("forbidden", f"{command} needs the operator's token")
        if envelope.too_old(self._clock.now()):
            raise CommandError("expired", f"{command} came after its ttl of {envelope.ttl:g} s")
        if None in args.values():
            # Never taken for one that is not there: a `go` to such a cue is not a `go`.
            raise CommandError("bad_args", "expected numbers that are finite and within 64 bits")
        return known


def _raise_or_return(outcome: dict[str, Any] | CommandError) -> dict[str, Any]:
    if isinstance(outcome, CommandError):
        # Another one each time: an exception that is raised twice grows its traceback.
        raise CommandError(outcome.code, str(outcome))
    return outcome


def _shortened(args: Args) -> dict[str, Any]:
    """Arguments for the log, as JSON values: the beginning of what is long."""
    return {f"{name:.40}": _short(value) for name, value in list(args.items())[:12]}


def _short(value: object) -> Any:  # noqa: ANN401 - a JSON value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and abs(value) < _MOST_EXACT:  # false for NaN
        return value
    return f"{value!s:.200}"
