"""`understudy control`: a technician's commands from a terminal, over the control socket."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect  # noqa: TID251 - given a proxy

from cache.outgoing import has_password, proxy_for, reason_of, redacted
from cache.untrusted import Unfit, decode_answer, decode_message, one_line
from generator.outgoing import MAX_MESSAGE
from generator.sheet.cues import format_time
from server.cli.common import JsonOption, fail, reading, token_of
from server.control.command import ControlCommand, command_help
from server.control.commands import COMMANDS

EPILOG = "\b\n" + command_help(COMMANDS.values())
"""Stands below the help: every command of a technician; its first sign keeps a line for each."""

_PATH = "/ws/control"
_SHOWN = 60
_WRONG_USE = frozenset({"unknown_command", "bad_args"})
_STYLES = {"ok": "green", "degraded": "yellow", "failing": "red"}


def control(
    command: Annotated[str, typer.Argument(help="What to ask for.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Its arguments.")
    ] = None,
    *,
    url: Annotated[str, typer.Option(help="Where the server is.")] = "ws://127.0.0.1:8000",
    name: Annotated[str, typer.Option(help="Who you are, for the log.")] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server for something; the token comes from UNDERSTUDY_OPERATOR_TOKEN."""
    address = _address(url)
    args = arguments_of(COMMANDS.get(command), arguments or [])
    message = {
        "type": "command",
        "id": uuid.uuid4().hex,
        "command": command,
        "args": args,
        "ttl": timeout,
    }
    with _socket(address, timeout) as line:
        hello = {"type": "hello", "protocol": 1, "name": name or f"terminal {socket.gethostname()}"}
        token = token_of("UNDERSTUDY_OPERATOR_TOKEN", "UNDERSTUDY_VIEWER_TOKEN")
        line.send(json.dumps({**hello, "token": token} if token else hello))
        _answer(line, "welcome", timeout)
        line.send(json.dumps(message))
        reply = _answer(line, "reply", timeout)
    if not reply["ok"]:
        error = reply["error"]
        if as_json:
            typer.echo(json.dumps(reply, ensure_ascii=False))
        fail(f"{error['code']}: {error['message']}", 2 if error["code"] in _WRONG_USE else 1)
    if as_json:
        typer.echo(json.dumps(reply["result"], ensure_ascii=False, indent=1))
    else:
        _show(command, reply["result"])


def _address(url: str) -> str:
    schemes = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
    with reading("--url"):
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        host, _ = parts.hostname, parts.port  # a port that is no number is told here
    if parts.scheme not in schemes or not host:
        shown = redacted(url) if has_password(url) else url
        fail(f"--url: expected an address such as ws://10.0.0.5:8000, not {shown!r}", 2)
    path = parts.path.rstrip("/").removesuffix(_PATH) + _PATH  # below a reverse proxy's path, too
    return urlunsplit((schemes[parts.scheme], parts.netloc, path, "", ""))


def arguments_of(command: ControlCommand | None, given: Sequence[str]) -> dict[str, Any]:
    """What is typed as `key=value`, as the command takes it; a server may know others than we."""
    args: dict[str, Any] = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            takes = "" if command is None else f": {command.usage}"
            fail(f"expected key=value, not {argument!r}{takes}", 2)
        is_text = command is not None and key in command.fields and key not in command.numbers
        args[key] = value if is_text else _value(value)
    return args


def _value(text: str) -> Any:  # noqa: ANN401 - a JSON value; the server knows what it wants
    """A number or a truth value where it looks like one, else the text itself."""
    try:
        value = decode_message(text)
    except Unfit:  # such as NaN, which is no number: the server says what it wants instead
        return text
    return value if isinstance(value, (bool, int, float)) else text


