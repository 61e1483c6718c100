"""The cue sheet: what may stand in it, and reading it with every error at once (pure).

Positions are seconds from the start of the screening. What a sheet becomes (actions,
recipes, ids) is planned in `generator.sheet.plan`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from cache.untrusted import Unfit, clean_text, decode_sheet
from generator.sheet.drawing import CueDrawing, InputState
from generator.sheet.programs import DEFAULT_PROGRAM

Mode = Literal["static", "live", "hybrid"]
Failover = Literal["continue", "restart", "hold"]
"""Where in a picture that broke off the next rung takes over: an artist's decision."""

Draw = Literal["enter", "cue"]
"""When a picture begins: once its last letter is typed or its slider has moved, as for somebody
at the keys, or together with its cue."""

_TIME = re.compile(r"(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d{1,9})?)")
_MAX_ERRORS_SHOWN = 50


def parse_time(text: object) -> float:
    """Seconds of a ``HH:MM:SS`` with an optional fraction.

    Raises:
        ValueError: it is not of that form.
    """
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            f"expected a time as HH:MM:SS, such as 00:44:22 or 00:44:22.5, not {text!r}"
        )
    hours, minutes, seconds = found.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def format_time(position: float) -> str:
    """``HH:MM:SS``, with a fraction only where there is one."""
    millis = round(position * 1000)
    whole, fraction = divmod(millis, 1000)
    text = f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return text + (f".{fraction:03d}".rstrip("0") if fraction else "")


