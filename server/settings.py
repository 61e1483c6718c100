"""Settings: `show.toml`, the environment and the command line, as typed values.

Precedence: command line, environment, `show.toml`, default. Everything wrong is told at
once, each with the place it came from. Secrets come from the environment or a file that
it names, and are never printed.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from generator.cues import Identifier, Mode
from generator.programs import DEFAULT_PROGRAMS, Program

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
ROLES = ("operator", "viewer", "screen", "worker")

_CLOCK = re.compile(r"([01]\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?")


def _time_of_day(text: str) -> str:
    found = _CLOCK.fullmatch(text)
    if found is None or (found[1] == "24" and text[3:].strip("0:")):
        raise ValueError(f"expected a time of day such as 09:30, not {text!r}")
    return text


def _zone(text: str) -> str:
    if text != "local":
        try:
            ZoneInfo(text)
        except (KeyError, ValueError, OSError):  # `ZoneInfoNotFoundError` is a KeyError
            raise ValueError(
                f"expected a time zone such as Europe/Berlin, or local, not {text!r}"
            ) from None
    return text


TimeOfDay = Annotated[str, AfterValidator(_time_of_day)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShowSection(_Section):
    """`[show]`: what is shown.

    `duration` in seconds; None takes it from the cue sheet.
    """

    title: str = "Untitled"
    cues: str = "cues.json"
    timezone: Annotated[str, AfterValidator(_zone)] = "local"
    duration: Annotated[float, Field(ge=1, le=7 * 86400)] | None = None
    still: str | None = None


class ScheduleSection(_Section):
    """`[schedule]`: when it is shown.

    `opens` and `closes` bound a day (and may pass midnight); `gap` is the pause in seconds
    between two screenings of a loop.
    """

    kind: Literal["screenings", "loop", "manual"] = "loop"
    screenings: tuple[TimeOfDay, ...] = ()
    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    opens: TimeOfDay | None = None
    closes: TimeOfDay | None = None
    gap: Seconds = 0.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "screenings" and not self.screenings:
            raise ValueError('kind = "screenings" needs screenings = ["09:00", ...]')
        if not self.days:
            raise ValueError("days names no day")
        if self.kind == "loop" and (self.opens is None) != (self.closes is None):
            raise ValueError("a loop takes opens and closes together, or neither")
        return self


class FirstFrameTimeout(_Section):
    """How long a rung may take to its first frame, in seconds."""

    static: Annotated[float, Field(gt=0)] = 2.0
    live: Annotated[float, Field(gt=0)] = 8.0


class PlaybackSection(_Section):
    """`[playback]`: how a cue becomes frames. Times in seconds."""

    mode: Mode = "static"
    fit: Literal["squeeze", "recorded"] = "squeeze"
    first_frame_timeout: FirstFrameTimeout = FirstFrameTimeout()
    frame_gap_timeout: Annotated[float, Field(gt=0)] = 5.0
    fallback: bool = True
    failover: Literal["continue", "restart", "hold"] = "continue"
    lead: Seconds = 0.5
    min_go: Seconds = 0.5


class DisplaySection(_Section):
    """`[display]`: how it looks. Times in seconds."""

    crossfade: Seconds = 3.0
    fade: Seconds = 5.0
    captions: bool = True
    progress: bool = True
    badge: bool = False


class StoreSection(_Section):
    """`[store]`: where the sets are. A relative `file:` is relative to the show."""

    url: str = "file:."
    endpoint_url: str | None = None


class CacheSection(_Section):
    """`[cache]`: where this machine keeps its copies and what it must remember."""

    dir: str = ".understudy"
    disk_bytes: Bytes = 20 * 2**30
    memory_bytes: Bytes = 256 * 2**20


class GenerateSection(_Section):
    """`[generate]`: how many sets are drawn, and how many at once (0: one a core)."""

    sets_per_action: Annotated[int, Field(ge=1, le=10_000)] = 5
    parallel: Annotated[int, Field(ge=0, le=1024)] = 0
    default_steps: Annotated[int, Field(ge=1, le=1000)] | None = None


class ServerSection(_Section):
    """`[server]`: where it listens, and which pages beside its own may connect."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    origins: tuple[str, ...] = ()


