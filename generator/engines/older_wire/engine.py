"""The older wire, spoken outwards: the piece's first GPU program, and others like it, as an engine.

To draw, it is told ``P0:<prompt>``, ``P2:0.40``, ``P2B:0.60`` (strength), ``P3``,
``P3B:<prompt>`` or ``P4:<prompt>``. For each step it answers ``p:s=<step from 0>:t=<timestep>``
and, but for P0, a preview in a binary message; then the final image, binary; then ``done``.
Closing the socket cancels.

The piece had several such programs, and they differ (their sources are public, and the tests
play what they send): one says ``ready``, but only after a command; others greet with ``pong``
or ``websocket connected!``, and say what they are about in between. Timesteps are printed as
torch prints a number, in full precision. ``done`` may never come, or come before the final
image, and ``Error during generation: …`` takes its place. So a command is sent at once, and any
text that is no step, end or error is passed over.

The wire has no word for model, size, steps or seed, nor for the prompt of P2 and P2B: those
are the other program's own, and a picture drawn twice is two pictures.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from cache.model.images import BadImage, check_image
from cache.outgoing import reason_of, redacted
from generator.engines.older_wire.settings import OlderWireSection
from generator.engines.pictures import FLOOR, base_itself
from generator.engines.port import (
    DrawingFailed,
    EngineUnavailable,
    RecipeRefused,
    StepImage,
    Timing,
    check_count,
)
from generator.engines.settings import EngineAccess
from generator.outgoing import CONNECT_WITHIN, MAX_MESSAGE, open_socket
from generator.sheet.plan import Action
from generator.sheet.recipe import Recipe

SILENCE: Final = 30.0
"""Seconds without a step, an image or ``done`` after which it is given up."""

END_WITHIN: Final = 2.0
"""Seconds for ``done`` after the final image, or for that after ``done``: one may be missing."""

_SHOWN: Final = 120
_STEP: Final = re.compile(r"p:s=(\d{1,5})(?::t=(.{0,64}))?", re.ASCII)
_NUMBER: Final = re.compile(r"-?\d{1,9}(?:\.\d{0,30})?(?:e[+-]?\d{1,2})?", re.ASCII)
_FAILED: Final = re.compile(r"(server )?error\b", re.IGNORECASE)
_BLIND: Final = "P0"
"""The program that shows no previews."""

_WITH_STRENGTH: Final = frozenset({"P2", "P2B"})
_WITHOUT_WORDS: Final = frozenset({"P3"})
_WITH_PROMPT: Final = frozenset({"P0", "P3B", "P4"})

Command = str
"""What is sent to have something drawn."""


def command(program: str, prompt: str, strength: float | None = None) -> Command:
    """How the wire says that `program` is to draw.

    A program that the wire does not know is drawn as the known one that is most like it:
    P2 where it starts from a picture, P3 where there is nothing to say, else P4.

    Args:
        program: its name.
        prompt: what is displayed, or the override; white space is evened out.
        strength: 0 to 1, of image-to-image.
    """
    prompt = " ".join(prompt.split())
    if program in _WITHOUT_WORDS:
        return program
    if strength is not None:
        return f"{program if program in _WITH_STRENGTH else 'P2'}:{strength:.2f}"
    if program in _WITH_PROMPT:
        return f"{program}:{prompt}"
    return f"P4:{prompt}" if prompt else "P3"


def command_of(recipe: Recipe) -> Command:
    """The same for a recipe of which nobody says by which program it is drawn."""
    return command("", recipe.prompt, recipe.strength)


def commands_of(actions: Iterable[Action]) -> Callable[[Recipe], Command]:
    """The same for the recipes of a show, whose plan tells by which program each is drawn.

    The wire takes the cue's own words: what a program adds to them, the program at the other end
    adds, too.
    """
    known = {
        action.fingerprint: command(
            action.program, action.override or action.prompt, action.recipe.strength
        )
        for action in reversed(tuple(actions))
    }
    return lambda recipe: known.get(recipe.fingerprint) or command_of(recipe)


def connect_engine(settings: OlderWireSection, access: EngineAccess) -> OlderWireEngine:
    """See `RemoteSection.connect`."""
    return OlderWireEngine(settings.url, says=commands_of(access.actions))


@dataclass(eq=False)
class OlderWireEngine:
    """Draws on a program that speaks the older wire.

    Durations are measured from one arrival to the next. How many steps there will be is
    guessed from the recipe, and put right by what comes.

    Args:
        url: of its socket, such as ``ws://gpu.example:8000/ws``.
        says: the command for a recipe.
        connect_within: seconds for the connection.
        silence: seconds without anything that is part of a drawing after which it is given up.
        end_within: seconds for what is still to come once ``done`` or the final image has.
        max_size: bytes that a message may have.
    """

    url: str = field(repr=False)
    _: KW_ONLY
    says: Callable[[Recipe], Command] = command_of
    connect_within: float = CONNECT_WITHIN
    silence: float = SILENCE
    end_within: float = END_WITHIN
    max_size: int = MAX_MESSAGE
    timing: ClassVar[Timing] = "measured"

    @property
    def name(self) -> str:
        """Where it is: it does not say what it is."""
        return f"older wire at {redacted(self.url)}"

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """Draw `recipe` there; leaving hangs up.

        Raises:
            EngineUnavailable: it cannot be reached, or fell silent.
            RecipeRefused: it does not know the command.
            DrawingFailed: it said so, hung up in the middle, or sent no picture.
        """
        return aclosing(base_itself(recipe) if recipe.is_base_itself else self._images(recipe))

    async def _images(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        said = self.says(recipe)
        steps, strength = recipe.steps, recipe.strength
        expected = steps if strength is None else max(1, int(steps * strength))
        drawing = _ImageAssembler(expected, blind=said.startswith(f"{_BLIND}:"))
        try:
            async with open_socket(
                self.url, max_size=self.max_size, open_within=self.connect_within
            ) as socket:
                # At once: who waits for a greeting waits in vain, since most greet only then.
                await socket.send(said)
                drawing.begin(time.perf_counter())
                async with aclosing(self._followed(socket, drawing)) as images:
                    async for image in images:
                        check_count(recipe, image.step)
                        yield image
        except (OSError, WebSocketException, TimeoutError) as error:
            reason = reason_of(error, self.url)
            if drawing.begun and not isinstance(error, TimeoutError):
                raise DrawingFailed(f"it hung up in the middle of a drawing: {reason}") from error
            raise EngineUnavailable(f"{redacted(self.url)}: {reason}") from error

    async def _followed(
        self, socket: ClientConnection, drawing: _ImageAssembler
    ) -> AsyncGenerator[StepImage, None]:
        """A drawing's images as they come; its end is its last."""
        clock = asyncio.get_running_loop().time
        due = clock() + self.silence
        while not drawing.ended:
            try:
                async with asyncio.timeout_at(due):
                    message = await socket.recv()
            except (TimeoutError, ConnectionClosed) as error:
                if not drawing.nearly_over:
                    if isinstance(error, ConnectionClosed):
                        raise
                    raise TimeoutError(f"it fell silent for {self.silence:g} s") from None
                heard = drawing.give_up()
            else:
                heard = drawing.hear(message, time.perf_counter())
            if heard.counts:  # chatter is no sign of life
                # What may well be the end is waited for no longer than a step has taken.
                patience = max(self.end_within, 2 * drawing.longest_gap)
                due = clock() + (patience if drawing.nearly_over else self.silence)
            if heard.image is not None:
                yield heard.image


