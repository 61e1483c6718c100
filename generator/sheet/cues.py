"""The cue sheet: what may stand in it, and reading it with every error at once (pure).

Positions are seconds from the start of the screening. What a sheet becomes (actions,
recipes, ids) is planned in `generator.sheet.plan`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from cache.untrusted import Unfit, clean_text, decode_sheet

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


class _Cue(_CueSheetModel):
    """What every cue may have. `at` is its position in seconds."""

    at: Position = Field(alias="time")
    id: Identifier | None = None
    program: str | None = None
    mode: Mode | None = None
    failover: Failover | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None

    @property
    def generates(self) -> bool:
        """Whether a picture is drawn for it."""
        return False

    @property
    def text(self) -> str:
        """What it says or does, for people who read the sheet."""
        return ""

    @property
    def written(self) -> str:
        """What of it is written on the wall."""
        return ""


class StartCue(_Cue):
    """The screening begins."""

    action: Literal["start"]


class EndCue(_Cue):
    """The screening is over."""

    action: Literal["end"]


class NextCue(_Cue):
    """A mark between two parts; nothing visible happens."""

    action: Literal["next"]


class ReconnectCue(_Cue):
    """A mark left by the piece's first player; our screens reconnect by themselves."""

    action: Literal["reconnect"]


class NavigateCue(_Cue):
    """The show moves to another scene."""

    action: Literal["navigate"]
    route: Annotated[str, StringConstraints(min_length=1, max_length=200)]

    @property
    def text(self) -> str:
        """See `_Cue`."""
        return self.route


class FadeCue(_Cue):
    """The stage fades to black (`fade`) or comes back."""

    action: Literal["set-fade-status"]
    fade: bool

    @property
    def text(self) -> str:
        """See `_Cue`."""
        return "to black" if self.fade else "from black"


class TranscriptCue(_Cue):
    """A line is spoken; with `generate` a picture is drawn from it."""

    action: Literal["transcript"]
    transcript: Annotated[str, StringConstraints(max_length=4000)]
    generate: bool = False
    when: tuple[Finite, Finite] | None = None
    words: tuple[Word, ...] = ()

    @property
    def generates(self) -> bool:
        """See `_Cue`."""
        return self.generate

    @property
    def text(self) -> str:
        """See `_Cue`."""
        return self.transcript

    @property
    def written(self) -> str:
        """See `_Cue`."""
        return self.transcript

    @property
    def until(self) -> float:
        """When the line has been spoken: seconds from the start of the screening."""
        if self.when is not None and self.when[1] > self.at:
            return self.when[1]
        if self.words and self.words[-1].end > self.at:
            return self.words[-1].end
        return self.at + max(2.0, len(self.transcript) / 15)


class PromptCue(_Cue):
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
        """See `_Cue`."""
        return self.commit and bool(self.prompt.strip())

    @property
    def text(self) -> str:
        """See `_Cue`."""
        return self.prompt

    @property
    def written(self) -> str:
        """See `_Cue`."""
        return self.prompt


class SliderCue(_Cue):
    """The slider moves to `value` percent, and its program's last prompt is drawn so."""

    action: Literal["move-slider"]
    value: Percent
    draw: Draw | None = None

    @property
    def generates(self) -> bool:
        """See `_Cue`."""
        return True

    @property
    def text(self) -> str:
        """See `_Cue`."""
        return f"{self.value:g} %"


Cue = (
    StartCue
    | EndCue
    | NextCue
    | ReconnectCue
    | NavigateCue
    | FadeCue
    | TranscriptCue
    | PromptCue
    | SliderCue
)
ACTIONS = (
    "start",
    "transcript",
    "prompt",
    "move-slider",
    "navigate",
    "set-fade-status",
    "next",
    "reconnect",
    "end",
)
_CUES: TypeAdapter[tuple[Cue, ...]] = TypeAdapter(
    tuple[Annotated[Cue, Field(discriminator="action")], ...]
)


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

    problems: list[CueProblem] = []
    cues: tuple[Cue, ...] = ()
    try:
        cues = _CUES.validate_python(raw)
    except ValidationError as error:
        problems += _shape_problems(error, raw)
    problems += _text_problems(raw)
    problems += _order_problems(raw)
    problems += _id_problems(raw)
    problems += _program_problems(raw, set(programs))
    if problems:
        raise CueSheetError(
            source, sorted(problems, key=lambda p: -1 if p.index is None else p.index)
        )
    doubled = (CueProblem(None, None, _twice(name)) for name in dict.fromkeys(twice))
    return CueSheet(cues, source, (*doubled, *_remarks(cues)))