class EngineSection(_Section):
    """One of `[[engines]]`, in order of preference.

    Attributes:
        name: what it is called.
        kind: what it is.
        pace: seconds a step; sketch and testcard.
        url: where it is; worker.
        device: ``cuda``, ``mps`` or ``cpu``, None for the best there is; diffusers.
        previews: how previews are decoded; diffusers.
        allow_download: whether a model that is not on this machine is fetched; diffusers.
    """

    name: Identifier
    kind: Literal["sketch", "testcard", "diffusers", "worker"] = "sketch"
    pace: Annotated[float, Field(gt=0, le=60)] = 0.45
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = None
    device: str | None = None
    previews: Literal["auto", "vae", "taesd", "latent-rgb"] = "auto"
    allow_download: bool = False

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if (self.kind == "worker") != (self.url is not None):
            raise ValueError("a worker has a url, and no other engine does")
        return self


class Tokens(_Section):
    """Who may come in. None: nobody was given that token."""

    operator: SecretStr | None = None
    viewer: SecretStr | None = None
    screen: SecretStr | None = None
    worker: SecretStr | None = None


class Settings(BaseSettings):
    """Everything that can be set, validated."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="UNDERSTUDY_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
    )

    show: ShowSection = ShowSection()
    schedule: ScheduleSection = ScheduleSection()
    playback: PlaybackSection = PlaybackSection()
    display: DisplaySection = DisplaySection()
    store: StoreSection = StoreSection()
    cache: CacheSection = CacheSection()
    generate: GenerateSection = GenerateSection()
    server: ServerSection = ServerSection()
    programs: Mapping[Identifier, Program] = Field(default_factory=dict)
    engines: tuple[EngineSection, ...] = ()
    tokens: Tokens = Tokens()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` merged: it alone knows the precedence."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @field_validator("engines")
    @classmethod
    def _names_are_unique(cls, engines: tuple[EngineSection, ...]) -> tuple[EngineSection, ...]:
        names = [engine.name for engine in engines]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"two engines are named {', '.join(double)}")
        return engines


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: where it was said, and what was expected there."""

    source: str
    message: str

    def __str__(self) -> str:
        """``show.toml: [playback] mode: what is wrong``."""
        return f"{self.source}: {self.message}"


class SettingsError(Exception):
    """Settings that cannot be used; `problems` has everything that is wrong."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def load_settings(
    toml: Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Merge and validate what was set.

    Args:
        toml: path of a `show.toml`; one that does not exist sets nothing.
        overrides: section -> key -> value, from the command line.
        environ: the environment; None takes the process's.

    Raises:
        SettingsError: with everything that is wrong, in one go.
    """
    env = os.environ if environ is None else environ
    problems: list[Problem] = []
    from_file = _read_toml(toml, problems)
    from_env = _read_environment(env, problems)
    from_cli = {name: dict(section) for name, section in (overrides or {}).items()}
    in_env = from_env.get("store", {})
    if "url" in from_cli.get("store", {}) and in_env.get("endpoint_url") == _r2_endpoint(env):
        del in_env["endpoint_url"]  # another store than R2's is not at R2's endpoint

    merged = _merge(_merge(from_file, from_env), from_cli)
    if isinstance(merged.setdefault("programs", {}), dict):
        merged["programs"] = _with_default_programs(
            merged["programs"], _default_steps(merged.get("generate"))
        )
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        sources = (("command line", from_cli), ("environment", from_env))
        name = str(toml) if toml else "show.toml"
        problems += [_problem(detail, sources, name) for detail in error.errors(include_url=False)]
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _read_toml(path: Path | None, problems: list[Problem]) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    try:
        read = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        problems.append(Problem(str(path), f"expected text in UTF-8; byte {error.start} is not"))
    except tomllib.TOMLDecodeError as error:
        problems.append(Problem(str(path), f"no TOML: {error}"))
    else:
        if "tokens" in read:
            message = "secrets come from the environment, not from a file that is passed around"
            problems.append(Problem(str(path), f"[tokens]: {message}"))
            del read["tokens"]
        return read
    return {}


