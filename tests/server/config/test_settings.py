from __future__ import annotations

import base64
import itertools
import json
import pickle
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from generator.engines.registry import KINDS, engine_section
from generator.engines.settings import RemoteSection
from generator.sheet.programs import DEFAULT_PROGRAMS, Program
from generator.styles import DEFAULT_STYLES, Style
from server.config.sections import FirstFrameTimeout, Tokens
from server.config.settings import Settings, SettingsError, load_settings

SECRET = "hunter2-correct-horse"


def loaded(
    toml: str | None = None,
    environ: dict[str, str] | None = None,
    cli: dict[str, dict[str, Any]] | None = None,
    folder: Path | None = None,
) -> Settings:
    path = None
    if toml is not None:
        assert folder is not None
        path = folder / "show.toml"
        path.write_text(toml, encoding="utf-8")
    return load_settings(path, cli, environ or {})


def told(
    toml: str | None = None,
    environ: dict[str, str] | None = None,
    cli: dict[str, dict[str, Any]] | None = None,
    folder: Path | None = None,
) -> list[str]:
    """What is wrong, a line each, the folder's name left out."""
    with pytest.raises(SettingsError) as caught:
        loaded(toml, environ, cli, folder)
    lines = str(caught.value).splitlines()
    assert lines == list(caught.value.problems)
    return [line.removeprefix(f"{folder}/") for line in lines]


# ---------------------------------------------------------------- who is believed


def test_with_nothing_set_everything_has_a_default(tmp_path: Path) -> None:
    plain = loaded()
    assert plain == load_settings(tmp_path / "no.toml", None, {})
    assert (plain.show.title, plain.show.cues, plain.show.timezone) == (
        "Untitled",
        "cues.json",
        "local",
    )
    assert (plain.playback.mode, plain.schedule.kind, plain.store.url) == (
        "static",
        "loop",
        "file:.",
    )
    assert (plain.display.crossfade, plain.display.fade) == (3.0, 5.0)
    assert plain.playback.first_frame_timeout.static == 2.0
    assert plain.playback.first_frame_timeout.live == 8.0
    assert (plain.playback.frame_gap_timeout, plain.playback.min_go) == (5.0, 0.5)
    assert (plain.server.host, plain.server.port) == ("127.0.0.1", 8000)
    assert plain.programs.keys() == DEFAULT_PROGRAMS.keys()
    assert plain.tokens.operator is None


@dataclass(frozen=True)
class Key:
    """A key, as the file, the environment and the command line would set it, and the values."""

    section: str
    key: str
    default: object
    file: tuple[str, object]
    env: tuple[str, object]
    cli: tuple[object, object]


KEYS = [
    Key("playback", "mode", "static", ('"live"', "live"), ("hybrid",) * 2, ("static",) * 2),
    Key("show", "title", "Untitled", ('"file"', "file"), ("env", "env"), ("cli", "cli")),
    Key("server", "port", 8000, ("1", 1), ("2", 2), (3, 3)),
    Key("display", "fade", 5.0, ("1.5", 1.5), ("2.5", 2.5), (3.5, 3.5)),
    Key("display", "captions", True, ("false", False), ("true", True), (False, False)),
    Key("schedule", "kind", "loop", ('"manual"', "manual"), ("loop", "loop"), ("manual",) * 2),
    Key("generate", "sets_per_action", 5, ("1", 1), ("2", 2), (3, 3)),
    Key("store", "url", "file:.", ('"file:a"', "file:a"), ("file:b",) * 2, ("file:c",) * 2),
    Key("cache", "disk_bytes", 20 * 2**30, ("10", 10), ("20", 20), (30, 30)),
    Key("server", "origins", (), ('["a"]', ("a",)), ('["b"]', ("b",)), (["c"], ("c",))),
]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.section}.{key.key}")
def test_command_line_before_environment_before_file_before_default(
    tmp_path: Path, key: Key
) -> None:
    toml = f"[{key.section}]\n{key.key} = {key.file[0]}\n"
    environ = {f"UNDERSTUDY_{key.section.upper()}_{key.key.upper()}": key.env[0]}
    override = {key.section: {key.key: key.cli[0]}}
    for with_file, with_env, with_cli in itertools.product((False, True), repeat=3):
        found = loaded(
            toml if with_file else "",
            environ if with_env else {},
            override if with_cli else None,
            tmp_path,
        )
        expected = (
            key.cli[1]
            if with_cli
            else key.env[1]
            if with_env
            else key.file[1]
            if with_file
            else key.default
        )
        assert getattr(getattr(found, key.section), key.key) == expected