def _twice(name: str) -> str:
    return f"the field {clean_text(name)!r:.60} stands twice in one object: the last counts"


def _time_of(raw: list[Any], index: int) -> str | None:
    cue = raw[index]
    time = cue.get("time") if isinstance(cue, dict) else None
    return time[:20] if isinstance(time, str) and time.isprintable() else None


def _shape_problems(error: ValidationError, raw: list[Any]) -> list[CueProblem]:
    problems: list[CueProblem] = []
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        index = location[0] if location and isinstance(location[0], int) else None
        # loc is (index, action, field, ...): the action is ours, not the artist's
        place = ".".join(str(part) for part in location[2:])
        if detail["type"] in {"union_tag_invalid", "union_tag_not_found"}:
            found = raw[index].get("action") if index is not None else None
            what = f"unknown action {found!r}" if found is not None else "no action"
            message = f"{what}: expected one of {', '.join(ACTIONS)}"
        elif len(location) <= 1:
            message = "expected an object with time and action"
        elif detail["type"] == "missing":
            message = f"{place} is missing"
        elif detail["type"] == "string_pattern_mismatch":
            message = (
                f"{place}: expected letters, digits, dot, dash or underscore "
                f"(128 at most), not {detail['input']!r:.60}"
            )
        else:
            text = detail["msg"].removeprefix("Value error, ")
            text = text[:1].lower() + text[1:]
            shown = "" if "not " in text else f", not {detail['input']!r:.60}"
            message = f"{place}: {text}{shown}"
        time = _time_of(raw, index) if index is not None else None
        problems.append(CueProblem(index, time, message))
    return problems


def _text_problems(raw: list[Any]) -> list[CueProblem]:
    """Halves of surrogate pairs, which JSON can spell and nothing can draw, send or log."""
    problems: list[CueProblem] = []
    for index, cue in enumerate(raw):
        try:
            json.dumps(cue, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            found = error.object[error.start]
            message = f"expected text in Unicode, found {found!r}, half of a character"
            problems.append(CueProblem(index, _time_of(raw, index), message))
        except RecursionError:
            message = "nested too deeply to read"
            problems.append(CueProblem(index, _time_of(raw, index), message))
    return problems


def _order_problems(raw: list[Any]) -> list[CueProblem]:
    problems: list[CueProblem] = []
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
            problems.append(CueProblem(index, _time_of(raw, index), message))
        else:
            latest, latest_index = at, index
    return problems


def _id_problems(raw: list[Any]) -> list[CueProblem]:
    problems: list[CueProblem] = []
    seen: dict[str, int] = {}
    for index, cue in enumerate(raw):
        identifier = cue.get("id") if isinstance(cue, dict) else None
        if not isinstance(identifier, str):
            continue
        first = seen.setdefault(identifier, index)
        if first != index:
            message = f"duplicate id {identifier!r}: cue {first} has it already"
            problems.append(CueProblem(index, _time_of(raw, index), message))
    return problems


def _program_problems(raw: list[Any], programs: set[str]) -> list[CueProblem]:
    problems: list[CueProblem] = []
    for index, cue in enumerate(raw):
        program = cue.get("program") if isinstance(cue, dict) else None
        if isinstance(program, str) and program not in programs:
            known = ", ".join(sorted(programs)) or "none"
            message = f"unknown program {program!r}: expected one of {known}"
            problems.append(CueProblem(index, _time_of(raw, index), message, "unknown_program"))
    return problems


def _remarks(cues: tuple[Cue, ...]) -> Iterable[CueProblem]:
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
