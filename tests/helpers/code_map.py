"""The map of the code in `docs/architecture.md`, made of what the packages say of themselves.

`python -m tests.helpers.code_map` writes it anew; a test compares.
"""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
TITLE = "## Where everything lives\n"
_WIDTH = 130
_INDENT = " " * 4


def code_map() -> str:
    """Every package with the first sentence of its docstring, and the names of its modules."""
    lines = []
    for package in ("cache", "generator", "server"):
        folders = [ROOT / package, *sorted((ROOT / package).rglob("*/"))]
        for folder in folders:
            if (folder / "__init__.py").exists():
                lines += _entry(folder)
    return "```\n" + "\n".join(lines) + "\n```\n"


def _entry(folder: Path) -> list[str]:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    assert docstring, f"{folder} does not say what it is"
    says = " ".join(docstring.partition("\n\n")[0].split())
    modules = sorted(
        path.stem for path in folder.glob("*.py") if path.stem not in {"__init__", "__main__"}
    )
    head = f"{folder.relative_to(ROOT).as_posix()}/"
    return [
        *textwrap.wrap(f"{head:<42}{says}", _WIDTH, subsequent_indent=" " * 42),
        *textwrap.wrap(
            "  ".join(modules), _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
        ),
    ]


def with_map(text: str) -> str:
    """The document, its map as the code is now."""
    before, title, after = text.partition(TITLE)
    start = after.index("```\n")
    end = after.index("```\n", start + 4) + 4
    return before + title + after[:start] + code_map() + after[end:]


if __name__ == "__main__":
    DOCUMENT.write_text(with_map(DOCUMENT.read_text("utf-8")), "utf-8")