def test_sources_are_laid_over_each_other_key_by_key(tmp_path: Path) -> None:
    found = loaded(
        '[playback]\nmode = "live"\nlead = 0.1\n[playback.first_frame_timeout]\nstatic = 1\n',
        {"UNDERSTUDY_PLAYBACK_FIRST_FRAME_TIMEOUT": '{"live": 3}'},
        {"playback": {"min_go": 1.0}},
        tmp_path,
    ).playback
    assert (found.mode, found.lead, found.min_go) == ("live", 0.1, 1.0)
    assert (found.first_frame_timeout.static, found.first_frame_timeout.live) == (1.0, 3.0)


def test_a_variable_may_set_one_program() -> None:
    environ = {"UNDERSTUDY_PROGRAMS_P2": '{"steps": 3}'}
    assert loaded(None, environ).programs["P2"].steps == 3


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert loaded(None, {"UNDERSTUDY_PLAYBACK_MODE": "", "EXHIBITION_MODE": ""}) == loaded()
    assert loaded(None, {"UNDERSTUDY_ENGINES": "null", "UNDERSTUDY_STAGE": "null"}) == loaded()


def test_what_is_none_of_ours_is_left_alone() -> None:
    assert loaded(None, {"PATH": "/bin", "UNDERSTUDYING": "x", "PLAYBACK_MODE": "live"}) == loaded()


def test_the_processs_own_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_SHOW_TITLE", "from outside")
    assert load_settings().show.title == "from outside"


# ---------------------------------------------------------------- older names, R2


@pytest.mark.parametrize(
    ("value", "mode"), [("static", "static"), ("live", "live"), ("auto", "hybrid")]
)
def test_exhibition_mode(value: str, mode: str) -> None:
    assert loaded(None, {"EXHIBITION_MODE": value}).playback.mode == mode


def test_the_older_variables_of_the_generator() -> None:
    found = loaded(
        None,
        {"SETS_PER_ACTION": "7", "DEFAULT_INFERENCE_STEPS": "12", "PARALLEL_GENERATIONS": "3"},
    )
    assert (found.generate.sets_per_action, found.generate.parallel) == (7, 3)
    assert found.generate.default_steps == 12
    assert {program.steps for program in found.programs.values()} == {12}


def test_our_own_names_before_the_older_ones_and_these_before_the_file(tmp_path: Path) -> None:
    toml = '[playback]\nmode = "static"\n[generate]\nsets_per_action = 1\n'
    older = {"EXHIBITION_MODE": "auto", "SETS_PER_ACTION": "2"}
    found = loaded(toml, older, None, tmp_path)
    assert (found.playback.mode, found.generate.sets_per_action) == ("hybrid", 2)
    both = {**older, "UNDERSTUDY_PLAYBACK_MODE": "live", "UNDERSTUDY_GENERATE_SETS_PER_ACTION": "3"}
    found = loaded(toml, both, None, tmp_path)
    assert (found.playback.mode, found.generate.sets_per_action) == ("live", 3)


R2 = {
    "R2_ACCOUNT_ID": "0123abc",
    "R2_ACCESS_KEY_ID": f"id-{SECRET}",
    "R2_SECRET_ACCESS_KEY": f"key-{SECRET}",
    "R2_BUCKET_NAME": "exhibition",
}


def test_the_four_of_r2_alone_select_it(tmp_path: Path) -> None:
    found = loaded('[store]\nurl = "file:sets"\n', R2, None, tmp_path)
    assert found.store.url == "s3://exhibition"
    assert found.store.endpoint_url == "https://0123abc.r2.cloudflarestorage.com"
    assert SECRET not in repr(found)


@pytest.mark.parametrize("missing", sorted(R2))
def test_three_of_them_select_nothing(missing: str) -> None:
    assert loaded(None, {**R2, missing: ""}).store.url == "file:."
    rest = {name: value for name, value in R2.items() if name != missing}
    assert loaded(None, rest).store.url == "file:."


def test_the_command_line_may_choose_another_store_than_r2() -> None:
    assert loaded(None, R2, {"store": {"url": "file:sets"}}).store.url == "file:sets"


# ---------------------------------------------------------------- secrets


def token_for(tokens: Tokens, role: str) -> str | None:
    """What lets in who has a role, or is brought to a kind of engine."""
    found = tokens.engines.get(role) or getattr(tokens, role, None)
    return None if found is None else str(found.get_secret_value())


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("operator", "UNDERSTUDY_OPERATOR_TOKEN"),
        ("viewer", "UNDERSTUDY_VIEWER_TOKEN"),
        ("screen", "UNDERSTUDY_SCREEN_TOKEN"),
        ("worker", "UNDERSTUDY_WORKER_TOKEN"),
        ("comfyui", "UNDERSTUDY_COMFYUI_TOKEN"),
        ("replicate", "REPLICATE_API_TOKEN"),
        ("callback", "UNDERSTUDY_CALLBACK_TOKEN"),
    ],
)
def test_tokens_come_from_the_environment_or_a_file_it_names(
    tmp_path: Path, role: str, name: str
) -> None:
    path = tmp_path / "token"
    path.write_text(f"  {SECRET}\n")
    for environ in ({name: SECRET}, {f"{name}_FILE": str(path)}):
        assert token_for(loaded(None, environ).tokens, role) == SECRET
    both = loaded(None, {name: "itself", f"{name}_FILE": str(path)})
    assert token_for(both.tokens, role) == "itself"


