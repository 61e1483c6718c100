"""A release that we did not test, and that may have a known advisory, is not admitted."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TESTED = {
    name.lower().replace("_", "-"): Version(version)
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
}


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_a_lower_bound_is_the_minor_release_that_was_tested(line: str) -> None:
    wanted = Requirement(line)
    tested = TESTED[wanted.name.lower()]
    assert wanted.specifier.contains(tested), f"constraints.txt has {tested}, refused by {line!r}"
    lowest = [Version(each.version) for each in wanted.specifier if each.operator == ">="]
    assert lowest, f"{line!r} has no lower bound"
    assert lowest[0].release[:2] == tested.release[:2], f"{line!r} admits what was never tested"


@pytest.mark.parametrize(
    ("name", "first_sound", "advisory"),
    [
        ("starlette", "0.49.1", "CVE-2025-62727: ranges in quadratic time"),
        ("jinja2", "3.1.6", "CVE-2025-27516"),
        (
            "pillow",
            "12.3.0",
            "CVE-2026-59200 and others: decompression bombs, writes out of bounds",
        ),
        ("aiohttp", "3.14.1", "CVE-2025-69223, CVE-2026-54278: compressed bodies unpacked at once"),
        ("h11", "0.16.0", "CVE-2025-43859: chunked bodies read leniently"),
    ],
)
def test_no_release_with_an_advisory_that_we_know_is_admitted(
    name: str, first_sound: str, advisory: str
) -> None:
    (wanted,) = (each for each in map(Requirement, PROJECT["dependencies"]) if each.name == name)
    (lowest,) = (Version(each.version) for each in wanted.specifier if each.operator == ">=")
    assert lowest >= Version(first_sound), advisory
