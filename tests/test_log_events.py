"""What is logged can be searched and alerted by: an event is one snake_case word, never prose."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVELS = frozenset({"debug", "info", "warning", "error", "critical", "exception"})
EVENT = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def logged() -> Iterator[tuple[str, ast.expr]]:
    """The place and the event of everything that our code logs."""
    for package in ("cache", "generator", "server"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Call(
                        func=ast.Attribute(value=ast.Name(id="_log" | "log"), attr=level),
                        args=[event, *_],
                    ) if level in LEVELS:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", event


def test_events_are_words_to_search_by() -> None:
    found = list(logged())
    assert len(found) > 100, "the log is found at all"
    prose = [
        f"{place}: {ast.unparse(event)}"
        for place, event in found
        if isinstance(event, ast.JoinedStr)
        or (isinstance(event, ast.Constant) and not EVENT.fullmatch(str(event.value)))
    ]
    assert not prose, prose
