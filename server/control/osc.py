"""OSC over UDP: the same commands for show controllers, TouchOSC and lighting desks.

``/understudy/mode/force static`` is the command `mode.force` with its first argument; what
follows a command in the address is an argument too (``/understudy/mode/force/static``), for
buttons that can send nothing but that they were pressed. What such a button sends is known
from `server/control/buttons.py`. The reply goes to where the message came from:
``/understudy/reply <command> <"ok" or a code> <JSON or a message>``.

OSC knows neither tokens nor sessions, so who may is decided by the address a message comes
from: this machine alone, or those that the settings list. Nothing is answered to anybody else.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, cast

import structlog
from pythonosc.osc_message import OscMessage, ParseError
from pythonosc.osc_message_builder import OscMessageBuilder

from cache.encoding import json_text
from cache.tasks import cancel_and_wait
from cache.untrusted import clean_text, mended
from server.config.sections import ServerSection
from server.control.buttons import RELEASED, Button, as_number, button
from server.control.command import Caller, CommandError, ControlCommand
from server.control.dispatcher import Dispatcher
from server.core.metrics import Metrics

_log = structlog.get_logger(__name__)

ROOT = "/understudy/"
REPLY = "/understudy/reply"

_LOOPBACK = ("127.0.0.0/8", "::1")
_MOST_AT_ONCE = 64
_MOST_MESSAGES = 32
_LONGEST_REPLY = 1400
"""Bytes: what one packet of a common network carries."""

_BUNDLE = b"#bundle\0"
_SIZE = struct.Struct(">i")
_DEEPEST = 4
_KNOWN = b"ihfdsrmbtTFN[]"
_AS_KNOWN = bytes.maketrans(b"IS", b"Ns")
"""An impulse is nothing but the message itself; a symbol is a string."""


class BadDatagram(Exception):
    """Bytes that are no OSC."""


@dataclass(frozen=True, slots=True)
class OscCommand:
    """A command as OSC asked for it; where its button was `released`, nothing is to be done."""

    command: str
    args: dict[str, Any]
    released: bool = False


def messages_of(datagram: bytes, depth: int = 0) -> Iterator[tuple[str, list[Any]]]:
    """Address and arguments of every message in a datagram, be it a bundle (pure).

    Raises:
        BadDatagram: it is no OSC.
    """
    if not datagram.startswith(_BUNDLE):
        try:
            message = OscMessage(_readable(datagram))
            yield message.address, list(message.params)
        except (
            ParseError,
            ValueError,
            IndexError,
            TypeError,
            OverflowError,
            struct.error,
        ) as error:
            raise BadDatagram(f"no OSC message: {error}") from error
        return
    if depth >= _DEEPEST:
        raise BadDatagram(f"bundles in bundles, more than {_DEEPEST} deep")
    at = len(_BUNDLE) + 8  # its time tag: what a technician asks for is meant now
    while at < len(datagram):
        try:
            (size,) = _SIZE.unpack_from(datagram, at)
        except struct.error as error:
            raise BadDatagram("a bundle that is cut short") from error
        at += _SIZE.size
        if size <= 0 or at + size > len(datagram):
            raise BadDatagram("a bundle whose parts do not fit")
        yield from messages_of(datagram[at : at + size], depth + 1)
        at += size


def _readable(datagram: bytes) -> bytes:
    """The same message in types that our decoder knows; each has as many bytes as before.

    Raises:
        BadDatagram: it has others, after which nothing could be read rightly.
        ValueError: it is no OSC.
    """
    at = (datagram.index(b"\0") // 4 + 1) * 4
    if datagram[at : at + 1] != b",":
        return datagram
    end = datagram.index(b"\0", at)
    types = datagram[at + 1 : end].translate(_AS_KNOWN)
    strange = types.translate(None, _KNOWN)
    if strange:
        raise BadDatagram(f"a value of type {strange[:1].decode('latin-1')!r}")
    return datagram[: at + 1] + types + datagram[end:]


def understand(
    address: str, params: Sequence[Any], commands: Mapping[str, ControlCommand]
) -> OscCommand:
    """The command that a message means (pure).

    Raises:
        CommandError: `unknown_command` or `bad_args`.
    """
    parts = address.removeprefix(ROOT).split("/") if address.startswith(ROOT) else []
    for length in range(len(parts), 0, -1):
        command = commands.get(".".join(parts[:length]))
        if command is not None:
            break
    else:
        known = ", ".join(ROOT + name.replace(".", "/") for name in sorted(commands))
        raise CommandError("unknown_command", f"unknown address {address!r:.60}: try {known}")
    names = list(command.fields)
    given: list[Any] = [*parts[length:], *params]
    pressed = _button_in(command, parts[length:], params)
    if pressed is not None:
        given.pop()
    while given and (given[-1] is None or given[-1] == ""):
        given.pop()  # nothing, however it is said: Nil, an impulse, an empty text
    if len(given) > len(names):
        takes = " ".join(names) or "no arguments"
        raise CommandError("bad_args", f"{command.name} takes {takes}, not {len(given)} arguments")
    args = {name: _plain(value) for name, value in zip(names, given, strict=False)}
    return OscCommand(
        command.name,
        {name: value for name, value in args.items() if value is not None},
        released=pressed == "released",
    )


def _button_in(
    command: ControlCommand, in_address: Sequence[str], params: Sequence[Any]
) -> Button | None:
    """What the last value says of a button; None where it is an argument, or there is none.

    Raises:
        CommandError: `bad_args`, for a number of which it cannot be told which of both it is.
    """
    names, alone = list(command.fields), len(params) == 1 and not in_address
    if not params or (alone and command.takes_number):
        return None
    last, number = params[-1], as_number(params[-1])
    if not names:
        # A panic must not be refused for what a button sends beside it, be it written out.
        return button(last) if alone else None
    if number is None or isinstance(last, str):
        return None  # text names something
    place = len(in_address) + len(params) - 1
    if number not in {0.0, 1.0} and place < len(names) and names[place] == "cue":
        where = f"{ROOT}{command.name.replace('.', '/')}/{last}" if not place else "text"
        raise CommandError(
            "bad_args",
            f"a number is a button: 1 pressed, 0 let go, not {last!r:.40}; a cue is named by "
            f"text or in the address, such as {where}",
        )
    return button(last) if number in {0.0, 1.0} else None


def _plain(value: object) -> Any:  # noqa: ANN401 - a JSON value; commands check what they take
    if value == "" or value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, (str, bool, int, float)):
        return mended(value)
    raise CommandError("bad_args", f"expected text or a number, not {type(value).__name__}")


class OscNotHeard(Exception):
    """Nothing can be heard at the moment; the message names the place and the reason."""


def reply_to(command: str, code: str, text: str) -> bytes:
    """The datagram that says what became of a command (pure)."""
    builder = OscMessageBuilder(address=REPLY)
    for argument in (command, code, text):
        # Its strings end at a zero byte.
        builder.add_arg(clean_text(argument), builder.ARG_TYPE_STRING)
    datagram: bytes = builder.build().dgram
    return datagram


def _in_a_packet(result: Mapping[str, Any]) -> str:
    """A result in one packet; of one that is longer, whether it is kept: ask over HTTP for more."""
    text = json_text(result, place="osc")
    if len(text.encode()) <= _LONGEST_REPLY:
        return text
    return json_text(
        {key: result[key] for key in ("kept", "not_kept") if key in result}, place="osc"
    )


class OscEndpoint(asyncio.DatagramProtocol):
    """Takes datagrams, carries out what they ask for, and replies.

    `senders` are addresses and networks that may operate; empty for loopback alone.
    """

    def __init__(self, dispatcher: Dispatcher, senders: Sequence[str], metrics: Metrics) -> None:
        self._dispatcher = dispatcher
        self._senders = [ip_network(sender, strict=False) for sender in senders or _LOOPBACK]
        self._metrics = metrics
        self._transport: asyncio.DatagramTransport | None = None
        self._at_work: set[asyncio.Task[None]] = set()
        self._refused: set[str] = set()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Listening."""
        # No loop's datagram transports say by their class that they are any.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Its socket is gone: nothing is heard any more."""
        if exc is not None:
            _log.warning("osc_socket_lost", reason=str(exc))
        self.lost.set()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """One datagram."""
        host = str(addr[0])
        if not self._may(host):
            self._refuse("forbidden", host, "not among osc_senders")
            return
        try:
            for number, (address, params) in enumerate(messages_of(data)):
                if number >= _MOST_MESSAGES or len(self._at_work) >= _MOST_AT_ONCE:
                    self._refuse("busy", host, "too many messages at once")
                    return
                task = asyncio.create_task(self._carry_out(address, params, addr), name="osc")
                self._at_work.add(task)
                task.add_done_callback(self._at_work.discard)
        except BadDatagram as error:
            self._refuse("malformed", host, str(error))

    def error_received(self, exc: Exception) -> None:
        """A reply could not be delivered: nobody listens there."""
        _log.debug("osc_reply_lost", reason=str(exc))

    async def aclose(self) -> None:
        """Stop listening, and end what is being carried out."""
        if self._transport is not None:
            self._transport.close()
        await cancel_and_wait(*self._at_work)

    def _may(self, host: str) -> bool:
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._senders)

    async def _carry_out(
        self, address: str, params: Sequence[Any], sender: tuple[Any, ...]
    ) -> None:
        name = address.removeprefix(ROOT).replace("/", ".")
        try:
            asked = understand(address, params, self._dispatcher.commands)
            name = asked.command
            if asked.released:
                self._reply(sender, name, "ok", json_text(RELEASED, place="osc"))
                return
            caller = Caller("operator", f"osc {sender[0]} (operator)")
            result = await self._dispatcher.dispatch(asked.command, asked.args, caller)
            self._reply(sender, name, "ok", _in_a_packet(result))
        except CommandError as error:
            self._reply(sender, name, error.code, str(error))
        except Exception:  # noqa: BLE001 - every caller hears the outcome
            _log.exception("command_failed", command=name, sender=str(sender[0]))
            self._reply(sender, name, "internal", f"{name} failed; the server's log says why")

    def _reply(self, sender: tuple[Any, ...], command: str, code: str, text: str) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        text = text.encode()[:_LONGEST_REPLY].decode(errors="ignore")
        self._transport.sendto(reply_to(f"{command:.60}", code, text), sender)

    def _refuse(self, code: str, host: str, reason: str) -> None:
        """Say nothing to the sender, who may not be who it says, and little to the log."""
        self._metrics.control_errors.labels(code=code).inc()
        if (key := f"{code} {host}") not in self._refused and len(self._refused) < _MOST_AT_ONCE:
            self._refused.add(key)
            _log.warning("osc_refused", code=code, sender=host, reason=reason)


async def hear_osc(settings: ServerSection, dispatcher: Dispatcher, metrics: Metrics) -> None:
    """Listen for OSC until cancelled, at the port that is set.

    Raises:
        OscNotHeard: the port is not to be had, or was lost: to be tried again in a while.
    """
    endpoint = OscEndpoint(dispatcher, settings.osc_senders, metrics)
    where = f"{settings.osc_host} port {settings.osc_port}"
    try:
        await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: endpoint, local_addr=(settings.osc_host.strip("[]"), settings.osc_port)
        )
    except OSError as error:
        raise OscNotHeard(f"{where}: {error.strerror or error}") from error
    _log.info("osc_heard", where=where)
    try:
        await endpoint.lost.wait()
        raise OscNotHeard(f"{where}: its socket was lost")
    finally:
        await endpoint.aclose()
