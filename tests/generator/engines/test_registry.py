"""A kind of engine is one folder: what is listed in the registry is all that there is to it."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from generator.engines.registry import (
    KINDS,
    UnknownEngine,
    engine_section,
    find_engine,
    recording_engines,
)
from generator.engines.settings import (
    EngineAccess,
    LocalSection,
    NotReady,
    RemoteSection,
)
from generator.outgoing import outgoing_client
from server.config.settings import Settings, SettingsError, load_settings
from server.config.show import load_show
from server.core.clock import VirtualClock
from server.engines.live import live_engines
from server.rehearsal.simulated_engines import probe_engines
from tests.contracts.engine_contract import drawn, recipe
from tests.helpers.servers import ROOT
from tests.helpers.shows import MANUAL, cue, prompt, write_show
from tests.helpers.toy_engines.airbrush.settings import AirbrushSection
from tests.helpers.toy_engines.crayon.settings import CrayonSection

CUES = [cue(0, "start"), prompt(1, "a lamp"), cue(20, "end")]


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "crayon", CrayonSection)
    monkeypatch.setitem(KINDS, "airbrush", AirbrushSection)


TOML = """
[[engines]]
name = "box"
kind = "crayon"
wax = 2.5
hang_after = 3
pace = 0.2
[[engines]]
name = "far"
kind = "airbrush"
url = "http://paint.example"
nozzle = "fine"
"""
TOKEN = {"UNDERSTUDY_AIRBRUSH_TOKEN": "compressed"}


def settings_of(tmp_path: Path, toml: str = TOML, **environ: str) -> Settings:
    (tmp_path / "show.toml").write_text(toml)
    return load_settings(tmp_path / "show.toml", {}, environ)


def test_its_settings_are_read(tmp_path: Path) -> None:
    box, far = settings_of(tmp_path, **TOKEN).engines
    assert isinstance(box, CrayonSection)
    assert (box.wax, box.hang_after, box.local, box.plays_live) == (2.5, 3.0, True, False)
    assert isinstance(far, AirbrushSection)
    assert (far.nozzle, far.local, far.plays_live) == ("fine", False, True)
    assert engine_section(box.model_dump()) == box


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ('kind = "crayon"\nwax = 0', "[engines] 0.wax: input should be greater than 0"),
        ('kind = "crayon"\nurl = "http://x"', "only these have a url: worker, comfyui, older-wire"),
        ('kind = "crayon"\nurl = "x"', "only these have a url: worker, comfyui, older-wire"),
        ('kind = "crayon"\nnozzle = "fine"', "a crayon has no nozzle (a airbrush's)"),
        ('kind = "sketch"\nwax = 2.0', "a sketch has no wax (a crayon's)"),
        ('kind = "crayon"\ndevice = 3', "[engines] 0.device: input should be a valid string"),
        ('kind = "sketch"\nwax = 0', "[engines] 0.wax: input should be greater than 0"),
        ('kind = "crayon"\npace = inf', "[engines] 0.pace: input should be a finite number"),
        (
            'kind = "crayon"\nwaks = 2.0',
            "[engines] 0.waks: unknown key; expected one of a_picture, ",
        ),
        ('kind = "airbrush"\nnozzle = "fine"', "the engine 'a': a airbrush needs a url"),
        ('kind = "airbrush"\nurl = "http://x"', "the engine 'a': a airbrush needs a nozzle"),
        ('kind = "chalk"', "[engines] 0.kind: input should be 'sketch', 'testcard', 'diffusers', "),
        ('kind = "chalk"', "'crayon' or 'airbrush', not 'chalk'"),
        ("kind = 3", "[engines] 0.kind: input should be 'sketch'"),
    ],
)
def test_what_is_wrong_with_them_is_told(tmp_path: Path, engine: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings_of(tmp_path, f'[[engines]]\nname = "a"\n{engine}\n')
    (problem,) = refused.value.problems
    assert expected in str(problem)


def test_a_table_is_expected(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[engines\] 0: expected a table"):
        settings_of(tmp_path, 'engines = ["sketch"]\n')


def test_keys_of_others_that_have_their_default_or_no_effect_are_passed_over() -> None:
    passed_over = {"pace": 0.2, "device": "cpu", "wax": 1.0, "at_once": 1, "recycle_after": 3}
    section = engine_section({"name": "a", "kind": "worker", "url": "http://x", **passed_over})
    assert not passed_over.keys() & section.model_dump().keys()


def test_its_token_is_read_and_brought_to_it_alone(tmp_path: Path) -> None:
    tokens = settings_of(tmp_path, **TOKEN, UNDERSTUDY_WORKER_TOKEN="other").tokens.engines
    assert {kind: token.get_secret_value() for kind, token in tokens.items()} == {
        "airbrush": "compressed",
        "worker": "other",
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [(None, "crayon"), ("far", "airbrush"), ("crayon", "crayon"), ("sketch", "sketch")],
)
def test_it_is_found_by_name_and_by_kind(tmp_path: Path, name: str | None, kind: str) -> None:
    assert find_engine(settings_of(tmp_path).engines, name).kind == kind


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chalk", "no engine 'chalk': expected one of box, far, sketch, testcard, diffusers,"),
        ("airbrush", "no engine 'airbrush'"),
        ("air://x", "the engine at air://x: "),
    ],
)
def test_who_cannot_be_found_is_told(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(UnknownEngine) as unknown:
        find_engine(settings_of(tmp_path).engines, name)
    assert expected in str(unknown.value)


async def test_sets_are_drawn_with_it(tmp_path: Path) -> None:
    found = settings_of(tmp_path, **TOKEN)
    opened = recording_engines(found.engines, 3, folder=tmp_path, tokens=found.tokens.engines)
    async with opened as engines:
        assert [each.name for each in engines] == ["crayon 2.5 1", "airbrush fine compressed"]
        for each in engines:
            assert (await drawn(each, recipe()))[-1].final


async def test_it_plays_live_unless_it_does_not(tmp_path: Path) -> None:
    show = load_show(write_show(tmp_path, CUES, MANUAL + TOML), {}, TOKEN)
    async with live_engines(show, show.plan({}), VirtualClock()) as engines:
        (far,) = engines.ranked
        assert (far.name, far.local) == ("far", False)
        assert (await drawn(far.engine, recipe()))[-1].final


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (TOKEN, "http://paint.example: there is no air"),
        ({}, "UNDERSTUDY_AIRBRUSH_TOKEN is not set"),
    ],
)
async def test_it_is_asked_whether_it_is_there(
    tmp_path: Path, environ: dict[str, str], said: str
) -> None:
    toml = TOML.replace("wax", "live = true\nwax")
    show = load_show(write_show(tmp_path, CUES, MANUAL + toml), {}, environ)
    far, box = await probe_engines(show)
    assert (far.name, far.kind, far.state, far.detail) == ("far", "airbrush", "dead", said)
    assert (box.name, box.kind, box.state) == ("box", "crayon", "not asked")
    assert box.detail == "it draws on this machine, in a process of its own"


# ---------------------------------------------------------------- every kind that there is


def of_kind(kind: str) -> LocalSection | RemoteSection:
    """An engine of a kind, with what it needs."""
    url = "ws://127.0.0.1:9" if kind == "older-wire" else "http://127.0.0.1:9"
    needs = {"url": url, "workflow": "w.json", "model": "owner/name", "nozzle": "fine"}
    needs["answers_to"] = "http://127.0.0.1:9/api/generate/webhook"
    given = {key: needs[key] for key in KINDS[kind].needs}
    if not KINDS[kind].local:
        given["url"] = url
    return engine_section({"name": "a", "kind": kind, **given})


@pytest.mark.parametrize("kind", list(KINDS))
async def test_it_says_in_words_whether_it_is_there(kind: str) -> None:
    section = of_kind(kind)
    async with outgoing_client() as client:
        try:
            said = await section.probe(EngineAccess(client=client))
        except NotReady as error:
            said = str(error)
    assert said
    assert ("on this machine" in said) is section.local


@pytest.mark.parametrize("kind", list(KINDS))
def test_its_settings_can_be_handed_on(kind: str) -> None:
    section = of_kind(kind)
    assert section.kind == kind
    assert engine_section(json.loads(section.model_dump_json())) == section


@pytest.mark.parametrize("kind", list(KINDS))
def test_its_engine_is_found_by_its_name(kind: str) -> None:
    section = KINDS[kind]
    engine = import_module(f"{section.__module__.rpartition('.')[0]}.engine")
    opened = engine.open_engine if section.local else engine.connect_engine
    keywords = ["settings", "wait", "processes"] if section.local else ["settings", "access"]
    signature = inspect.signature(opened)
    assert list(signature.parameters) == keywords
    assert signature.parameters["settings"].annotation == section.__name__


def test_a_show_is_loaded_without_any_engine() -> None:
    heavy = ["numpy", "torch", "diffusers"]
    heavy += [f"{section.__module__.rpartition('.')[0]}.engine" for section in KINDS.values()]
    code = f"import sys, server.config.show; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "[]\n", ran.stderr


def test_the_server_knows_no_kind_by_name() -> None:
    """But for what `understudy worker` serves where it is not told, and its own name."""
    allowed = Path("server/cli/worker.py")
    kinds = set(KINDS) - {"crayon", "airbrush", "worker"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in sorted((ROOT / "server").rglob("*.py"))
        if path.relative_to(ROOT) != allowed
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value in kinds
    ]
    assert found == []
