"""What the server may say can be looked up, and the map of the code has every module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from cache.model.keys import ACTIONS_PREFIX, QUARANTINE_PREFIX
from generator.jobs.drawing import TAKES
from generator.jobs.request import JobRequest
from server.diagnostics.findings import table
from server.stage.presence import _CODES
from tests.helpers import code_map
from tests.helpers.studios import show_in, studio

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def sources() -> Iterator[Path]:
    for package in ("cache", "generator", "server"):
        yield from sorted((ROOT / package).rglob("*.py"))


def condition_codes() -> set[str]:
    """The code of every `Condition` that is made anywhere; one by a variable is known here."""
    found = set(_CODES.values())
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="Condition"), args=[ast.Constant(value=code), *_]):
                    found.add(str(code))
                case ast.Call(func=ast.Name(id="Condition"), args=[first, *_]):
                    assert ast.unparse(first).startswith("_CODES["), f"{path}: which codes?"
    return found


def test_every_condition_can_be_looked_up() -> None:
    text = (DOCS / "venues.md").read_text(encoding="utf-8")
    title = "## Everything that the health may say\n"
    section = text.partition(title)[2].partition("\n## ")[0]
    listed = {
        code
        for line in section.splitlines()
        if line.startswith("| `")
        for code in re.findall(r"`([a-z_]+)`", line.split("|")[1])
    }
    assert listed == condition_codes()


def test_every_finding_can_be_looked_up() -> None:
    assert table() in (DOCS / "rehearsal.md").read_text(encoding="utf-8")


def fields_in(text: str, head: str) -> list[str]:
    """What stands in the first column of the table that begins with `head`."""
    rows = text.partition(f"{head}\n| --- | --- |\n")[2].partition("\n\n")[0].splitlines()
    return [name for row in rows for name in re.findall(r"`([a-z_]+)`", row.split(" | ")[0])]


async def test_every_field_of_a_job_can_be_looked_up(tmp_path: Path) -> None:
    section = (DOCS / "studio.md").read_text(encoding="utf-8").partition("The **job**")[2]
    async with studio(show_in(tmp_path)) as served, served.caller() as caller:
        job = await caller.over(await caller.ask())
    assert sorted(fields_in(section, "| field | |")) == sorted(job)
    assert sorted(fields_in(section, "| of each picture | |")) == sorted(job["items"][0])
    asked = (DOCS / "studio.md").read_text(encoding="utf-8").partition("What may be asked:")[2]
    named = {field.alias or name for name, field in JobRequest.model_fields.items()}
    to_come = {"mask", "edit", "enlarge"}
    assert set(fields_in(asked, "| field | |")) == named - to_come - {"kind", "all"}


def test_what_a_studio_logs_can_be_looked_up() -> None:
    listed = set(fields_in((DOCS / "studio.md").read_text(encoding="utf-8"), "| event | |"))
    told: dict[str, str] = {}
    for folder in ("generator/jobs", "server/studio", "generator/engines/callback"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(
                        func=ast.Attribute(value=ast.Name(id="_log"), attr=level),
                        args=[ast.Constant(value=event), *_],
                    ):
                        told[str(event)] = level
    assert listed <= told.keys() | {"queue_resumed"}
    troubles = {event for event, level in told.items() if level != "info"}
    assert troubles - listed == set()


def test_the_map_of_the_code_is_the_code() -> None:
    text = code_map.DOCUMENT.read_text("utf-8")
    assert text == code_map.with_map(text), "python -m tests.helpers.code_map writes it anew"


def test_what_is_drawn_for_the_demo_is_no_change_of_the_repository() -> None:
    """The repository's root is the demo's store: what drawing leaves there is ignored by git."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    takes = f"{TAKES.partition('/')[0]}/"
    assert {f"/{prefix}" for prefix in (ACTIONS_PREFIX, QUARANTINE_PREFIX, takes)} <= set(ignored)


def test_links_between_the_pages_lead_somewhere() -> None:
    def anchors(page: Path) -> set[str]:
        titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    astray = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (anchor and anchor not in anchors(there)):
                astray.append(f"{page.name}: {target}")
    assert astray == []


def test_the_files_that_are_named_are_there() -> None:
    named = re.compile(r"`([\w./-]*/[\w-]+\.(?:py|js|html|toml))`")
    gone = [
        f"{page.name}: {path}"
        for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")))
        for path in named.findall(page.read_text(encoding="utf-8"))
        if not path.startswith("/")  # an address of the server
        and not any((ROOT / over / path).exists() for over in ("", "cache", "generator", "server"))
    ]
    assert gone == []


def test_the_names_that_are_to_be_looked_for_in_a_file_are_in_it() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Where is it decided\n")[2].partition("\n## ")[0]
    named = [
        (path, name)
        for path, names in re.findall(r"`([\w/]+\.py)` \(([^)]*)\)", section)
        for name in re.findall(r"`(\w+)`", names)
    ]
    assert len(named) > 20
    astray = [
        f"{path}: {name}"
        for path, name in named
        if not re.search(
            rf"^\s*(?:(?:async )?def|class) {name}\b|^{name}\b",
            (ROOT / path).read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    ]
    assert astray == []