@contextmanager
def _socket(address: str, timeout: float) -> Iterator[ClientConnection]:
    try:
        with connect(
            address,
            open_timeout=timeout,
            close_timeout=1,
            max_size=MAX_MESSAGE,
            compression=None,
            proxy=proxy_for(address),  # none for this machine and those near it
        ) as line:
            yield line
    except InvalidURI as error:
        fail(f"--url: {reason_of(error, address)}", 2)
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or str(error) or f"no answer in {timeout:g} s"
        fail(f"{redacted(address)}: {reason}", 1)
    except InvalidHandshake as error:
        fail(f"{redacted(address)}: no control socket there: {error}", 1)
    except ConnectionClosed as error:
        fail(f"{redacted(address)}: the server closed the line: {error}", 1)


def _answer(line: ClientConnection, kind: str, timeout: float) -> dict[str, Any]:
    """The next message of a kind; the server's refusal ends the program."""
    while True:
        heard = line.recv(timeout)
        try:
            message = decode_answer(heard)
        except Unfit:
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            fail(f"no server of ours there: it says {one_line(str(heard), _SHOWN)!r}", 1)
        if message["type"] == kind:
            return message
        if message["type"] == "error" and message.get("code") == "unauthorized":
            fail("unauthorized: this server wants a token of its own: UNDERSTUDY_OPERATOR_TOKEN", 1)
        if message["type"] == "error":
            fail(f"{message.get('code')}: {message.get('message')}", 1)


# ---------------------------------------------------------------- for people
# Of an older or a newer server too: what one of them may not tell is asked for with `get`.