SIGNING = "whsec_" + base64.b64encode(bytes(range(24))).decode()


def test_secrets_for_signatures_come_from_the_environment_or_a_file_it_names(
    tmp_path: Path,
) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{SIGNING}\n{SIGNING}\n")
    name = "UNDERSTUDY_CALLBACK_SECRET"
    for environ, secret in (
        ({name: SIGNING}, SIGNING),
        ({f"{name}_FILE": str(path)}, f"{SIGNING}\n{SIGNING}"),
        ({name: SIGNING, f"{name}_FILE": str(path)}, SIGNING),
    ):
        tokens = loaded(None, environ).tokens
        assert {kind: each.get_secret_value() for kind, each in tokens.secrets.items()} == {
            "callback": secret
        }
        assert SIGNING not in repr(tokens) + tokens.model_dump_json()
    assert loaded(None, {}).tokens.secrets == {}


@pytest.mark.parametrize(
    "secret",
    [
        SIGNING.removeprefix("whsec_"),
        "whsec_",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        SIGNING + "*",
        "whsec_\N{SNOWMAN}",
        f"{SIGNING} other",
    ],
)
def test_a_secret_that_could_not_sign_is_told_with_the_command_that_makes_one(secret: str) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(None, {"UNDERSTUDY_CALLBACK_SECRET": secret})
    [problem] = refused.value.problems
    assert problem.startswith("environment: UNDERSTUDY_CALLBACK_SECRET: expected whsec_ and 24 to")
    assert problem.endswith('echo "whsec_$(openssl rand -base64 32)"')
    assert secret not in problem or secret == "whsec_"


def test_secrets_are_never_shown() -> None:
    environ = {f"UNDERSTUDY_{role}_TOKEN": SECRET for role in ("OPERATOR", "VIEWER", "WORKER")}
    found = loaded(None, {**environ, **R2})
    for text in (repr(found), str(found), f"{found.tokens}", found.model_dump_json()):
        assert SECRET not in text
    assert found.tokens.viewer is not None
    assert SECRET not in repr(found.tokens.viewer)


@pytest.mark.parametrize(
    "environ",
    [
        {"UNDERSTUDY_TOKENS": SECRET},
        {"UNDERSTUDY_TOKENS": f'{{"operator": ["{SECRET}"]}}'},
        {"UNDERSTUDY_TOKENS": f'{{"oprator": "{SECRET}"}}'},
        {"UNDERSTUDY_TOKENS_OPRATOR": SECRET},
        {"UNDERSTUDY_OPERATOR_TOKENS": SECRET},
        {"UNDERSTUDY_OPERATR_TOKEN": SECRET},
        {"UNDERSTUDY_OPERATOR_TOKEN": SECRET, "UNDERSTUDY_PLAYBACK_MODE": "nonsense"},
        {**R2, "UNDERSTUDY_SERVER_PORT": "x"},
        {"UNDERSTUDY_PLAYBACK_FIRST_FRAME_TIMEOUT": SECRET},
    ],
)
def test_secrets_are_in_no_error(environ: dict[str, str]) -> None:
    lines = told(None, environ)
    assert lines
    assert SECRET not in "\n".join(lines)
    with pytest.raises(SettingsError) as caught:
        loaded(None, environ)
    assert SECRET not in repr(caught.value)
    assert SECRET not in repr([caught.value.__cause__, caught.value.__suppress_context__])


def test_a_token_in_a_file_that_is_passed_around_is_refused(tmp_path: Path) -> None:
    (line,) = told(f'[tokens]\noperator = "{SECRET}"\n', folder=tmp_path)
    assert line.startswith("show.toml: [tokens]: ")
    assert SECRET not in line