@dataclass(frozen=True, slots=True)
class _DecodedMessage:
    """What a message amounts to: whether it is part of the drawing, and an image to hand out."""

    counts: bool
    image: StepImage | None = None


class _ImageAssembler:
    """Makes images of the wire's messages (sans I/O).

    A preview follows its step's text, the final image follows none. P0 has no previews, so
    that its final image follows a text: there an image is held until what comes next tells.

    Args:
        expected: how many previews there will probably be.
        blind: whether there are no previews.
    """

    def __init__(self, expected: int, *, blind: bool) -> None:
        self.ended = False
        self.begun = False
        self.longest_gap = 0.0
        """Seconds, the longest between two steps or images so far."""
        self._expected = 0 if blind else expected
        self._blind = blind
        self._timestep: float | None = None
        self._follows_step = False
        self._number = 0
        self._lap = 0.0
        self._heard_at: float | None = None
        self._held: tuple[bytes, str, float] | None = None
        self._finished = False
        self._done = False

    @property
    def nearly_over(self) -> bool:
        """Whether the final image, or ``done``, has come: little or nothing is missing."""
        return self._finished or self._done or self._held is not None

    def begin(self, now: float) -> None:
        """The command was sent."""
        self.begun = True
        self._lap = now

    def hear(self, message: str | bytes, now: float) -> _DecodedMessage:
        """What one message amounts to.

        Raises:
            RecipeRefused: it does not know the command.
            DrawingFailed: it says so, or its final image cannot be read.
        """
        if self._finished:
            # What some send after it: previews that were late, a second picture.
            self.ended = message == "done"
            return _DecodedMessage(counts=False)
        if isinstance(message, bytes):
            self._note_gap(now)
            return self._hear_image(message, now)
        text = message.strip()
        if text == "done":
            self._done = True
            if self._held is not None:
                return self.give_up()
            return _DecodedMessage(counts=True)  # the final image may come yet
        if text.lower().startswith("unknown command"):
            raise RecipeRefused(f"it answered {text[:_SHOWN]!r}")
        if _FAILED.match(text):
            raise DrawingFailed(f"it says {text[:_SHOWN]!r}")
        found = _STEP.fullmatch(text)
        if found is None:
            return _DecodedMessage(counts=False)  # a greeting, a pong, a later version's
        self._note_gap(now)
        image = self._release()
        self._timestep, self._follows_step = _number(found[2]), True
        return _DecodedMessage(counts=True, image=image)

    def _note_gap(self, now: float) -> None:
        # Not the first: a model may have had to be loaded.
        if self._heard_at is not None:
            self.longest_gap = max(self.longest_gap, now - self._heard_at)
        self._heard_at = now

    def give_up(self) -> _DecodedMessage:
        """Nothing more is expected: what is held was the final image.

        Raises:
            DrawingFailed: there is none.
        """
        self.ended = True
        if self._held is not None:
            return _DecodedMessage(counts=True, image=self._final(*self._held))
        if not self._finished:
            raise DrawingFailed("it was done without a final image")
        return _DecodedMessage(counts=True)

    def _hear_image(self, data: bytes, now: float) -> _DecodedMessage:
        final = self._done or (not self._blind and not self._follows_step)
        try:
            media_type = check_image(data)
        except BadImage as error:
            if final:
                raise DrawingFailed(f"its final image cannot be read: {error}") from error
            self._follows_step = False  # a preview that cannot be read is no loss
            return _DecodedMessage(counts=True)
        if self._blind and not final:
            image = self._release()
            self._held = (data, media_type, now)
            return _DecodedMessage(counts=True, image=image)
        image = (self._final if final else self._preview)(data, media_type, now)
        self.ended = self._done
        return _DecodedMessage(counts=True, image=image)

    def _release(self) -> StepImage | None:
        """What was held was a preview, since something follows."""
        held, self._held = self._held, None
        return None if held is None else self._preview(*held)

    def _preview(self, data: bytes, media_type: str, now: float) -> StepImage:
        timestep, self._timestep, self._follows_step = self._timestep, None, False
        self._number += 1
        steps = max(self._expected, self._number) + 1
        duration = self._since(now)
        return StepImage(self._number, steps, False, timestep, duration, data, media_type)

    def _final(self, data: bytes, media_type: str, now: float) -> StepImage:
        self._finished = True
        number = self._number + 1
        return StepImage(number, number, True, None, self._since(now), data, media_type)

    def _since(self, now: float) -> float:
        lap, self._lap = self._lap, now
        return max(now - lap, FLOOR)


def _number(text: str | None) -> float | None:
    """A timestep as torch or Python prints it, `964.2857055664062`; None where it is none."""
    found = _NUMBER.search(text or "")
    return float(found[0]) if found else None
