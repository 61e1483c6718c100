"""What is logged can be searched and alerted by: an event is one snake_case word, never prose.

A logger is followed within its module: by the name it is bound to, and by the names its methods
are bound to. One that is handed to another module is not seen.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEVELS = frozenset({"debug", "info", "warn", "warning", "error", "critical", "exception", "fatal"})
EVENT = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def is_logger(node: ast.expr, named: set[str]) -> bool:
    """Whether an expression is a logger: one that is asked for here, or has one of these names."""
    match node:
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)):
            return called in {"get_logger", "getLogger"}
        case ast.Name(id="logging" | "structlog"):
            return True
    return ast.unparse(node) in named


def assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[target], value=value):
                yield ast.unparse(target), value
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield ast.unparse(target), value
            case ast.NamedExpr(target=target, value=value):
                yield target.id, value


def events(tree: ast.Module) -> Iterator[tuple[int, ast.expr]]:
    """The line and the event of everything that a module logs."""
    bound = list(assignments(tree))
    loggers = {name for name, value in bound if is_logger(value, set())}

    def writes(node: ast.expr, levels: frozenset[str]) -> bool:
        return (
            isinstance(node, ast.Attribute)
            and node.attr in levels
            and is_logger(node.value, loggers)
        )

    methods = {
        name
        for name, value in bound
        if any(isinstance(each, ast.expr) and writes(each, LEVELS) for each in ast.walk(value))
        and not isinstance(value, ast.Call)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=called, args=[event, *_]) if (
                writes(called, LEVELS) or ast.unparse(called) in methods
            ):
                yield node.lineno, event
            case ast.Call(func=called, args=[_, event, *_]) if writes(called, frozenset({"log"})):
                yield node.lineno, event


def is_event(event: ast.expr, bound: list[tuple[str, ast.expr]]) -> bool:
    match event:
        case ast.Constant(value=str(text)):
            return EVENT.fullmatch(text) is not None
        case ast.IfExp(body=one, orelse=other):
            return is_event(one, bound) and is_event(other, bound)
        case ast.Attribute(attr="code"):
            return True  # a condition's: all of them are looked up in the documents
        case ast.Name(id=name):
            values = [value for each, value in bound if each == name]
            return bool(values) and all(is_event(value, bound) for value in values)
    return False


def prose(source: str) -> tuple[list[str], int]:
    """What is logged and no event, and how much is logged in all."""
    tree = ast.parse(source)
    bound, logged = list(assignments(tree)), list(events(tree))
    wrong = [
        f"{line}: {ast.unparse(event)}" for line, event in logged if not is_event(event, bound)
    ]
    return wrong, len(logged)


def test_events_are_words_to_search_by() -> None:
    found, count = [], 0
    for package in ("cache", "generator", "server"):
        for path in sorted((ROOT / package).rglob("*.py")):
            wrong, logged = prose(path.read_text())
            found += [f"{path.relative_to(ROOT)}:{each}" for each in wrong]
            count += logged
    assert count > 100, "the log is found at all"
    assert not found, found


def test_prose_is_found_however_it_is_logged() -> None:
    source = """
_log = structlog.get_logger(__name__)
_log.warning(
    "it failed",
)
_log.log(30, f"{it}_failed")
_log.info("fine")
logging.getLogger("x").error("it failed again")
logging.warning("it failed again")
self._logger = logging.getLogger()
self._logger.info("It")
log = _log.info if well else _log.warning
log("all is well")
event = "well" if well else "not well"
_log.info(event)
_log.info(condition.code)
wire.error("no logger", "at all")
"""
    wrong, count = prose(source)
    assert (len(wrong), count) == (7, 9)
