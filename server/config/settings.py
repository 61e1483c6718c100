"""Settings: `show.toml`, the environment and the command line, merged and checked.

Precedence: command line, environment, `show.toml`, default. Everything wrong is told at
once, each with the place it came from. Secrets come from the environment or a file that
it names, and are never printed.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails

from cache.spelling import nearest
from cache.untrusted import clean_text
from generator.engines.registry import KINDS, AnyEngine, engine_keys
from generator.sheet.cues import Identifier
from generator.sheet.programs import DEFAULT_PROGRAMS, Program
from generator.styles import Style, StyleName, with_default_styles
from server.config.environment import (
    PREFIX,
    STUDIO_DATABASE,
    STUDIO_TOKEN,
    is_service_link,
    tidy,
    why_no_secret,
    why_no_token,
)
from server.config.sections import (
    CacheSection,
    DisplaySection,
    GenerateSection,
    PlaybackSection,
    ScheduleSection,
    ServerSection,
    ShowSection,
    StageSection,
    StoreSection,
    StudioSection,
    Tokens,
    brings_password,
)

_ROLES = ("operator", "viewer", "screen")


def token_variables() -> dict[str, str]:
    """Variables that hold a token, by the role that it lets in or the kind of engine that wants it.

    With ``_FILE`` behind its name, the path of a file that does.
    """
    ours = {role: f"UNDERSTUDY_{role.upper()}_TOKEN" for role in _ROLES}
    theirs = {kind: engine.token_variable for kind, engine in KINDS.items()}
    return ours | {kind: name for kind, name in theirs.items() if name is not None}


def secret_variables() -> dict[str, str]:
    """Variables that hold a secret for signatures, or name its file, by the kind that signs."""
    secrets = {kind: engine.secret_variable for kind, engine in KINDS.items()}
    return {kind: name for kind, name in secrets.items() if name is not None}


def _secret_names() -> set[str]:
    """Variables that hold a secret, or, with ``_FILE`` behind their name, the path of one."""
    in_files = (STUDIO_TOKEN, STUDIO_DATABASE)
    names = (*token_variables().values(), *secret_variables().values(), *in_files)
    return {name + end for name in names for end in ("", "_FILE")}


class Settings(BaseModel):
    """Everything that can be set, validated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    show: ShowSection = ShowSection()
    schedule: ScheduleSection = ScheduleSection()
    playback: PlaybackSection = PlaybackSection()
    display: DisplaySection = DisplaySection()
    stage: StageSection = StageSection()
    store: StoreSection = StoreSection()
    cache: CacheSection = CacheSection()
    generate: GenerateSection = GenerateSection()
    server: ServerSection = ServerSection()
    studio: StudioSection = StudioSection()
    programs: Mapping[Identifier, Program] = Field(default_factory=dict)
    styles: Mapping[StyleName, Style] = Field(default_factory=dict)
    engines: tuple[AnyEngine, ...] = ()
    tokens: Tokens = Tokens()

    _remarks: tuple[str, ...] = PrivateAttr(default=())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was set to no effect, and is probably a slip; the show plays all the same."""
        return self._remarks

    @field_validator("engines")
    @classmethod
    def _names_are_unique(cls, engines: tuple[AnyEngine, ...]) -> tuple[AnyEngine, ...]:
        names = [engine.name for engine in engines]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"two engines are named {', '.join(double)}")
        return engines


class SettingsError(Exception):
    """Settings that cannot be used.

    Attributes:
        problems: everything that is wrong: where it was said, and what was expected there.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


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
    env = tidy(os.environ if environ is None else environ, {*_OLDER_NAMES, *_secret_names()})
    problems: list[str] = []
    remarks: list[str] = []
    from_file = _read_toml(toml, problems)
    from_env = _read_environment(env, problems, remarks)
    from_cli = {name: dict(section) for name, section in (overrides or {}).items()}
    _refuse_password(from_file, str(toml), problems)
    _refuse_password(from_cli, "command line", problems)
    in_env = from_env.get("store", {})
    if "url" in from_cli.get("store", {}) and in_env.get("endpoint_url") == _r2_endpoint(env):
        del in_env["endpoint_url"]  # another store than R2's is not at R2's endpoint

    merged = _merge(_merge(from_file, from_env), from_cli)
    if isinstance(merged.setdefault("programs", {}), dict):
        merged["programs"] = _with_default_programs(
            merged["programs"], _default_steps(merged.get("generate"))
        )
    if isinstance(merged.setdefault("styles", {}), dict):
        try:
            merged["styles"] = with_default_styles(merged["styles"])
        except ValueError as error:
            problems.append(f"{toml or 'show.toml'}: [styles]: {error}")
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        sources = (("command line", from_cli), ("environment", from_env))
        name = str(toml) if toml else "show.toml"
        problems += [_problem(detail, sources, name) for detail in error.errors(include_url=False)]
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    settings._remarks = tuple(remarks)  # noqa: SLF001 - its own module's
    return settings


def _read_toml(path: Path | None, problems: list[str]) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    try:
        read = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        problems.append(f"{path}: expected text in UTF-8; byte {error.start} is not")
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path}: no TOML: {error}")
    else:
        if "tokens" in read:
            message = "secrets come from the environment, not from a file that is passed around"
            problems.append(f"{path}: [tokens]: {message}")
            del read["tokens"]
        return read
    return {}


def _refuse_password(given: Mapping[str, Any], source: str, problems: list[str]) -> None:
    """Refuse a database's password where others would see it; the address is not told."""
    studio = given.get("studio")
    database = studio.get("database") if isinstance(studio, Mapping) else None
    if isinstance(database, str) and brings_password(database):
        problems.append(
            f"{source}: [studio] database: expected an address without a password, not one with; "
            "it goes into the environment, in UNDERSTUDY_STUDIO_DATABASE, or into ~/.pgpass"
        )


