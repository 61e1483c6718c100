"""A command is declared once; every way to give it, its help and its documentation follow."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field
from typer.testing import CliRunner

from server.cli.control import arguments_of
from server.cli.main import app
from server.control.command import (
    CODES,
    Arguments,
    Caller,
    CommandError,
    Result,
    command,
    command_help,
)
from server.control.commands import COMMANDS
from server.control.commands.supply import SupplyCommands
from server.control.osc import OscCommand, understand
from tests.helpers.command_tables import code_table, command_table
from tests.helpers.screens import web
from tests.helpers.servers import serving
from tests.helpers.shows import cue, make_show
from tests.helpers.technicians import technician

ROOT = Path(__file__).parents[3]


class BowArguments(Arguments):
    who: Annotated[str, Field(description="a name")]
    times: Annotated[int, Field(ge=1, le=9, description="1 to 9")] = 1


@command("curtain.bow")
async def bow(self: object, args: BowArguments, caller: Caller) -> Result:
    """Take a bow."""
    del self
    return {"bows": [args.who] * args.times, "for": caller.name.partition(" ")[0]}


KNOWN = {**COMMANDS, bow.name: bow}


async def test_a_server_takes_it_by_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SupplyCommands, "bow", bow, raising=False)
    tiny = make_show(tmp_path / "show", [cue(0, "start"), cue(9, "end")])
    async with (
        serving(tiny.load()) as address,
        technician(address) as foh,
        web(address) as client,
    ):
        assert "curtain.bow" in foh.of("welcome")[0]["commands"]
        reply = await foh.ask("curtain.bow", who="Ada", times=2)
        assert reply["result"] == {"bows": ["Ada", "Ada"], "for": "foh"}
        post = "/api/control/curtain.bow"
        answer = await client.post(post, json={"who": "Ada"})
        assert answer.json()["result"] == {"bows": ["Ada"], "for": "http"}
        released = await client.post(f"{post}?0")
        assert released.json()["result"] == {"button": "released"}
        refused = await client.post(post, json={"who": "Ada", "times": 10})
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "times: expected 1 to 9, not 10"
        in_query = await client.post(f"{post}?who=Ada")
        assert "who: expected in the body" in in_query.json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "who: expected a name"),
        ({"whom": "Ada"}, "unknown argument 'whom': it takes who, times"),
        ({"who": 7}, "who: expected a name, not 7"),
    ],
)
def test_what_it_does_not_take_is_named_with_what_was_expected(
    given: dict[str, Any], says: str
) -> None:
    with pytest.raises(CommandError) as refused:
        bow.read(given)
    assert (refused.value.code, str(refused.value)) == ("bad_args", says)


def test_osc_gives_its_arguments_in_the_order_of_the_fields() -> None:
    asked = understand("/understudy/curtain/bow", ["Ada", 3], KNOWN)
    assert asked == OscCommand("curtain.bow", {"who": "Ada", "times": 3})
    asked = understand("/understudy/curtain/bow/Ada", [0], KNOWN)
    assert asked == OscCommand("curtain.bow", {"who": "Ada"}, released=True)
    with pytest.raises(CommandError, match="takes who times, not 3 arguments"):
        understand("/understudy/curtain/bow", ["Ada", "b", "c"], KNOWN)


def test_a_terminal_reads_numbers_where_it_takes_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert arguments_of(bow, ["who=7", "times=3"]) == {"who": "7", "times": 3}
    assert arguments_of(None, ["who=7"]) == {"who": 7}, "a newer server knows what it means"
    with pytest.raises(SystemExit):
        arguments_of(bow, ["Ada"])
    assert "curtain.bow takes who=…, times=…" in capsys.readouterr().err


def test_it_stands_in_the_help_and_in_the_documentation() -> None:
    assert command_help([bow]) == "curtain.bow who times: Take a bow."
    assert command_table([bow]).splitlines()[-1] == (
        "| `curtain.bow` | `who`, `times` | Take a bow. |"
    )


def test_the_help_and_the_documentation_have_every_command_and_code() -> None:
    told = " ".join(CliRunner().invoke(app, ["control", "--help"]).output.split())
    for each in COMMANDS.values():
        assert f" {each.name}{''.join(f' {name}' for name in each.fields)}: " in told
    text = (ROOT / "docs" / "control.md").read_text("utf-8")
    for table in (command_table(COMMANDS.values()), code_table()):
        assert table in text, f"docs/control.md wants this table:\n{table}"


def test_every_code_that_is_raised_is_declared() -> None:
    # The Studio's codes are its own: tests/server/studio/test_hostile_requests.py looks at them.
    files = [path for path in (ROOT / "server").rglob("*.py") if "studio" not in path.parts]
    trees = [ast.parse(path.read_text("utf-8")) for path in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    refusals = {
        node.name
        for node in nodes
        if isinstance(node, ast.ClassDef) and "Refused" in map(ast.unparse, node.bases)
    }
    raised = set()
    for node in nodes:
        match node:
            case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(code)), _]) if (
                name in refusals - {"MessageError"}  # no socket's answer has a status of HTTP
            ):
                raised.add(code)
    assert {"bad_args", "no_standby", "screen_named", "unauthorized", "rehearsing"} <= raised
    assert raised <= CODES.keys()
