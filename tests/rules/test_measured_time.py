"""A busy machine fails no test: real time that was measured is compared with nothing near.

A test may wait for something with a generous time-out, and may say that something took at least so
long. What says that it took less than a few seconds measures the machine as well: it carries
the marker `pace`, and is run again, or it belongs among the benchmarks.

What is looked for are differences of a clock's readings within one test. Durations that come from
elsewhere, such as a helper's result or an engine's report, are not seen: mark those by hand.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
CLOCKS = frozenset({"monotonic", "perf_counter", "process_time", "thread_time"})
GENEROUS = 10.0
"""Seconds that no machine is too busy for: a bound of at least so much is a time-out."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_marked(node: Function | ast.ClassDef) -> bool:
    return any(ast.unparse(each).startswith("pytest.mark.pace") for each in node.decorator_list)


def unmarked(body: list[ast.stmt]) -> Iterator[Function]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not is_marked(node):
            yield from unmarked(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_marked(node):
            yield node


def reads_clock(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="time" | "loop"), attr="time")):
            return True
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name in CLOCKS
    return False


def bound(function: Function) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value


def is_generous(bound: ast.expr) -> bool:
    if isinstance(bound, ast.Constant) and bound.value == 0:
        return True  # what is left until a deadline
    return any(
        isinstance(each, ast.Constant)
        and isinstance(each.value, int | float)
        and each.value >= GENEROUS
        for each in ast.walk(bound)
    )


def measuring(function: Function) -> Iterator[int]:
    """The lines on which a measured time is said to be short."""
    assigned = list(bound(function))
    readings = {name for name, value in assigned if any(map(reads_clock, ast.walk(value)))}

    def is_reading(node: ast.AST) -> bool:
        return reads_clock(node) or (isinstance(node, ast.Name) and node.id in readings)

    def is_difference(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Sub)
            and any(map(is_reading, ast.walk(node)))
        )

    differences = {name for name, value in assigned if any(map(is_difference, ast.walk(value)))}

    def is_measured(node: ast.expr) -> bool:
        return any(
            is_difference(each) or (isinstance(each, ast.Name) and each.id in differences)
            for each in ast.walk(node)
        )

    for node in ast.walk(function):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
            pairs = {
                ast.Lt: [(left, right)],
                ast.LtE: [(left, right)],
                ast.Gt: [(right, left)],
                ast.GtE: [(right, left)],
                ast.Eq: [(left, right), (right, left)],
            }.get(type(operator), [])
            if any(is_measured(one) and not is_generous(other) for one, other in pairs):
                yield node.lineno


def test_no_test_measures_the_machine_unless_it_is_marked() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for function in unmarked(ast.parse(path.read_text("utf-8")).body)
        for line in measuring(function)
    ]
    assert not found, found


def test_what_measures_is_found() -> None:
    source = """
def test_short():
    began = time.monotonic()
    took = time.monotonic() - began
    assert took < 2
    assert 0.5 < took <= 1
    assert 3 > time.monotonic() - began

def test_guarded():
    until = loop.time() + 5
    while loop.time() < until:
        assert time.monotonic() - until < PATIENCE + 30
    assert time.monotonic() - until >= 0.5

@pytest.mark.pace
def test_of_pace():
    began = perf_counter()
    assert perf_counter() - began < 0.1
"""
    short, guarded = unmarked(ast.parse(source).body)
    assert [*measuring(short)] == [5, 6, 7]
    assert [*measuring(guarded)] == []