def test_a_token_file_that_gives_no_token_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    lines = told(
        None,
        {
            "UNDERSTUDY_OPERATOR_TOKEN_FILE": str(tmp_path / "absent"),
            "UNDERSTUDY_VIEWER_TOKEN_FILE": str(tmp_path / "empty"),
            "UNDERSTUDY_SCREEN_TOKEN_FILE": str(tmp_path / "binary"),
            "UNDERSTUDY_WORKER_TOKEN_FILE": str(tmp_path),
        },
    )
    expected = {
        "OPERATOR": "No such file",
        "VIEWER": "empty",
        "SCREEN": "UTF-8",
        "WORKER": "directory",
    }
    assert len(lines) == 4
    for line, (role, reason) in zip(lines, expected.items(), strict=True):
        assert line.startswith(f"environment: UNDERSTUDY_{role}_TOKEN_FILE: {tmp_path}")
        assert reason in line


# ---------------------------------------------------------------- what is wrong, all at once


def test_everything_that_is_wrong_is_told_with_its_source_and_place(tmp_path: Path) -> None:
    lines = told(
        "[display]\nfade = -1\nfaed = 2\n[show]\ntimezone = 'Berlin'\n[plaback]\nmode = 'live'\n",
        {
            "UNDERSTUDY_GENERATE_PARALLEL": "-1",
            "UNDERSTUDY_SCHEDULE_SCREENINGS": "09:00",
            "UNDERSTUDY_SCENERY_TOKEN": "red",
            "EXHIBITION_MODE": "sometimes",
        },
        {"server": {"port": 99999}},
        tmp_path,
    )
    expected = [
        ("show.toml: [display] fade: ", "not -1"),
        ("show.toml: [display] faed: ", "expected one of badge, captions"),
        ("show.toml: [show] timezone: ", "not 'Berlin'"),
        ("show.toml: [plaback]: ", "expected one of cache, display"),
        ("environment: [generate] parallel: ", "not '-1'"),
        ("environment: UNDERSTUDY_SCHEDULE_SCREENINGS: ", "expected JSON"),
        ("environment: unknown UNDERSTUDY_SCENERY_TOKEN: ", "UNDERSTUDY_SHOW_"),
        ("environment: [playback] mode: ", "not 'sometimes'"),
        ("command line: [server] port: ", "not 99999"),
    ]
    assert len(lines) == len(expected)
    for start, part in expected:
        assert any(line.startswith(start) and part in line for line in lines), start


