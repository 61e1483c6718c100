"""The tables of `docs/control.md`; `tests/server/control/test_commands.py` compares."""

from __future__ import annotations

from collections.abc import Iterable

from server.control.command import CODES, ControlCommand


def command_table(commands: Iterable[ControlCommand]) -> str:
    """Every command with its arguments and what it does, as the documentation has it."""
    rows = ["| command | arguments | what it does |", "| --- | --- | --- |"]
    for each in commands:
        names = ", ".join(f"`{name}`" for name in each.fields)
        may = " A viewer may." if each.viewers else ""
        rows.append(f"| `{each.name}` | {names} | {each.summary}{may} |")
    return "\n".join(rows)


def code_table() -> str:
    """Every code, its status over HTTP, and why not, as the documentation has it."""
    rows = [f"| `{code}` | {status} | {why} |" for code, (status, why) in CODES.items()]
    return "\n".join(["| code | HTTP | why not |", "| --- | --- | --- |", *rows])
