"""A show: everything the artist made, loaded and checked; it does not change while it plays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from cache.model.images import BadImage, check_image
from generator.sheet.base_image import default_base_image
from generator.sheet.cues import CueSheet, CueSheetError, parse_cues
from generator.sheet.plan import Finished, Plan, plan_actions
from generator.sheet.programs import DEFAULT_PROGRAM, DEFAULT_PROGRAMS, Program
from server.config.local_zone import NAMELESS, BadZone, local_zone
from server.config.sections import ShowSection
from server.config.settings import Settings, SettingsError, load_settings

DEMO = Path(__file__).resolve().parents[2] / "demo"
"""The bundled show, played where no other is named."""


class ShowError(Exception):
    """A show that cannot be played.

    Attributes:
        problems: everything that is wrong, a line each.
        elsewhere: those of them that are not about cues: settings, pictures, files.
        of_cues: what is wrong with the cue sheet, cue by cue.
        sheet: path of the cue sheet; empty where it was not read.
    """

    def __init__(self, elsewhere: Sequence[str], sheet: CueSheetError | None = None) -> None:
        self.elsewhere = tuple(elsewhere)
        self.of_cues = () if sheet is None else sheet.problems
        self.sheet = "" if sheet is None else sheet.source
        self.problems = (*self.elsewhere, *(() if sheet is None else sheet.lines()))
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture and what it is."""

    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Show:
    """The piece, ready to play.

    Attributes:
        folder: where it lives; relative paths in it start here.
        toml: the `show.toml` it was loaded from, which need not exist.
        settings: everything that can be set.
        sheet: the cues.
        base_images: encoded base image by program, one for each image-to-image program.
        still: the show's own still image, shown where nothing else can be.
        duration: seconds that a screening takes.
        timezone: in which the schedule is meant.
    """

    folder: Path
    toml: Path
    settings: Settings
    sheet: CueSheet
    base_images: Mapping[str, bytes]
    still: Picture | None
    duration: float
    timezone: ZoneInfo

    @property
    def title(self) -> str:
        """What the piece is called."""
        return self.settings.show.title

    @property
    def programs(self) -> Mapping[str, Program]:
        """How each family of cues is drawn."""
        return self.settings.programs

    @property
    def timezone_name(self) -> str:
        """A name that a browser knows; empty where the zone has none."""
        return self.timezone.key if self.timezone.key not in {None, NAMELESS} else ""

    @property
    def still_key(self) -> str:
        """What opens the still image's address where screens have a token: nobody can guess it."""
        return "" if self.still is None else hashlib.sha256(self.still.data).hexdigest()[:32]

    @property
    def state_folder(self) -> Path:
        """Where this machine keeps what it must remember between two starts.

        The disk is not asked for it: it is wanted where nothing may wait for one.
        """
        return Path(os.path.abspath(self.folder / Path(self.settings.cache.dir).expanduser()))  # noqa: PTH100 - `resolve` reads links

    def plan(self, finished: Finished) -> Plan:
        """The show's actions, given of which recipes there are sets (`Manifest.fingerprints`)."""
        return plan_actions(self.sheet, self.programs, self.base_images, finished)


def load_show(
    path: Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Show:
    """Load a show folder or its `show.toml`; None loads the bundled demo.

    Raises:
        ShowError: with everything that is wrong: settings, cue sheet and pictures.
    """
    path = DEMO if path is None else path
    toml = path if path.suffix == ".toml" else path / "show.toml"
    folder = toml.parent.resolve()
    try:
        there = toml.parent.is_dir() and (path.suffix != ".toml" or path.exists())
    except OSError as error:  # who may not even look into the folder above it
        raise ShowError([f"{path}: the show cannot be read: {error.strerror}"]) from None
    if not there:
        raise ShowError([f"{path}: expected a show folder or its show.toml, found neither"])

    try:
        settings = load_settings(toml, overrides, environ)
    except SettingsError as error:
        # The sheet is checked all the same, so that the artist mends everything in one go.
        raise ShowError(error.problems, _sheet_error_alone(folder)) from None

    problems: list[str] = []
    sheet_problems: list[str] = []
    sheet_error: CueSheetError | None = None
    sheet: CueSheet | None = None
    cues = folder / settings.show.cues
    try:
        sheet = parse_cues(cues.read_bytes(), str(cues), settings.programs)
    except OSError as error:
        sheet_problems.append(f"{cues}: the cue sheet cannot be read: {error.strerror}")
    except CueSheetError as error:
        sheet_error = error
    duration = settings.show.duration or (sheet.duration if sheet else 0.0)
    if sheet is not None and not duration:
        sheet_problems.append(f"{cues}: the screening ends as it begins: its end is at 00:00:00")
    base_images = _base_images(folder, toml, settings, sheet, problems)
    still = _still(folder, toml, settings, problems)
    timezone = _timezone(settings, os.environ if environ is None else environ, toml, problems)
    if problems or sheet_problems or sheet is None:
        raise ShowError([*problems, *sheet_problems], sheet_error)
    return Show(
        folder=folder,
        toml=folder / toml.name,
        settings=settings,
        sheet=sheet,
        base_images=base_images,
        still=still,
        duration=duration,
        timezone=timezone,
    )


def _sheet_error_alone(folder: Path) -> CueSheetError | None:
    """What is wrong with the sheet, as far as that can be told without the settings."""
    cues = folder / ShowSection().cues
    try:
        parse_cues(cues.read_bytes(), str(cues), DEFAULT_PROGRAMS)
    except OSError:
        return None  # the broken show.toml may name another
    except CueSheetError as error:
        # a program may be one of the broken show.toml's
        sure = [problem for problem in error.problems if problem.kind != "unknown_program"]
        return CueSheetError(error.source, sure) if sure else None
    return None


def _base_images(
    folder: Path, toml: Path, settings: Settings, sheet: CueSheet | None, problems: list[str]
) -> dict[str, bytes]:
    drawn = [cue.program for cue in sheet.cues if cue.generates] if sheet else []
    used = {DEFAULT_PROGRAM, *drawn}
    images: dict[str, bytes] = {}
    for name, program in settings.programs.items():
        if not program.image_to_image:
            continue
        if program.base_image is None:
            images[name] = default_base_image()
            continue
        picture = _picture(folder, program.base_image)
        if isinstance(picture, str):
            if name in used:
                problems.append(f"{toml}: [programs.{name}] base_image: {picture}")
        else:
            images[name] = picture.data
    return images


def _still(folder: Path, toml: Path, settings: Settings, problems: list[str]) -> Picture | None:
    if settings.show.still is None:
        return None
    picture = _picture(folder, settings.show.still)
    if isinstance(picture, str):
        problems.append(f"{toml}: [show] still: {picture}")
        return None
    return picture


def _picture(folder: Path, name: str) -> Picture | str:
    """The picture at `name`, or in words why there is none."""
    path = folder / name
    try:
        data = path.read_bytes()
        return Picture(data, check_image(data, path.name))
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except BadImage as error:
        return f"{path}: {error}"


def _timezone(
    settings: Settings, environ: Mapping[str, str], toml: Path, problems: list[str]
) -> ZoneInfo:
    name = settings.show.timezone
    if name != "local":
        return ZoneInfo(name)
    try:
        return local_zone(environ)
    except BadZone as error:
        problems.append(f"{toml}: [show] timezone: {error}")
        return ZoneInfo("UTC")