@pytest.mark.parametrize(
    ("toml", "place", "known"),
    [
        ("[programs.P2]\nstesp = 3", "[programs] P2.stesp", "steps"),
        ("[playback.first_frame_timeout]\nlvie = 3", "first_frame_timeout.lvie", "live, static"),
        (
            '[[engines]]\nname = "a"\nknid = "sketch"',
            "[engines] 0.knid",
            "hang_after, inputs, keep_models, kind, live, memory_growth, model, name, output",
        ),
        ('[programs.P2]\nloras = [{model="a", wieght=1}]', "loras.0.wieght", "model, weight"),
        ("titel = 'x'", "[titel]", "show"),
    ],
)
def test_an_unknown_key_is_told_with_those_that_exist_there(
    tmp_path: Path, toml: str, place: str, known: str
) -> None:
    (line,) = told(toml, folder=tmp_path)
    assert place in line
    assert f"expected one of {known}" in line or f", {known}" in line


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("[show", "no TOML"),
        ("show = 3", "[show]"),
        ("programs = 4", "[programs]"),
        ("[programs]\nP2 = 3", "[programs] P2"),
        ("generate = []", "[generate]"),
        ("[schedule]\nkind = 'screenings'", 'needs screenings = ["09:00"'),
        ("[schedule]\nkind = 'loop'\nopens = '09:00'", "opens and closes together"),
        ("[schedule]\ndays = []", "names no day"),
        ("[schedule]\ndays = ['monday']", "days.0"),
        ("[schedule]\nscreenings = ['9:00']", "such as 09:30, not '9:00'"),
        ("[schedule]\nscreenings = ['24:01']", "not '24:01'"),
        ("[schedule]\nscreenings = ['12:60']", "not '12:60'"),
        ("[schedule]\ngap = inf", "gap"),
        ("[show]\nduration = 0", "duration"),
        ("[show]\nduration = nan", "duration"),
        ("[show]\ntimezone = '../../etc/passwd'", "timezone"),
        ("[[engines]]\nname = 'a'\n[[engines]]\nname = 'a'", "two engines are named a"),
        ("[[engines]]\nname = 'two words'", "engines"),
        ("[[engines]]\nname = 'a'\nkind = 'worker'", "a worker needs a url"),
        ("[[engines]]\nname = 'a'\nkind = 'older-wire'", "a older-wire needs a url"),
        ("[[engines]]\nname = 'a'\nkind = 'worker'\nurl = 'ws://x'", "begins with http://"),
        ("[[engines]]\nname = 'a'\nkind = 'older-wire'\nurl = 'http://x'", "begins with ws://"),
        ("[[engines]]\nname = 'a'\nhang_after = 0", "hang_after"),
        (
            "[[engines]]\nname = 'a'\nkind = 'comfyui'\nworkflow = 'w.json'",
            "[engines] 0: the engine 'a': a comfyui needs a url",
        ),
        (
            "[[engines]]\nname = 'a'\nkind = 'comfyui'\nurl = 'http://x:8188'",
            "the engine 'a': a comfyui needs a workflow",
        ),
        (
            "[[engines]]\nname = 'a'\nkind = 'replicate'",
            "the engine 'a': a replicate needs a model",
        ),
        (
            "[[engines]]\nname='a'\nkind='replicate'\nmodel='o/m'\ninputs = {prompt = 'text'}",
            "inputs needs names for prompt and seed",
        ),
        (
            "[[engines]]\nname = 'a'\nkind = 'replicate'\nmodel = 'o/m'\ninputs = {colour = 'c'}",
            "0.inputs.colour",
        ),
        (
            "[[engines]]\nname = 'a'\nworkflow = 'w.json'\nbatch_size = 3",
            "a sketch has no batch_size (a diffusers's), workflow (a comfyui's)",
        ),
        ("[[engines]]\nname = 'a'\nkind = 'diffusers'\nbatch_size = 0", "0.batch_size"),
        (
            "[[engines]]\nname = 'a'\nurl = 'http://x'",
            "only these have a url: worker, comfyui, older-wire, replicate",
        ),
        ("[programs.'a b']\nsteps = 3", "programs"),
        ("[programs.P0]\nsteps = 0", "[programs] P0.steps"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(tmp_path: Path, toml: str, expected: str) -> None:
    lines = told(toml, folder=tmp_path)
    assert any(line.startswith("show.toml: ") and expected in line for line in lines)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "show.toml"
    path.write_bytes(b"[show]\ntitle = '\xe9'\n")
    with pytest.raises(SettingsError, match="UTF-8; byte 16"):
        load_settings(path, None, {})
    path.unlink()
    path.mkdir()
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_settings(path, None, {})


def test_errors_name_the_source_that_won(tmp_path: Path) -> None:
    toml = "[server]\nport = 70000\n"
    assert told(toml, folder=tmp_path)[0].startswith("show.toml: [server] port")
    environ = {"UNDERSTUDY_SERVER_PORT": "80000"}
    assert told(toml, environ, folder=tmp_path)[0].startswith("environment: [server] port")
    cli = {"server": {"port": 90000}}
    assert told(toml, environ, cli, tmp_path)[0].startswith("command line: [server] port")
    assert loaded(toml, environ, {"server": {"port": 1}}, tmp_path).server.port == 1
    engines = {"UNDERSTUDY_ENGINES": '[{"name": "x", "kind": "oil"}]'}
    assert told("", engines, folder=tmp_path)[0].startswith("environment: [engines] 0.kind")


def test_one_bad_variable_is_one_problem(tmp_path: Path) -> None:
    lines = told("", {"DEFAULT_INFERENCE_STEPS": "many"}, folder=tmp_path)
    assert len(lines) == 1
    assert lines[0].startswith("environment: [generate] default_steps")


@given(st.dictionaries(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1), st.text(max_size=20)))
@settings(deadline=None, max_examples=50)
def test_any_environment_is_read_or_refused(environ: dict[str, str]) -> None:
    ours = {f"UNDERSTUDY_{name}": value for name, value in environ.items()}
    try:
        load_settings(None, None, {**environ, **ours})
    except SettingsError as error:
        refusal = error
    else:
        return
    assert refusal.problems


# ---------------------------------------------------------------- programs


def test_programs_are_laid_over_the_ones_we_know(tmp_path: Path) -> None:
    found = loaded(
        '[programs.P2]\nsteps = 9\n[programs.Q]\nmodel = "m"\n', folder=tmp_path
    ).programs
    assert found.keys() == DEFAULT_PROGRAMS.keys() | {"Q"}
    assert (found["P2"].steps, found["P2"].image_to_image, found["P2"].width) == (9, True, 960)
    assert (found["Q"].model, found["Q"].steps) == ("m", 30)
    for name in DEFAULT_PROGRAMS.keys() - {"P2"}:
        assert found[name] == loaded().programs[name]


def test_default_steps_are_for_programs_that_do_not_say(tmp_path: Path) -> None:
    toml = "[generate]\ndefault_steps = 11\n[programs.P2]\nsteps = 9\n[programs.Q]\nsuffix = 'x'\n"
    found = loaded(toml, folder=tmp_path).programs
    assert {name: found[name].steps for name in ("P0", "P2", "P4", "Q")} == {
        "P0": 11,
        "P2": 9,
        "P4": 11,
        "Q": 11,
    }