Position = Annotated[float, BeforeValidator(parse_time)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class _CueSheetModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_there(cls, given: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Take an optional field that is null for one that is not there."""
        if not isinstance(given, dict) or None not in given.values():
            return given
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {
            name: value
            for name, value in given.items()
            if value is not None or name not in optional
        }


class Word(_CueSheetModel):
    """One spoken word; `start` and `end` in seconds from the start of the screening."""

    word: str
    start: Finite
    end: Finite


class Delay(_CueSheetModel):
    """Typing speed in milliseconds per character: `base` plus or minus `variance`."""

    base: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] = 100
    variance: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] = 40


class Enter(_CueSheetModel):
    """What happens once the prompt is entered; `regen` draws it again and again."""

    regen: bool = False


class Typed(NamedTuple):
    """A text typed by hand; with `erase` it does not stay."""

    text: str
    delay: Delay
    erase: bool


class Cue(_CueSheetModel):
    """What every cue may have, and what a kind of cue says of itself.

    `at` is its position in seconds. The properties tell what the kind does; here, nothing.
    """

    begins_anew: ClassVar[bool] = False
    """Whether the stage is empty from here on."""
    begins_scene: ClassVar[bool] = False
    """Whether what was typed before is gone from here on."""
    ends_part: ClassVar[bool] = False
    """Whether it ends a regeneration, and breaks off what is being typed."""

    at: Position = Field(alias="time")
    id: Identifier | None = None
    program: str | None = None
    mode: Mode | None = None
    failover: Failover | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    action: str

    @property
    def generates(self) -> bool:
        """Whether a picture is drawn for it."""
        return False

    def drawing(self, inputs: InputState) -> CueDrawing:
        """What is drawn, the inputs being as the cues before left them; asked of what generates."""
        raise NotImplementedError(
            f"{type(self).__name__} generates, but does not say what it draws"
        )

    @property
    def written(self) -> str:
        """What of it is written on the wall."""
        return ""

    @property
    def text(self) -> str:
        """What it says or does, for people who read the sheet."""
        return self.written

    @property
    def typed(self) -> Typed | None:
        """What of it is typed by hand."""
        return None

    def begins(self, draw: Draw) -> Draw:  # noqa: ARG002 - asked by kinds that wait for a hand
        """When its picture begins, where the show says `draw`."""
        return "cue"


class StartCue(Cue):
    """The screening begins."""

    begins_anew = True

    action: Literal["start"]


class EndCue(Cue):
    """The screening is over."""

    ends_part = True

    action: Literal["end"]


class NextCue(Cue):
    """A mark between two parts; nothing visible happens."""

    action: Literal["next"]


class ReconnectCue(Cue):
    """A mark left by the piece's first player; our screens reconnect by themselves."""

    action: Literal["reconnect"]


class NavigateCue(Cue):
    """The show moves to another scene."""

    begins_scene = True
    ends_part = True

    action: Literal["navigate"]
    route: Annotated[str, StringConstraints(min_length=1, max_length=200)]

    @property
    def text(self) -> str:
        """See `Cue`."""
        return self.route


class FadeCue(Cue):
    """The stage fades to black (`fade`) or comes back."""

    action: Literal["set-fade-status"]
    fade: bool

    @property
    def text(self) -> str:
        """See `Cue`."""
        return "to black" if self.fade else "from black"


class TranscriptCue(Cue):
    """A line is spoken; with `generate` a picture is drawn from it."""

    action: Literal["transcript"]
    transcript: Annotated[str, StringConstraints(max_length=4000)]
    generate: bool = False
    when: tuple[Finite, Finite] | None = None
    words: tuple[Word, ...] = ()

    @property
    def generates(self) -> bool:
        """See `Cue`."""
        return self.generate

    def drawing(self, inputs: InputState) -> CueDrawing:  # noqa: ARG002 - nothing is entered
        """See `Cue`."""
        return CueDrawing("transcript", self.program or DEFAULT_PROGRAM, self.transcript)

    @property
    def written(self) -> str:
        """See `Cue`."""
        return self.transcript

    @property
    def until(self) -> float:
        """When the line has been spoken: seconds from the start of the screening."""
        if self.when is not None and self.when[1] > self.at:
            return self.when[1]
        if self.words and self.words[-1].end > self.at:
            return self.words[-1].end
        return self.at + max(2.0, len(self.transcript) / 15)


class PromptCue(Cue):
    """A prompt is typed and, unless it is empty or `commit` is false, drawn.

    `guidance` is the slider, in percent: image-to-image strength times 100.
    """

    action: Literal["prompt"]
    prompt: Annotated[str, StringConstraints(max_length=4000)]
    commit: bool = True
    override: str | None = None
    guidance: Percent | None = None
    delay: Delay = Delay()
    enter: Enter = Enter()
    draw: Draw | None = None

    @property
    def generates(self) -> bool:
        """See `Cue`."""
        return self.commit and bool(self.prompt.strip())

    def drawing(self, inputs: InputState) -> CueDrawing:
        """See `Cue`."""
        program = self.program or DEFAULT_PROGRAM
        inputs.enter(program, self.prompt, self.override)
        slider = remark = None
        if self.guidance is not None:
            slider = inputs.move_slider(program, self.guidance)
            remark = inputs.no_effect(program, "guidance")
        return CueDrawing(
            "prompt", program, self.prompt, self.override, self.enter.regen, slider, remark
        )

    @property
    def written(self) -> str:
        """See `Cue`."""
        return self.prompt

    @property
    def typed(self) -> Typed:
        """See `Cue`."""
        return Typed(self.prompt, self.delay, erase=not self.generates)

    def begins(self, draw: Draw) -> Draw:
        """See `Cue`."""
        return self.draw or draw


class SliderCue(Cue):
    """The slider moves to `value` percent, and its program's last prompt is drawn so."""

    action: Literal["move-slider"]
    value: Percent
    draw: Draw | None = None

    @property
    def generates(self) -> bool:
        """See `Cue`."""
        return True

    def drawing(self, inputs: InputState) -> CueDrawing:
        """See `Cue`."""
        program = self.program or inputs.program
        slider, entered = inputs.move_slider(program, self.value), inputs.entered(program)
        remark = inputs.no_effect(program, "the slider")
        if entered is None:
            remark = f"no prompt of {program} before it: it draws with an empty prompt"
        prompt, override = entered or ("", None)
        return CueDrawing("slider", program, prompt, override, slider=slider, remark=remark)

    @property
    def text(self) -> str:
        """See `Cue`."""
        return f"{self.value:g} %"

    def begins(self, draw: Draw) -> Draw:
        """See `Cue`."""
        return self.draw or draw


KINDS: Final[dict[str, type[Cue]]] = {
    "start": StartCue,
    "transcript": TranscriptCue,
    "prompt": PromptCue,
    "move-slider": SliderCue,
    "navigate": NavigateCue,
    "set-fade-status": FadeCue,
    "next": NextCue,
    "reconnect": ReconnectCue,
    "end": EndCue,
}
"""Every kind of cue by its action, in the order in which they are told."""


@dataclass(frozen=True, slots=True)
class CueProblem:
    """One thing wrong with a sheet: `index` counts cues from 0, None for the sheet itself.

    `kind` is a stable word for programs.
    """

    index: int | None
    time: str | None
    message: str
    kind: Literal["bad_sheet", "unknown_program"] = "bad_sheet"

    def __str__(self) -> str:
        """``cue 12 at 00:44:22: what is wrong``."""
        if self.index is None:
            return self.message
        return f"cue {self.index}" + (f" at {self.time}" if self.time else "") + f": {self.message}"


class CueSheetError(Exception):
    """A sheet that cannot be played; `problems` has everything that is wrong with it."""

    def __init__(self, source: str, problems: Iterable[CueProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """One line a problem, each naming the file."""
        shown = [f"{self.source}: {problem}" for problem in self.problems[:_MAX_ERRORS_SHOWN]]
        more = len(self.problems) - len(shown)
        return [*shown, f"{self.source}: and {more} more problems"] if more > 0 else shown


@dataclass(frozen=True, slots=True)
class CueSheet:
    """The cues of a show, in order. `remarks` is what was odd but does no harm."""

    cues: tuple[Cue, ...]
    source: str = "cues.json"
    remarks: tuple[CueProblem, ...] = field(default=())

    @property
    def duration(self) -> float:
        """Seconds to the first `end` cue, else until the last cue has had ten seconds."""
        for cue in self.cues:
            if isinstance(cue, EndCue):
                return cue.at
        return self.cues[-1].at + 10.0


def parse_cues(data: bytes, source: str, programs: Iterable[str]) -> CueSheet:
    """Read a cue sheet: an array of cues, or an object with a `cues` array.

    Args:
        data: the file's bytes, JSON in UTF-8.
        source: its name, for messages.
        programs: names of the programs that cues may use.

    Raises:
        CueSheetError: with every problem found, not only the first.
    """
    try:
        raw, twice = decode_sheet(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        message = f"expected text in UTF-8; byte {error.start} is not"
        raise CueSheetError(source, [CueProblem(None, None, message)]) from None
    except Unfit as error:
        raise CueSheetError(source, [CueProblem(None, None, str(error))]) from None
    if isinstance(raw, Mapping):
        raw = raw.get("cues")
    if not isinstance(raw, list):
        message = 'expected an array of cues, or an object with an array "cues"'
        raise CueSheetError(source, [CueProblem(None, None, message)])
    if not raw:
        raise CueSheetError(source, [CueProblem(None, None, "the sheet has no cues")])

    cues, problems = _read(raw)
    problems += _text_problems(raw)
    problems += _order_problems(raw)
    problems += _name_problems(raw, set(programs))
    if problems:
        raise CueSheetError(
            source, sorted(problems, key=lambda p: -1 if p.index is None else p.index)
        )
    doubled = (CueProblem(None, None, _twice(name)) for name in dict.fromkeys(twice))
    return CueSheet(tuple(cues), source, (*doubled, *_remarks(cues)))


def _twice(name: str) -> str:
    return f"the field {clean_text(name)!r:.60} stands twice in one object: the last counts"


def _problem(
    raw: list[Any],
    index: int,
    message: str,
    kind: Literal["bad_sheet", "unknown_program"] = "bad_sheet",
) -> CueProblem:
    cue = raw[index]
    time = cue.get("time") if isinstance(cue, dict) else None
    told = time[:20] if isinstance(time, str) and time.isprintable() else None
    return CueProblem(index, told, message, kind)


def _read(raw: list[Any]) -> tuple[list[Cue], list[CueProblem]]:
    """The cues that can be read, and in what the others are not as they should be."""
    cues: list[Cue] = []
    problems: list[CueProblem] = []
    for index, given in enumerate(raw):
        action = given.get("action") if isinstance(given, dict) else None
        kind = KINDS.get(action) if isinstance(action, str) else None
        if not isinstance(given, dict):
            problems.append(_problem(raw, index, "expected an object with time and action"))
        elif kind is None:
            what = "no action" if action is None else f"unknown action {action!r}"
            expected = f"expected one of {', '.join(KINDS)}"
            problems.append(_problem(raw, index, f"{what}: {expected}"))
        else:
            try:
                cues.append(kind.model_validate(given))
            except ValidationError as error:
                details = error.errors(include_url=False)
                problems += [_problem(raw, index, _in_words(detail)) for detail in details]
    return cues, problems


def _in_words(detail: ErrorDetails) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{place} is missing"
    if detail["type"] == "string_pattern_mismatch":
        return (
            f"{place}: expected letters, digits, dot, dash or underscore "
            f"(128 at most), not {detail['input']!r:.60}"
        )
    text = detail["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    shown = "" if "not " in text else f", not {detail['input']!r:.60}"
    return f"{place}: {text}{shown}"


def _text_problems(raw: list[Any]) -> Iterable[CueProblem]:
    """Halves of surrogate pairs, which JSON can spell and nothing can draw, send or log."""
    for index, cue in enumerate(raw):
        try:
            json.dumps(cue, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            found = error.object[error.start]
            message = f"expected text in Unicode, found {found!r}, half of a character"
            yield _problem(raw, index, message)
        except RecursionError:
            yield _problem(raw, index, "nested too deeply to read")


def _order_problems(raw: list[Any]) -> Iterable[CueProblem]:
    latest, latest_index = -math.inf, 0
    for index, cue in enumerate(raw):
        try:
            at = parse_time(cue["time"])
        except (ValueError, TypeError, KeyError):
            continue
        if at < latest:
            message = (
                f"out of order: expected no earlier than {format_time(latest)}, "
                f"the time of cue {latest_index}"
            )
            yield _problem(raw, index, message)
        else:
            latest, latest_index = at, index


def _name_problems(raw: list[Any], programs: set[str]) -> Iterable[CueProblem]:
    """Programs that nobody knows, and ids that two cues have."""
    first: dict[str, int] = {}
    for index, cue in enumerate(raw):
        identifier, program = (
            (cue.get("id"), cue.get("program")) if isinstance(cue, dict) else (None, None)
        )
        if isinstance(identifier, str) and first.setdefault(identifier, index) != index:
            message = f"duplicate id {identifier!r}: cue {first[identifier]} has it already"
            yield _problem(raw, index, message)
        if isinstance(program, str) and program not in programs:
            known = ", ".join(sorted(programs)) or "none"
            message = f"unknown program {program!r}: expected one of {known}"
            yield _problem(raw, index, message, "unknown_program")


def _remarks(cues: Sequence[Cue]) -> Iterable[CueProblem]:
    ended: int | None = None
    for index, cue in enumerate(cues):
        if cue.model_extra:
            names = ", ".join(sorted(cue.model_extra))
            yield CueProblem(index, format_time(cue.at), f"unknown fields are ignored: {names}")
        if ended is not None:
            message = f"never plays: cue {ended} ends the screening before it"
            yield CueProblem(index, format_time(cue.at), message)
        if isinstance(cue, EndCue) and ended is None:
            ended = index
    if ended is None:
        yield CueProblem(
            None, None, "no end cue: the screening ends ten seconds after the last cue"
        )
