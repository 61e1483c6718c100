"""The sections of `show.toml`: what may be set, with its bounds and its default."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from generator.cues import Identifier, Mode

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

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
    """`[cache]`: where this machine keeps its copies and what it must remember.

    `asrun_days` is how many days a run is kept in the as-run log.
    """

    dir: str = ".understudy"
    disk_bytes: Bytes = 20 * 2**30
    memory_bytes: Bytes = 256 * 2**20
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


class ServerSection(_Section):
    """`[server]`: where it listens, and which pages beside its own may connect.

    `osc_port` 0 listens for no OSC. OSC knows no tokens: beyond loopback, `osc_senders` names
    the addresses and networks that may operate.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    origins: tuple[str, ...] = ()
    osc_port: Annotated[int, Field(ge=0, le=65535)] = 0
    osc_host: str = "127.0.0.1"
    osc_senders: tuple[Annotated[str, AfterValidator(_network)], ...] = ()

    @model_validator(mode="after")
    def _osc_knows_its_senders(self) -> Self:
        if self.osc_port and not _is_loopback(self.osc_host) and not self.osc_senders:
            raise ValueError(
                f"OSC knows no tokens: not listening for it on {self.osc_host} without "
                'osc_senders = ["10.0.0.7", ...], the addresses that may operate'
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


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