def test_settings_do_not_change() -> None:
    found = loaded()
    with pytest.raises(ValidationError):
        found.show = found.show  # type: ignore[misc]
    with pytest.raises(ValidationError):
        found.playback.mode = "live"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(found)) == found


def test_another_store_is_not_looked_for_at_r2s_endpoint() -> None:
    r2 = {
        "R2_ACCOUNT_ID": "account",
        "R2_ACCESS_KEY_ID": "key",
        "R2_SECRET_ACCESS_KEY": "secret",
        "R2_BUCKET_NAME": "bucket",
    }
    assert load_settings(environ=r2).store.url == "s3://bucket"
    named = load_settings(environ={**r2, "UNDERSTUDY_STORE_URL": "s3://other"}).store
    assert (named.url, named.endpoint_url) == ("s3://other", None)
    told = load_settings(None, {"store": {"url": "s3://third"}}, r2).store
    assert (told.url, told.endpoint_url) == ("s3://third", None)


@pytest.mark.parametrize(
    ("kind", "url", "local", "live"),
    [
        ("sketch", None, True, False),
        ("testcard", None, True, False),
        ("diffusers", None, True, True),
        ("worker", "https://gpu.example", False, True),
        ("older-wire", "wss://gpu.example/ws", False, True),
    ],
)
def test_who_plays_live_unless_it_is_said(
    kind: str, url: str | None, local: bool, live: bool
) -> None:
    said = {"name": "a", "kind": kind} | ({} if url is None else {"url": url})
    section = engine_section(said)
    assert (section.local, section.plays_live) == (local, live)
    for wanted in (True, False):
        assert engine_section(said | {"live": wanted}).plays_live is wanted


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("0", 0),
        ("10_000_000", 10_000_000),
        ('"10M"', 10_000_000),
        ('"2.5 Mbit/s"', 2_500_000),
        ('"128k"', 128_000),
        ('"1G"', 1_000_000_000),
        ('"3000"', 3000),
    ],
)
def test_rates_are_written_as_people_write_them(tmp_path: Path, text: str, rate: int) -> None:
    (tmp_path / "show.toml").write_text(f"[cache]\nbandwidth = {text}\n")
    assert load_settings(tmp_path / "show.toml", {}, {}).cache.bandwidth == rate


@pytest.mark.parametrize("text", ['"fast"', "-1", '"-1M"', '"10T"', "1e30", '""'])
def test_what_is_no_rate_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "show.toml").write_text(f"[cache]\nbandwidth = {text}\n")
    with pytest.raises(SettingsError, match=r"\[cache\] bandwidth"):
        load_settings(tmp_path / "show.toml", {}, {})


def test_a_rate_may_come_from_the_environment() -> None:
    given = {"UNDERSTUDY_CACHE_BANDWIDTH": "10M", "UNDERSTUDY_CACHE_COPIES": "always"}
    section = load_settings(None, {}, given).cache
    assert (section.bandwidth, section.copies) == (10_000_000, "always")


# ---------------------------------------------------------------- the demo's file shows them all

DEMO = Path(__file__).resolve().parents[3] / "demo/show.toml"
_HEADER = re.compile(r"^(?:# )?\[+(?P<section>[a-z_.A-Z0-9]+)\]+$")
_KEY = re.compile(r"^(?P<comment># )?(?P<key>[a-z_]+) = (?P<value>\S.*)$")


def shown_in_the_demo() -> dict[str, dict[str, tuple[bool, Any]]]:
    """Each key of the demo's file by its section: whether it is a comment, and its value."""
    found: dict[str, dict[str, tuple[bool, Any]]] = {}
    section = ""
    for text in DEMO.read_text(encoding="utf-8").splitlines():
        if header := _HEADER.match(text):
            section = re.sub(r"^(programs|styles)\..*", r"\1", header["section"])
        elif line := _KEY.match(text):
            value = tomllib.loads(f"value = {line['value']}")["value"]
            found.setdefault(section, {})[line["key"]] = (bool(line["comment"]), value)
    return found


def test_the_demos_file_shows_every_key_and_its_default() -> None:
    shown = shown_in_the_demo()
    engines = {key: each for kind in KINDS.values() for key, each in kind.model_fields.items()}
    models = {"programs": Program.model_fields, "engines": engines, "styles": Style.model_fields}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            models[name] = field.annotation.model_fields
    del models["tokens"]  # they never stand in a file
    models["playback.first_frame_timeout"] = FirstFrameTimeout.model_fields
    missing, wrong = [], []
    for section, fields in models.items():
        for key, field in fields.items():
            if f"{section}.{key}" in models:
                continue
            if key not in shown.get(section, {}):
                missing.append(f"[{section}] {key}")
                continue
            default = field.get_default(call_default_factory=True)
            commented, value = shown[section][key]
            # Where nothing is the default, what stands there is an example; so are programs,
            # styles and engines, whose defaults are those of each.
            example = default is None or default in ((), {})
            if commented and not example and section not in {"programs", "styles", "engines"}:
                same = list(default) if isinstance(default, tuple) else default
                if value != same:
                    wrong.append(f"[{section}] {key} = {value!r}, not {same!r}")
    strange = [
        f"[{section}] {key}"
        for section, keys in shown.items()
        for key in keys
        if section not in models or key not in models[section]
    ]
    assert (missing, wrong, strange) == ([], [], [])