_OLDER_NAMES: dict[str, tuple[str, str]] = {
    "EXHIBITION_MODE": ("playback", "mode"),
    "SETS_PER_ACTION": ("generate", "sets_per_action"),
    "DEFAULT_INFERENCE_STEPS": ("generate", "default_steps"),
    "PARALLEL_GENERATIONS": ("generate", "parallel"),
}
_R2 = ("R2_ACCOUNT_ID", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET_NAME")


def _r2_endpoint(env: Mapping[str, str]) -> str:
    return f"https://{env.get('R2_ACCOUNT_ID', '')}.r2.cloudflarestorage.com"


def _read_environment(
    env: Mapping[str, str], problems: list[str], remarks: list[str]
) -> dict[str, Any]:
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
        if name.startswith(PREFIX) and name not in _secret_names()
        if not is_service_link(name, value)
    }
    known = _variables()
    sections = set(Settings.model_fields)
    for name, value in ours.items():
        if name.upper() not in known and not name.upper().startswith("UNDERSTUDY_PROGRAMS_"):
            if "TOKEN" in name:
                expected = ", ".join(f"UNDERSTUDY_{one.upper()}_…" for one in sorted(sections))
                message = f"unknown {name}: expected {expected}{nearest(name, known)}"
                problems.append(f"environment: {message}")
            else:
                near = nearest(name, known)
                remarks.append(f"environment: unknown {clean_text(name):.80} has no effect{near}")
            continue
        if not value:
            continue
        try:
            found = _merge(found, _set_by(name, value))
        except (ValueError, RecursionError):  # the value itself is not told: it may be a secret
            problems.append(f"environment: {name}: expected JSON")
    if database := _read_secret(env, STUDIO_DATABASE, problems):
        found = _merge(found, {"studio": {"database": database}})
    tokens = _read_tokens(env, problems)
    if tokens:
        found["tokens"] = tokens
    return found


def _set_by(name: str, value: str) -> dict[str, Any]:
    """What one variable sets: a section's key, or a whole section as JSON.

    Raises:
        ValueError: a table or a list that is not written as JSON.
    """
    section, _, key = name.removeprefix(PREFIX).partition("_")
    section, annotation = section.lower(), Settings.model_fields[section.lower()].annotation
    if not key:
        return {} if (whole := json.loads(value)) is None else {section: whole}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        key = key.lower()
        annotation = annotation.model_fields[key].annotation
    kind = get_origin(annotation) or annotation
    as_json = isinstance(kind, type) and issubclass(kind, BaseModel | Mapping | tuple)
    return {section: {key: json.loads(value) if as_json else value}}


def _variables() -> frozenset[str]:
    """Every variable of ours that sets something, but for those that name a program."""
    keys = (
        f"{section}_{key}"
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for key in field.annotation.model_fields
    )
    return frozenset(
        {
            *_secret_names(),
            *(f"UNDERSTUDY_{name.upper()}" for name in (*keys, *Settings.model_fields)),
        }
    )


def _read_tokens(env: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    tokens: dict[str, Any] = {}
    for role, name in token_variables().items():
        token = _read_secret(env, name, problems)
        sent = role not in _ROLES
        if token and (why_not := why_no_token(token, sent=sent)) is not None:
            problems.append(f"environment: {name}: {why_not}")
        elif token:
            (tokens.setdefault("engines", {}) if sent else tokens)[role] = token
    for kind, name in secret_variables().items():
        secret = _read_secret(env, name, problems)
        if secret and (why_not := why_no_secret(secret)) is not None:
            problems.append(f"environment: {name}: {why_not}")
        elif secret:
            tokens.setdefault("secrets", {})[kind] = secret
    return tokens


def _read_secret(env: Mapping[str, str], name: str, problems: list[str]) -> str | None:
    """What a variable holds, or the file that its ``_FILE`` names; None or empty for nothing."""
    secret, path = env.get(name), env.get(f"{name}_FILE")
    if path and not secret:
        try:
            secret = Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
            problems.append(f"environment: {name}_FILE: {path}: {reason}")
        else:
            if not secret:
                problems.append(f"environment: {name}_FILE: {path}: is empty")
    return secret


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
) -> str:
    location = [str(part) for part in detail["loc"]]
    source = next((name for name, values in sources if _holds(values, location)), file)
    section, *rest = location or ["?"]
    place = f"[{section}] {'.'.join(rest)}".rstrip()
    if detail["type"] == "extra_forbidden":
        message = f"unknown key; expected one of {', '.join(_known_keys(location))}"
    else:
        text = detail["msg"].removeprefix("Value error, ")
        message = text[:1].lower() + text[1:]
        # An address may bring a secret along, and a table of several lines has one in it.
        secret = location[0] == "tokens" or isinstance(detail["input"], Mapping)
        secret = secret or location[-1] in {"url", "endpoint_url", "database"}
        if "not " not in message and not secret:
            message += f", not {detail['input']!r:.60}"
    return f"{source}: {place}: {message}"


def _known_keys(location: Sequence[str]) -> list[str]:
    """The keys that there are in the section or table that `location` is in."""
    if location[0] == "engines":
        return sorted(engine_keys())
    here: Any = Settings
    for part in location[:-1]:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[part].annotation
            if NoneType in get_args(here):  # a table that need not be there
                here = _table_of(here)
        else:  # a list of tables, or tables by name
            here = _table_of(here)
    return sorted(here.model_fields)


def _table_of(annotation: object) -> Any:  # noqa: ANN401 - a model, as `_known_keys` walks them
    return next(inner for inner in get_args(annotation) if hasattr(inner, "model_fields"))


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