def _show(command: str, result: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    match command:
        case "state":
            _show_state(console, result)
        case "screens":
            console.print(_screens(result["screens"]))
        case "cues":
            console.print(_cues(result["cues"]))
        case "asrun":
            console.print(_runs(result["rows"], _zone_of(result)))
        case "log":
            console.print(_log(result["commands"], _zone_of(result)))
        case _ if "status" in result and "on_schedule" in result:
            console.print(_where(result))
        case _:
            for key, value in result.items():
                plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                console.print(f"{key}: {plain}", markup=False)


def _where(result: Mapping[str, Any]) -> Text:
    words = [result["time"] or result["status"]]
    words.append("on schedule" if result["on_schedule"] else "off schedule")
    if result["paused"]:
        words.append("paused")
    if result.get("panic"):
        words.append("PANIC: the wall is black")
    if result.get("kept") is False:
        words.append(f"NOT KEPT, a restart forgets it: {result.get('not_kept')}")
    return Text(" · ".join(words))


def _show_state(console: Console, state: Mapping[str, Any]) -> None:
    screening, health, now = state["screening"], state["health"], state["now"]
    title = Text(state["show"]["title"], style="bold")
    if state["activation"] != "show":
        title.append("  REHEARSAL", style="bold reverse yellow")
    if state.get("panic"):
        title.append(f"  PANIC by {state['panic']['by']}: the wall is black", style="bold red")
    console.print(title)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    where = Text(state["position_text"] or screening["status"])
    if not screening["on_schedule"]:
        where.append("  off schedule", style="yellow")
    if screening["paused"]:
        where.append("  paused", style="yellow")
    if state["position"] is None and screening["next"] is not None:
        wait = max(0.0, screening["next"] - state["server_time"])
        where.append(f"  next screening in {format_time(int(wait))}")
        if screening.get("next_local"):
            at = datetime.fromisoformat(screening["next_local"])
            where.append(f", {at:%a %d %b %H:%M} {_zone_name(_zone_of(state))}", style="dim")
    facts.add_row("position", where)
    facts.add_row("now", _now(now))
    standby = state["standby"]
    if standby:
        ready = "ready" if standby["ready"] else "NOT READY"
        text = Text(f"{standby['time']}  {standby.get('cue') or standby['action']}  {ready}")
        text.append(f"  {standby.get('prompt') or standby.get('text') or ''}", style="dim")
        facts.add_row("next", text)
    facts.add_row("mode", _mode(state["mode"]))
    for engine in state.get("engines") or ():
        reason = f": {engine['reason']}" if engine.get("reason") else ""
        facts.add_row("engine", Text(f"{engine['name']}  {engine.get('state', '')}{reason}"))
    coverage = state["coverage"]
    facts.add_row("sets", Text(f"{coverage['with_sets']} of {coverage['actions']} cues have sets"))
    facts.add_row(
        "health",
        Text(f"{health['level']}: {health['reason']}", style=_STYLES.get(health["level"], "")),
    )
    for each in health.get("conditions") or ():
        if each["message"] != health["reason"]:
            style = _STYLES.get(each["level"], "dim")
            facts.add_row("", Text(f"{each['level']}: {each['message']}", style=style))
    console.print(facts)
    console.print(_screens(state["screens"]))


def _now(now: Mapping[str, Any] | None) -> Text:
    if now is None:
        return Text("nothing")
    step = now["outcome"] or f"step {now['step']} of {now['steps']}"
    text = Text(f"{now['cue']}  {step}  {now['provider']}")
    if now["set_id"] is not None:
        text.append(f" set {now['set_id']}")
    elif now["engine"]:
        text.append(f" {now['engine']}")
    text.append(f"  {now['prompt']}", style="dim")
    return text


def _mode(mode: Mapping[str, Any]) -> Text:
    text = Text(mode["effective"], style="bold")
    if mode.get("forced"):
        text.append(f"  forced by {mode.get('by')}", style="yellow")
        if mode.get("until") is not None:
            text.append(f" until {mode['until']}", style="yellow")
    if mode.get("reason"):
        text.append(f"  {mode['reason']}", style="dim")
    return text


def _screens(screens: list[Mapping[str, Any]]) -> Table | Text:
    if not screens:
        return Text("no screen is connected", style="yellow")
    rows = []
    for screen in screens:
        age, trouble = screen.get("painted_age"), screen.get("trouble")
        painted = "nothing yet" if age is None else f"{age:.1f} s ago"
        said = trouble.removeprefix(f"{screen['screen']}: ") if trouble else painted
        rows.append((screen["screen"], Text(said, style="yellow" if trouble else "")))
    return _table(("screen", "last painted"), rows)


def _cues(cues: list[Mapping[str, Any]]) -> Table:
    rows = (
        (
            cue["index"],
            cue["time"],
            cue.get("cue", ""),
            cue["action"],
            cue.get("sets", ""),
            cue.get("text", ""),
        )
        for cue in cues
    )
    return _table(("#", "time", "cue", "", "sets", "text"), rows)


def _runs(rows: list[Mapping[str, Any]], zone: tzinfo | None) -> Table:
    lines = (
        (
            _time_of_day(row["started_wall"], zone),
            row["action_id"],
            row["mode"],
            row["provider"] + ("" if row["set_id"] is None else f" set {row['set_id']}"),
            row["outcome"] or "playing",
            row["why"],
        )
        for row in rows
    )
    return _table(
        (f"started {_zone_name(zone)}".strip(), "cue", "mode", "from", "outcome", "why"), lines
    )


def _log(commands: list[Mapping[str, Any]], zone: tzinfo | None) -> Table:
    lines = (
        (
            _time_of_day(entry["at"], zone),
            entry["sender"],
            " ".join([entry["command"], *(f"{k}={v}" for k, v in entry["args"].items())]),
            entry["code"] or "ok",
        )
        for entry in commands
    )
    return _table((f"at {_zone_name(zone)}".strip(), "who", "what", ""), lines)


def _table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:  # as texts: names of people and pictures are no markup
        table.add_row(*(each if isinstance(each, Text) else Text(str(each)) for each in row))
    return table


def _zone_of(result: Mapping[str, Any]) -> tzinfo | None:
    """The show's time zone, as the server tells it; None for this terminal's own."""
    zone = result.get("zone")
    if zone is None:
        return None
    with suppress(KeyError, ValueError, OSError, TypeError):
        return ZoneInfo(zone["name"])
    return timezone(timedelta(seconds=zone["utc_offset"]))


def _zone_name(zone: tzinfo | None) -> str:
    return "" if zone is None else f"({zone})"


def _time_of_day(unix: float, zone: tzinfo | None) -> str:
    try:
        return f"{datetime.fromtimestamp(unix, zone):%H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "?"  # a clock that far off names no hour