# ---------------------------------------------------------------- the Studio's

WITH_PASSWORD = f"postgresql://understudy:{SECRET}@db.example:5432/studio"


def test_a_databases_password_comes_from_the_environment_and_is_never_shown(tmp_path: Path) -> None:
    found = loaded("[studio]\n", {"UNDERSTUDY_STUDIO_DATABASE": WITH_PASSWORD}, None, tmp_path)
    assert found.studio.database is not None
    opened = WITH_PASSWORD.replace("postgresql", "postgresql+psycopg")
    assert found.studio.database.get_secret_value() == opened
    for text in (repr(found), str(found.studio), found.model_dump_json()):
        assert SECRET not in text


def test_a_databases_address_may_come_from_a_file_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "database"
    file.write_text(f"{WITH_PASSWORD}\n")
    named = {"UNDERSTUDY_STUDIO_DATABASE_FILE": str(file)}
    found = loaded("[studio]\n", named, None, tmp_path)
    assert found.remarks == ()
    assert found.studio.database is not None
    assert SECRET in found.studio.database.get_secret_value()
    # What is said outright goes before it, and both before the file of settings.
    nearer = {**named, "UNDERSTUDY_STUDIO_DATABASE": "postgresql:///nearer"}
    nearest = loaded('[studio]\ndatabase = "sqlite:////far"\n', nearer, None, tmp_path).studio
    assert nearest.database is not None
    assert nearest.database.get_secret_value() == "postgresql+psycopg:///nearer"

    file.write_text(f"mysql://a:{SECRET}@b/c")
    (line,) = told(None, named)
    assert line.startswith("environment: [studio] database: ")
    assert SECRET not in line
    file.unlink()
    (line,) = told(None, named)
    assert line.startswith("environment: UNDERSTUDY_STUDIO_DATABASE_FILE: ")


def test_what_the_terminal_brings_to_a_studio_is_no_mistake_of_a_servers() -> None:
    mine = {"UNDERSTUDY_STUDIO_TOKEN": "ust_x", "UNDERSTUDY_STUDIO_TOKEN_FILE": "/run/token"}
    assert loaded(None, mine).remarks == ()
    (line,) = told(None, {"UNDERSTUDY_STUDIO_TOKENS": "ust_x"})
    assert line.endswith("did you mean UNDERSTUDY_STUDIO_TOKEN?")


@pytest.mark.parametrize(
    "address",
    [
        WITH_PASSWORD,
        f"postgresql://db.example/studio?user=me&password={SECRET}",
        f"postgres://:{SECRET}@/studio",
    ],
)
def test_a_databases_password_in_a_file_that_is_passed_around_is_refused(
    tmp_path: Path, address: str
) -> None:
    (line,) = told(f'[studio]\ndatabase = "{address}"\n', folder=tmp_path)
    assert line.startswith("show.toml: [studio] database: ")
    assert "UNDERSTUDY_STUDIO_DATABASE" in line
    (line,) = told(cli={"studio": {"database": address}})
    assert line.startswith("command line: [studio] database: ")
    assert SECRET not in line


@pytest.mark.parametrize(
    ("address", "opened"),
    [
        (
            "postgresql://me@db.example:5433/studio",
            "postgresql+psycopg://me@db.example:5433/studio",
        ),
        ("postgres:///studio", "postgresql+psycopg:///studio"),
        ("sqlite:////srv/studio.sqlite", "sqlite:////srv/studio.sqlite"),
    ],
)
def test_an_address_without_a_password_may_stand_in_the_file(
    tmp_path: Path, address: str, opened: str
) -> None:
    section = loaded(f'[studio]\ndatabase = "{address}"\n', folder=tmp_path).studio
    assert section.database is not None
    assert section.database.get_secret_value() == opened


@pytest.mark.parametrize(
    "address", ["", "studio.db", f"mysql://a:{SECRET}@b/c", "sqlite:///", "postgres://b:x/c", "a b"]
)
def test_what_is_no_database_is_told_without_its_address(address: str) -> None:
    if not address:
        assert loaded(None, {"UNDERSTUDY_STUDIO_DATABASE": address}).studio.database is None
        return
    (line,) = told(None, {"UNDERSTUDY_STUDIO_DATABASE": address})
    assert line.startswith("environment: [studio] database: expected an address such as")
    assert SECRET not in line
    assert f"{address!r}" not in line