_OLDER_NAMES: dict[str, tuple[str, str]] = {
    "EXHIBITION_MODE": ("playback", "mode"),
    "SETS_PER_ACTION": ("generate", "sets_per_action"),
    "DEFAULT_INFERENCE_STEPS": ("generate", "default_steps"),
    "PARALLEL_GENERATIONS": ("generate", "parallel"),
}
_R2 = ("R2_ACCOUNT_ID", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET_NAME")


def _r2_endpoint(env: Mapping[str, str]) -> str:
    return f"https://{env.get('R2_ACCOUNT_ID', '')}.r2.cloudflarestorage.com"


def _read_environment(env: Mapping[str, str], problems: list[Problem]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    named = env.get("UNDERSTUDY_STORE_URL")
    if all(env.get(name) for name in _R2) and not named:
        endpoint = _r2_endpoint(env)
        found["store"] = {"url": f"s3://{env['R2_BUCKET_NAME']}", "endpoint_url": endpoint}
    for name, (section, key) in _OLDER_NAMES.items():
        if env.get(name):
            value = env[name]
            if name == "EXHIBITION_MODE" and value == "auto":
                value = "hybrid"
            found.setdefault(section, {})[key] = value

    ours = {
        name: value
        for name, value in env.items()
        if name.startswith("UNDERSTUDY_") and not _is_token(name)
    }
    for name, value in ours.items():
        source = EnvSettingsSource(Settings, env_ignore_empty=True)
        source.env_vars = {name.lower(): value} if value else {}
        try:
            found = _merge(found, source())
        except ValueError:  # of the value itself nothing is said: it may be a secret
            problems.append(Problem("environment", f"{name}: expected JSON"))
    sections = set(Settings.model_fields)
    for name in ours:
        section = name.removeprefix("UNDERSTUDY_").lower().split("_", 1)[0]
        if section not in sections:
            expected = ", ".join(f"UNDERSTUDY_{known.upper()}_…" for known in sorted(sections))
            problems.append(Problem("environment", f"unknown {name}: expected {expected}"))

    tokens = _read_tokens(env, problems)
    if tokens:
        found["tokens"] = tokens
    return found


def _is_token(name: str) -> bool:
    return name.removesuffix("_FILE") in {f"UNDERSTUDY_{role.upper()}_TOKEN" for role in ROLES}


def _read_tokens(env: Mapping[str, str], problems: list[Problem]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for role in ROLES:
        name = f"UNDERSTUDY_{role.upper()}_TOKEN"
        token, path = env.get(name), env.get(f"{name}_FILE")
        if path and not token:
            try:
                token = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
                problems.append(Problem("environment", f"{name}_FILE: {path}: {reason}"))
            else:
                if not token:
                    problems.append(Problem("environment", f"{name}_FILE: {path}: is empty"))
        if token:
            tokens[role] = token
    return tokens


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        merged[key] = _merge(under, value) if both else value  # type: ignore[arg-type]
    return merged


def _default_steps(generate: object) -> int | None:
    """What the section says of it; an unusable value is told once, where the section is read."""
    try:
        return GenerateSection.model_validate(generate or {}).default_steps
    except ValidationError:
        return None


def _with_default_programs(
    programs: Mapping[str, Any], default_steps: int | None
) -> dict[str, Any]:
    laid: dict[str, Any] = {}
    for name in DEFAULT_PROGRAMS.keys() | programs.keys():
        given = programs.get(name, {})
        if not isinstance(given, Mapping):
            laid[name] = given
            continue
        laid[name] = {**DEFAULT_PROGRAMS.get(name, {}), **given}
        if default_steps is not None and "steps" not in given:
            laid[name]["steps"] = default_steps
    return laid


def _problem(
    detail: ErrorDetails, sources: Iterable[tuple[str, Mapping[str, Any]]], file: str
) -> Problem:
    location = [str(part) for part in detail["loc"]]
    source = next((name for name, values in sources if _holds(values, location)), file)
    section, *rest = location or ["?"]
    place = f"[{section}] {'.'.join(rest)}".rstrip()
    if detail["type"] == "extra_forbidden":
        message = f"unknown key; expected one of {', '.join(_known_keys(location))}"
    else:
        text = detail["msg"].removeprefix("Value error, ")
        message = text[:1].lower() + text[1:]
        if "not " not in message and location[0] != "tokens":
            message += f", not {detail['input']!r:.60}"
    return Problem(source, f"{place}: {message}")


def _known_keys(location: Sequence[str]) -> list[str]:
    """The keys that there are in the section or table that `location` is in."""
    here: Any = Settings
    for part in location[:-1]:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[part].annotation
        else:  # a list of tables, or tables by name
            here = next(inner for inner in get_args(here) if hasattr(inner, "model_fields"))
    return sorted(here.model_fields)


def _holds(values: Mapping[str, Any], location: Sequence[str]) -> bool:
    here: Any = values
    for part in location:
        if isinstance(here, Sequence) and not isinstance(here, str):
            here = dict(enumerate(here)).get(int(part)) if part.isdecimal() else None
        elif isinstance(here, Mapping) and part in here:
            here = here[part]
        else:
            return False
    return True
