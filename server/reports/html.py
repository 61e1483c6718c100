"""From a report to one HTML file that asks for nothing.

Whatever the show says is escaped by the templates. Beyond that the page forbids itself all it
does not need: its policy names the one script and the one style sheet by their digests, and no
address at all.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cache.thumbnails import MEDIA_TYPE, Thumbnail
from server.diagnostics.report import Report
from server.reports.contact_sheets import ContactSheet
from server.reports.formatting import clock, factor, meaning, seconds, summary
from server.reports.timeline import run_anchor
from server.reports.view_model import view_of

_FONTS: Final = Path(__file__).parents[1] / "web" / "static" / "fonts"

_LATIN: Final = (
    "U+0000-00FF, U+0131, U+0152-0153, U+02BB-02BC, U+02C6, U+02DA, U+02DC, U+2000-206F, U+20AC, "
    "U+2122, U+2190-2193, U+2212, U+FEFF, U+FFFD"
)
_LATIN_EXT: Final = (
    "U+0100-0130, U+0132-0151, U+0154-02BA, U+02BD-02C5, U+02C7-02CC, U+02CE-02D7, U+02DD-02FF, "
    "U+1E00-1E9F, U+1EF2-1EFF"
)
_EXTENDED: Final = re.compile("[\u0100-\u0130\u0132-\u0151\u0154-\u02ba\u1e00-\u1eff]")
"""Letters for which the larger part of the typefaces is worth its weight."""

_FACES: Final = (
    ("Newsreader", "200 800", "newsreader-latin-opsz-normal.woff2", _LATIN, False),
    ("Plex Mono", "400", "ibm-plex-mono-latin-400-normal.woff2", _LATIN, False),
    ("Newsreader", "200 800", "newsreader-latin-ext-opsz-normal.woff2", _LATIN_EXT, True),
    ("Plex Mono", "400", "ibm-plex-mono-latin-ext-400-normal.woff2", _LATIN_EXT, True),
)


def render_page(report: Report, contacts: Mapping[str, ContactSheet]) -> str:
    """One HTML page, whole in itself: the same report and pictures give the same page.

    Takes some tenths of a second for a long show: to be done beside an event loop.

    Args:
        report: of the rehearsal.
        contacts: the pictures by action, from `contact_sheets`; empty for a page without.
    """
    environment = _environment()
    view = view_of(report, contacts)
    extended = any(_EXTENDED.search(text) for text in _texts(report, view.title))
    style = _faces(extended=extended) + _source("page.css")
    script = _source("page.js")
    policy = (
        "default-src 'none'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    return environment.get_template("page.html").render(
        view=view,
        report=report,
        summary=summary(report),
        meaning=meaning(report),
        policy=policy,
        style=Markup(style),  # noqa: S704 - ours, and in it nothing of the show's
        script=Markup(script),  # noqa: S704 - likewise
    )


def _texts(report: Report, title: str) -> set[str]:
    """What the piece says, and what is said of it: all that is set large."""
    prompts = {run.prompt for run in report.cues}
    messages = {finding.message for finding in report.findings}
    return {title, *prompts, *messages, *(cue.label for cue in report.sheet)}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("server.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "anchor": run_anchor,
        "clock": clock,
        "coded": _coded,
        "factor": factor,
        "n": _number,
        "seconds": seconds,
        "uri": _uri,
    }
    return environment


def _number(value: float) -> str:
    """A coordinate, no longer than it must be."""
    return f"{value:.1f}".removesuffix(".0")


def _uri(small: Thumbnail) -> str:
    return f"data:{MEDIA_TYPE};base64,{base64.b64encode(small.data).decode()}"


def _coded(text: str) -> Markup:
    """Escaped, and what stands between two backticks as what it is: something to be typed."""
    plain, *rest = text.split("`")
    said = escape(plain)
    for place, part in enumerate(rest):
        typed = place % 2 == 0 and place + 1 < len(rest)
        said += Markup("<code>{}</code>").format(part) if typed else escape(part)
    return said


def _source(name: str) -> str:
    """A file beside the templates that is no template: braces mean something else in it."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


@cache
def _faces(*, extended: bool) -> str:
    return "\n".join(
        f'@font-face {{ font-family: "{family}"; font-weight: {weight}; font-display: block; '
        f"src: url(data:font/woff2;base64,{_base64(_FONTS / name)}) format('woff2'); "
        f"unicode-range: {ranges} }}"
        for family, weight, name, ranges, only_extended in _FACES
        if extended or not only_extended
    )


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