def test_the_studio_listens_as_any_server_of_ours(tmp_path: Path) -> None:
    text = (
        '[studio]\npublic_url = "https://venue.example/studio/"\ntrusted_proxies = ["10.0.0.1"]\n'
    )
    section = loaded(text, folder=tmp_path).studio
    assert (section.server.host, section.server.port) == ("127.0.0.1", 8100)
    assert section.server.public_url == "https://venue.example/studio/"
    assert section.server.trusted_proxies == ("10.0.0.1",)
    (line,) = told('[studio]\npublic_url = "https://venue.example/takes"\n', folder=tmp_path)
    assert "not /takes, which is one of our own addresses" in line


@pytest.mark.parametrize(
    "place", ["bell.venue.example", "gpu", "10.0.0.0/24", "::1", "fd00::/8", "192.168.0.7"]
)
def test_where_webhooks_may_reach(place: str) -> None:
    given = {"UNDERSTUDY_STUDIO_HOOKS_MAY_REACH": json.dumps([place])}
    assert loaded(None, given).studio.hooks_may_reach == (place,)


@pytest.mark.parametrize("place", ["", "https://bell.example", "10.0.0.1/24", "10.0.0.0.1", "a b"])
def test_where_no_webhook_could_reach_is_told(place: str) -> None:
    (line,) = told(None, {"UNDERSTUDY_STUDIO_HOOKS_MAY_REACH": json.dumps([place])})
    assert line.startswith("environment: [studio] hooks_may_reach.0: expected a host, an address")


def test_bounds_of_the_studio(tmp_path: Path) -> None:
    lines = told(
        '[studio]\npictures_a_day = 0\nkeep_free = -1\ncurrency = "euro"\nkeepfree = 1\n',
        folder=tmp_path,
    )
    places = ["keep_free", "pictures_a_day", "currency", "keepfree"]
    assert [line.split(": ")[1] for line in lines] == [f"[studio] {place}" for place in places]


def test_the_show_has_the_nine_styles_and_its_own(tmp_path: Path) -> None:
    text = '[styles.Blueprint]\nwords = "white on blue"\n[styles."line art"]\nmatch = ["ink"]\n'
    found = loaded(text, folder=tmp_path).styles
    assert list(found) == [*DEFAULT_STYLES, "Blueprint"]
    assert found["Line Art"].match == ("ink",)
    assert found["Line Art"].words == DEFAULT_STYLES["Line Art"]["words"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[styles.A]\nwrds = 'x'\n", "[styles] A.wrds: unknown key; expected one of loras, match"),
        ("[styles.'ink wash']\n[styles.ink-wash]\n", "[styles]: 'ink wash' and 'ink-wash' are one"),
        ("[styles.'--']\n", "[styles] --.[key]: expected a name of one line"),
        ("[styles]\nA = 3\n", "[styles] A: input should be"),
        ("styles = 3\n", "[styles]: input should be"),
        ("[styles.Anime]\nsteps = 0\n", "[styles] Anime.steps: "),
        (
            "[programs.P0.fast]\nstepz = 4\n",
            "[programs] P0.fast.stepz: unknown key; expected one of guidance_scale, loras, model",
        ),
        ("[programs.P0.fast]\n", "[programs] P0.fast: expected what a fast drawing changes"),
        ("[programs.P0.fast]\nsteps = 0\n", "[programs] P0.fast.steps: "),
        ("[[engines]]\nname = 'a'\nan_hour = -1\n", "[engines] 0.an_hour: "),
        ("[[engines]]\nname = 'a'\na_picture = inf\n", "[engines] 0.a_picture: "),
    ],
)
def test_what_is_wrong_with_a_style_a_fast_variant_or_a_cost(
    tmp_path: Path, text: str, message: str
) -> None:
    lines = told(text, folder=tmp_path)
    assert f"show.toml: {message}" in lines[0]


def test_every_kind_of_engine_may_say_what_it_costs() -> None:
    for kind, section in KINDS.items():
        url = {"url": f"{section.scheme}://gpu"} if issubclass(section, RemoteSection) else {}
        more = {"model": "owner/name"} if kind == "replicate" else {}
        more |= {"workflow": "w.json"} if kind == "comfyui" else {}
        more |= {"answers_to": "https://studio.example/hook"} if kind == "callback" else {}
        made = engine_section(
            {"name": "a", "kind": kind, "an_hour": 1.1, "a_picture": 0, **url, **more}
        )
        assert (made.an_hour, made.a_picture) == (1.1, 0.0)
