"""The sections of `show.toml`: what may be set, with its bounds and its default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from cache.outgoing import has_password
from generator.sheet.cues import Draw, Failover, Mode
from server.config.lobby import LANGUAGES, TEXTS, check_language, check_texts, shipped_texts
from server.config.screen_names import ScreenName

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

_RATE = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*([kKMG]?)(?:bit/s)?", re.ASCII)
_MULTIPLES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
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


def bits_per_second(value: object) -> object:
    """A rate as people write it: ``10_000_000``, ``"10M"``, ``"2.5 Mbit/s"``; in bits a second.

    Raises:
        ValueError: a text that is no rate.
    """
    if not isinstance(value, str):
        return value
    found = _RATE.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"expected bits a second such as 10_000_000 or 10M, not {value!r}")
    return round(float(found[1].replace("_", "")) * _MULTIPLES[found[2].upper()])


TimeOfDay = Annotated[str, AfterValidator(_time_of_day)]
BitsPerSecond = Annotated[int, BeforeValidator(bits_per_second), Field(ge=0, le=10**12)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
    """`[playback]`: how a cue becomes frames. Times in seconds.

    `live_runs_per_hour` and `live_at_once` cap what is drawn live; 0 is no cap. From `seed`
    follows what is left to chance, which set comes next above all; without one, this machine
    draws and remembers one of its own.
    """

    mode: Mode = "static"
    draw: Draw = "enter"
    fit: Literal["squeeze", "recorded"] = "squeeze"
    first_frame_timeout: FirstFrameTimeout = FirstFrameTimeout()
    frame_gap_timeout: Annotated[float, Field(gt=0)] = 5.0
    fallback: bool = True
    failover: Failover = "continue"
    harvest: bool = False
    lead: Seconds = 0.5
    live_runs_per_hour: Annotated[int, Field(ge=0)] = 0
    live_at_once: Annotated[int, Field(ge=0)] = 0
    min_go: Seconds = 0.5
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None


class DisplaySection(_Section):
    """`[display]`: how it looks, and what the lobby says. Times in seconds.

    `language` is the lobby's; `texts` say by name what is to be said otherwise.
    """

    crossfade: Seconds = 3.0
    fade: Seconds = 5.0
    captions: bool = True
    progress: bool = True
    badge: bool = False
    language: Annotated[str, AfterValidator(check_language)] = "en"
    hours: Literal["24", "12"] = "24"
    texts: Annotated[Mapping[str, str], AfterValidator(check_texts)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_say_all(self) -> Self:
        if missing := [name for name in TEXTS if name not in self.lobby_texts]:
            raise ValueError(
                f"language: nothing is shipped in {self.language!r}, but in "
                f"{', '.join(LANGUAGES)}; for another, texts has to say: {', '.join(missing)}"
            )
        return self

    @property
    def lobby_texts(self) -> dict[str, str]:
        """What the lobby says, by name."""
        return {**shipped_texts(self.language), **self.texts}


class StageSection(_Section):
    """`[stage]`: the screens that are expected, by name; empty for those that are remembered."""

    screens: Annotated[tuple[ScreenName, ...], Field(max_length=64)] = ()


class StoreSection(_Section):
    """`[store]`: where the sets are. A relative `file:` is relative to the show.

    Links in a folder may lead below those of `follow`, such as another disk, and nowhere else.
    """

    url: str = "file:."
    endpoint_url: str | None = None
    follow: tuple[str, ...] = ()


class CacheSection(_Section):
    """`[cache]`: where this machine keeps its copies and what it must remember.

    Attributes:
        dir: for both; relative to the show.
        disk_bytes: that copies may take on disk.
        memory_bytes: that contents may take in memory.
        keep_free: bytes of the disk that copies leave free.
        copies: ``auto`` copies buckets only: a `file:` store is on this machine already.
        bandwidth: that fetching ahead may use; 0 for all there is.
        parallel: how many files are fetched ahead at once.
        asrun_days: how many days a run is kept in the as-run log.
    """

    dir: str = ".understudy"
    disk_bytes: Bytes = 20 * 2**30
    memory_bytes: Bytes = 256 * 2**20
    keep_free: Bytes = 2**30
    copies: Literal["auto", "always", "never"] = "auto"
    bandwidth: BitsPerSecond = 0
    parallel: Annotated[int, Field(ge=1, le=32)] = 4
    asrun_days: Annotated[float, Field(gt=0, le=36_500)] = 400.0


class GenerateSection(_Section):
    """`[generate]`: how many sets are drawn, and how many at once (0: one a core)."""

    sets_per_action: Annotated[int, Field(ge=1, le=10_000)] = 5
    parallel: Annotated[int, Field(ge=0, le=1024)] = 0
    default_steps: Annotated[int, Field(ge=1, le=1000)] | None = None


def _network(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"expected an address or a network such as 10.0.0.0/24, not {text!r}"
        ) from None
    return text


_OUR_PATHS = frozenset(
    {"api", "assets", "control", "frames", "healthz", "media", "metrics", "readyz", "rehearsal"}
    | {"static", "still", "studio", "ws"}
)


_STUDIO_PATHS = frozenset(
    {"api", "assets", "healthz", "metrics", "readyz", "references", "static", "takes", "ws"}
)


def _public_url(text: str, ours: frozenset[str] = _OUR_PATHS) -> str:
    if not text:
        return text
    expected = "expected an address such as https://venue.example/show/"
    try:
        parts = urlsplit(text)
        whole = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        raise ValueError(f"{expected}, not {text!r:.60}") from None
    if has_password(text) or not whole or parts.query or parts.fragment:
        raise ValueError(f"{expected}: without user, password, ? or #, not another")
    first = parts.path.strip("/").partition("/")[0]
    if first in ours:
        raise ValueError(f"{expected}: not /{first}, which is one of our own addresses")
    return text


class ServerSection(_Section):
    """`[server]`: where it listens, and which pages beside its own may connect.

    `public_url` is the address under which a reverse proxy shows it, its path included;
    `trusted_proxies` are the addresses and networks of those whose word on who asks is taken.

    `osc_port` 0 listens for no OSC. OSC knows no tokens: beyond loopback, `osc_senders` names
    the addresses and networks that may operate.

    `max_connections` of browsers and others are open at a time, `max_connections_per_address` of
    them from one address (a wall's browser opens seven), unless that is loopback; and
    `max_screens` of them are screens.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    origins: tuple[str, ...] = ()
    max_connections: Annotated[int, Field(ge=32, le=60_000)] = 1000
    max_connections_per_address: Annotated[int, Field(ge=16, le=60_000)] = 512
    max_screens: Annotated[int, Field(ge=1, le=10_000)] = 64
    osc_port: Annotated[int, Field(ge=0, le=65535)] = 0
    osc_host: str = "127.0.0.1"
    osc_senders: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    public_url: Annotated[str, AfterValidator(_public_url)] = ""
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = ()

    @model_validator(mode="after")
    def _osc_knows_its_senders(self) -> Self:
        if self.osc_port and not is_loopback(self.osc_host) and not self.osc_senders:
            raise ValueError(
                f"OSC knows no tokens: not listening for it on {self.osc_host} without "
                'osc_senders = ["10.0.0.7", ...], the addresses that may operate'
            )
        return self


def _studio_url(text: str) -> str:
    return _public_url(text, _STUDIO_PATHS)


_DATABASES = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_DATABASE_EXPECTED = (
    "expected an address such as postgresql://understudy@db.example/studio or "
    "sqlite:////srv/studio.sqlite"
)


def _database(address: SecretStr) -> SecretStr:
    """The address as it is opened; what is wrong with it is told without it."""
    scheme, found, rest = address.get_secret_value().partition("://")
    try:
        parts = urlsplit(f"x://{rest}")
        # It is what finds out that the port is none.
        whole = bool(found and rest.strip("/")) and (parts.port or 1) > 0
    except ValueError:
        whole = False
    if scheme not in _DATABASES or not whole or not rest.isprintable() or " " in rest:
        raise ValueError(_DATABASE_EXPECTED)
    return SecretStr(f"{_DATABASES[scheme]}://{rest}")


def _reachable(text: str) -> str:
    host = re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?", text, re.ASCII)
    numeric = re.fullmatch(r"[0-9a-fA-Fx.:/]+", text, re.ASCII) and re.search(r"[.:/]", text)
    try:
        ip_network(text.strip("[]"))
    except ValueError:
        if host is None or numeric:
            raise ValueError(
                f"expected a host, an address or a network such as 10.0.0.0/24, not {text!r:.80}"
            ) from None
    return text


class StudioSection(_Section):
    """`[studio]`: the artist's server: where it listens, what it keeps, and what it may cost.

    Attributes:
        host, port, origins, public_url, trusted_proxies: as in `ServerSection`.
        database: where jobs, members and webhooks are kept; None for a file in the folder of
            `[cache]`. An address with a password comes from the environment.
        keep_free: bytes of the disk below which nothing new is drawn.
        hooks_may_reach: hosts, addresses and networks that webhooks may reach although they are
            not public.
        pictures_a_day: that a member may ask for in 24 hours, where nothing else was said of it;
            None for any number.
        currency: what costs are in.
        show_url: where the server is that plays the show, so that it is told of picks; empty for
            where `[server]` has it.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8100
    origins: tuple[str, ...] = ()
    public_url: Annotated[str, AfterValidator(_studio_url)] = ""
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    database: Annotated[SecretStr, AfterValidator(_database)] | None = None
    keep_free: Bytes = 2**30
    hooks_may_reach: tuple[Annotated[str, AfterValidator(_reachable)], ...] = ()
    pictures_a_day: Annotated[int, Field(ge=1)] | None = None
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"
    show_url: Annotated[str, AfterValidator(_public_url)] = ""

    @property
    def server(self) -> ServerSection:
        """Where it listens, as of any server of ours."""
        return ServerSection().model_copy(
            update={
                "host": self.host,
                "port": self.port,
                "origins": self.origins,
                "public_url": self.public_url,
                "trusted_proxies": self.trusted_proxies,
            }
        )


def brings_password(database: str) -> bool:
    """Whether the address of a database has a password in it, in whichever of its two places."""
    rest = database.partition("://")[2]
    place, _, query = rest.partition("?")
    before, at, _ = place.rpartition("@")
    in_query = any(each.partition("=")[0].endswith("password") for each in query.split("&"))
    return bool(at and ":" in before) or in_query


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address) is this machine and nothing else."""
    host = host.strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Tokens(_Section):
    """Secrets, from the environment alone. None: there is no such token.

    Attributes:
        operator: lets in who may operate, as `viewer` and `screen` let in others.
        engines: what is brought to engines elsewhere, by their kind. A worker of ours wants the one
            that workers are brought.
        secrets: what engines elsewhere sign their answers with, by their kind.
    """

    operator: SecretStr | None = None
    viewer: SecretStr | None = None
    screen: SecretStr | None = None
    engines: Mapping[str, SecretStr] = Field(default_factory=dict)
    secrets: Mapping[str, SecretStr] = Field(default_factory=dict)
