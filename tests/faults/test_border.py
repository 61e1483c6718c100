"""What comes from outside breaks nothing for anybody, however it comes; and there is one border."""

from __future__ import annotations

import ast
import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cache.encoding import json_text
from cache.model.documents import FormatError
from cache.model.formats import parse_meta
from cache.model.manifest import parse_config, parse_manifest
from cache.untrusted import (
    MAX_DEPTH,
    REPLACEMENT,
    Unfit,
    clean_text,
    decode_answer,
    decode_document,
    decode_message,
    fit_json,
    mended,
    one_line,
    whole_number,
)
from generator.engines.comfyui.messages import parse as parse_comfyui
from generator.sheet.cues import CueSheetError, PromptCue, TranscriptCue, parse_cues
from server.config.environment import is_service_link
from server.config.sections import ServerSection, Tokens
from server.config.settings import SettingsError, load_settings
from server.config.show import load_show
from server.control import messages as control
from server.control.command import Caller, CommandError
from server.network.access import Access, Role
from server.older_wire.messages import parse as parse_older
from server.sockets.messages import MessageError
from server.stage import messages as stage
from tests.helpers.house import House, house
from tests.helpers.servers import serving
from tests.helpers.shows import Rhythm, TinyShow, cue, line, make_show, prompt
from tests.helpers.technicians import technician

ROOT = Path(__file__).parents[2]
HALF = "x \ud83d"

TEXTS = st.one_of(
    st.sampled_from(
        [HALF, "\x00", "\x1b[31m", "", "=1+1", "released", "static", "lamp", "9" * 400]
    ),
    st.text(max_size=12),
    st.text(st.characters(categories=["Cs", "Cc"]), max_size=3),
)
NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2**63, 2**64, 10**400, -(10**400)]),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def fit(value: object) -> None:
    """Every writer takes it: a strict encoder, UTF-8, a terminal, a C string."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    text.encode()
    assert clean_text(text) == text


# ---------------------------------------------------------------- the border itself


@QUICK
@given(JSON)
def test_what_has_passed_is_fit_for_everybody(value: object) -> None:
    text = json.dumps(value)
    for decode in (decode_message, decode_answer, lambda text: json.loads(fit_json(text))):
        try:
            passed = decode(text)
        except Unfit as error:
            fit(str(error))
        else:
            fit(passed)
    fit(mended(value))
    written = json_text(value, place="a test")
    written.encode()
    json.loads(written, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "floating point"),
        ('{"a": 18446744073709551616}', "64 bits"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("[1,]", "line 1, column"),
        (b'"\xff"', "UTF-8"),
        ("9" * 5000, "64 bits"),
    ],
)
def test_what_is_refused_is_told(text: str | bytes, expected: str) -> None:
    with pytest.raises(Unfit, match=expected):
        decode_message(text)


def test_what_is_cleaned() -> None:
    assert decode_message(b'\xef\xbb\xbf{"a": "x \\ud83d", "b": null, "\\u0000": "\\u001b"}') == {
        "a": f"x {REPLACEMENT}",
        REPLACEMENT: REPLACEMENT,
    }
    assert decode_message('"\\ud83d\\ude00 \\n"') == "\N{GRINNING FACE} \n"
    assert decode_answer('{"a": NaN, "b": 1e999, "c": 99999999999999999999, "d": null}') == {
        "a": None,
        "b": None,
        "c": None,
        "d": None,
    }
    assert decode_document('{"a": "\\ud83d", "b": 99999999999999999999, "c": NaN}') == {
        "a": "\ud83d",
        "b": 99999999999999999999,
        "c": None,
    }
    assert one_line(" GPU\thost \x1b[31m\n noisy \ud83d", 12) == f"GPU host {REPLACEMENT}[3"
    assert whole_number("9" * 5000, 0, 10) is None
    assert whole_number("\N{ARABIC-INDIC DIGIT ONE}", 0, 10) is None
    assert whole_number("-3", -5, 10) == -3


def test_a_writer_says_what_it_had_to_mend() -> None:
    with capture_logs() as logs:
        for _ in range(9):
            json_text({"at": math.nan}, place="a place of its own")
    assert [entry["times"] for entry in logs] == [1, 2, 4, 8]


# ---------------------------------------------------------------- every way in


class StoodUp:
    """A house in a loop that goes on from example to example."""

    def __init__(self, runner: asyncio.Runner, house: House) -> None:
        self.runner = runner
        self.house = house


@pytest.fixture(scope="module")
def stood_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoodUp]:
    cues = [cue(0, "start"), line(2, "one", id="one"), prompt(10, "two"), cue(60, "end")]

    async def enter() -> tuple[House, AsyncIterator[House]]:
        async def opened() -> AsyncIterator[House]:
            async with house(tmp_path_factory.mktemp("house"), cues, rhythm=Rhythm()) as one:
                await one.play_to(3)
                yield one

        living = opened()
        return await anext(living), living

    with asyncio.Runner() as runner:
        one, living = runner.run(enter())
        yield StoodUp(runner, one)
        assert runner.run(anext(living, None)) is None


ARGUMENTS = ("mode", "cue", "until", "reason", "now", "time", "screen", "engine", "limit", "x")


@settings(QUICK, max_examples=100)
@given(
    number=st.integers(0, 63),
    args=st.dictionaries(st.one_of(st.sampled_from(ARGUMENTS), TEXTS), JSON, max_size=3),
    role=st.sampled_from(["viewer", "operator"]),
)
def test_no_command_breaks_the_state(
    stood_up: StoodUp, number: int, args: dict[str, Any], role: Role
) -> None:
    house = stood_up.house
    commands = [*house.dispatcher.commands, HALF]
    command = commands[number % len(commands)]

    async def give() -> None:
        with capture_logs() as logs, suppress(CommandError):
            fit(await house.dispatcher.dispatch(command, args, Caller(role, "a test")))
        fit(house.view.state())
        fit(house.log.newest(5))
        assert "command_failed" not in [entry["event"] for entry in logs]

    stood_up.runner.run(give())


MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["hello", "sync", "presented", "log", "command", "?"])},
    optional=dict.fromkeys(
        (
            *("protocol", "screen", "frames", "token", "t0", "run", "step", "at", "level"),
            *("message", "id", "command", "args", "ttl", "sent_at", "name"),
        ),
        JSON,
    ),
)


@QUICK
@given(MESSAGES)
def test_no_message_of_a_socket_brings_in_what_is_unfit(message: dict[str, Any]) -> None:
    text = json.dumps(message)
    for decode in (stage.decode, control.decode):
        try:
            taken = decode(text)
        except MessageError as error:
            fit([str(error), error.code])
        else:
            fit(taken.model_dump(mode="python"))


@QUICK
@given(st.dictionaries(TEXTS, JSON, max_size=3), JSON, TEXTS)
def test_no_document_brings_in_what_is_unfit(
    foreign: dict[str, Any], value: object, text: str
) -> None:
    meta = {"total_steps": 1, "cue_id": text, "engine": text, "seed": value, "durations": value}
    manifest = {"version": "1.0.0", "actions": {"lamp": {"prompt": text, "sets": 1, **foreign}}}
    try:
        read = parse_meta(json.dumps({**foreign, **meta}).encode(), "meta.json")
        fit([read.cue_id, read.engine, read.seed, read.durations])
    except FormatError as error:
        json_text(str(error), place="a test").encode()
    for parse in (parse_manifest, lambda data: parse_config(data, "config.json")):
        try:
            found = parse(json.dumps(manifest).encode())
        except FormatError:
            continue
        for entry in getattr(found, "actions", {}).values():
            fit([entry.prompt, entry.program, entry.type])


@QUICK
@given(TEXTS)
def test_no_text_of_the_older_wire_brings_in_what_is_unfit(text: str) -> None:
    asked = parse_older(f"P0:{text}", {})
    fit(getattr(asked, "text", "") or getattr(asked, "prompt", ""))


@pytest.mark.parametrize(
    "message",
    [
        '{"type": "progress", "data": {"value": NaN, "max": 1e999}}',
        '{"type": "progress", "data": {"value": ' + "9" * 5000 + "}}",
        "[" * 50_000,
        '{"type": "\\ud83d", "data": {"prompt_id": "\\ud83d"}}',
    ],
)
def test_an_engine_brings_in_nothing_that_is_unfit(message: str) -> None:
    event = parse_comfyui(message)
    if event is not None:
        fit([event.type, event.prompt_id, event.data])  # type: ignore[union-attr]


# ---------------------------------------------------------------- a whole server


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    cues = [line(0, "the sea", id="sea"), prompt(20, "a lamp", id="lamp")]
    return make_show(tmp_path / "show", cues, rhythm=Rhythm(previews=1, sets=1))


async def well(client: httpx.AsyncClient, headers: dict[str, str] | None = None) -> None:
    """State, log, metrics and health are told."""
    for path in ("/api/state", "/api/asrun", "/api/asrun?format=csv", "/metrics", "/healthz"):
        answer = await client.get(path, headers=headers)
        assert answer.status_code == 200, (path, answer.text[:300])


async def test_half_a_character_in_a_reason_is_no_reason_to_refuse(tiny: TinyShow) -> None:
    async with (
        serving(tiny.load()) as address,
        httpx.AsyncClient(base_url=address.http, trust_env=False) as client,
        technician(address) as foh,
    ):
        body = json.dumps({"mode": "static", "reason": HALF}).encode()
        answer = await client.post("/api/control/mode.force", content=body)
        assert answer.json()["result"]["kept"] is True
        kept = json.loads((tiny.state / "state.json").read_bytes())
        assert kept["forces"][0]["reason"] == f"x {REPLACEMENT}"
        for path, content in (
            ("go", b'{"cue": NaN}'),
            ("seek", b'{"time": 1e999}'),
            (HALF.encode(errors="replace").decode(), b"{}"),
            ("state", b"[" * 20_000),
            ("hold", json.dumps({"id": "x" * 60_000}).encode()),
            ("restore", b'{"ttl": ' + b"9" * 400 + b"}"),
        ):
            refused = await client.post(f"/api/control/{path}", content=content)
            assert 400 <= refused.status_code < 500, (path, refused.text[:200])
        for path in (f"/frames/x/{'9' * 5000}", f"/assets/lamp/{'9' * 5000}/1.jpg"):
            assert (await client.get(path)).status_code == 404
        for query in ("since=nan", "limit=" + "9" * 5000, "limit=-1"):
            assert (await client.get(f"/api/asrun?{query}")).status_code == 400
        await well(client)
        assert (await foh.ask("panic"))["result"]["kept"] is True


async def test_a_viewers_refused_command_breaks_nothing(tiny: TinyShow) -> None:
    environ = {"UNDERSTUDY_OPERATOR_TOKEN": "o" * 16, "UNDERSTUDY_VIEWER_TOKEN": "v" * 16}
    viewer, operator = ({"authorization": f"Bearer {letter * 16}"} for letter in "vo")
    async with (
        serving(load_show(tiny.folder, {}, environ)) as address,
        httpx.AsyncClient(base_url=address.http, trust_env=False) as client,
    ):
        body = json.dumps({HALF: HALF}).encode()
        refused = await client.post("/api/control/panic", content=body, headers=viewer)
        assert refused.status_code == 403
        await well(client, operator)
        done = await client.post("/api/control/panic", headers=operator)
        assert done.json()["result"]["kept"] is True


async def test_state_files_are_for_nobody_else(tiny: TinyShow) -> None:
    tiny.state.mkdir(parents=True, mode=0o755, exist_ok=True)
    (tiny.state / "asrun.sqlite").touch(mode=0o644)
    async with serving(tiny.load()) as address, technician(address) as foh:
        await foh.ask("mode.force", mode="static")
        await foh.ask("panic")
        for name in ("state.json", "panic.json", "asrun.sqlite"):
            assert (tiny.state / name).stat().st_mode & 0o077 == 0, name


# ---------------------------------------------------------------- files that people made


def test_a_sheet_from_elsewhere() -> None:
    cues = [
        {"time": "00:00:00", "action": "prompt", "program": "P2", "prompt": "x", "id": None}
        | dict.fromkeys(("commit", "delay", "enter", "guidance", "override", "steps")),
        {"time": "00:00:09", "action": "transcript", "transcript": "y"}
        | dict.fromkeys(("generate", "words", "when")),
        {"time": "00:00:20", "action": "end"},
    ]
    sheet = parse_cues(b"\xef\xbb\xbf" + json.dumps(cues).encode(), "cues.json", ["P2"])
    first, second, _ = sheet.cues
    assert isinstance(first, PromptCue)
    assert (first.commit, first.delay.base, first.enter.regen) == (True, 100, False)
    assert isinstance(second, TranscriptCue)
    assert (second.generate, second.words) == (False, ())
    with pytest.raises(CueSheetError, match="prompt"):
        parse_cues(b'[{"time": "00:00:00", "action": "prompt", "prompt": null}]', "c", [])
    twice = b'[{"time": "00:00:00", "action": "start", "note": 1, "note": 2}]'
    remarks = [str(remark) for remark in parse_cues(twice, "c", []).remarks]
    assert "the field 'note' stands twice in one object: the last counts" in remarks


def test_settings_from_elsewhere(tmp_path: Path) -> None:
    toml = tmp_path / "show.toml"
    toml.write_bytes(b'\xef\xbb\xbf[show]\r\ntitle = "Ghost"\r\n')
    token = tmp_path / "token"
    token.write_bytes(b"\xef\xbb\xbfsesame\r\n")
    found = load_settings(
        toml,
        environ={
            "UNDERSTUDY_OPERATOR_TOKEN": "sesame\r",
            "UNDERSTUDY_VIEWER_TOKEN_FILE": f"{token}\r",
            "UNDERSTUDY_PLAYBACK_MODE": "live\r",
            "UNDERSTUDY_PLAYBAK_MODE": "static",
            "UNDERSTUDY_CACHE_DIIR": "/tmp",
            "UNDERSTUDY_PORT": "tcp://10.0.0.1:8000",
            "UNDERSTUDY_SERVER_PORT": "tcp://10.0.0.1:8000",
        },
    )
    assert found.show.title == "Ghost"
    assert found.playback.mode == "live"
    for secret in (found.tokens.operator, found.tokens.viewer):
        assert secret is not None
        assert secret.get_secret_value() == "sesame"
    said = " has no effect; did you mean UNDERSTUDY_"
    assert found.remarks == (
        f"environment: unknown UNDERSTUDY_PLAYBAK_MODE{said}PLAYBACK_MODE?",
        f"environment: unknown UNDERSTUDY_CACHE_DIIR{said}CACHE_DIR?",
    )


@pytest.mark.parametrize(
    ("name", "value", "link"),
    [
        ("UNDERSTUDY_PORT", "tcp://10.0.0.1:8000", True),
        ("UNDERSTUDY_SERVICE_HOST", "10.0.0.1", True),
        ("UNDERSTUDY_SERVICE_PORT", "8000", True),
        ("UNDERSTUDY_SERVICE_PORT_HTTP", "8000", True),
        ("UNDERSTUDY_PORT_8000_TCP", "tcp://10.0.0.1:8000", True),
        ("UNDERSTUDY_PORT_8000_TCP_ADDR", "10.0.0.1", True),
        ("UNDERSTUDY_WORKER_SERVICE_HOST", "10.0.0.1", True),
        ("UNDERSTUDY_WORKER_PORT_9000_UDP_PROTO", "udp", True),
        ("UNDERSTUDY_SERVER_PORT", "tcp://10.0.0.1:8000", True),
        ("UNDERSTUDY_SERVER_PORT", "8000", False),
        ("UNDERSTUDY_PORT", "8000", False),
        ("UNDERSTUDY_STORE_URL", "tcp://10.0.0.1:8000", False),
    ],
)
def test_what_kubernetes_sets(name: str, value: str, link: bool) -> None:
    assert is_service_link(name, value) is link


def test_a_misspelt_token_leaves_no_door_open() -> None:
    with pytest.raises(SettingsError, match="did you mean UNDERSTUDY_OPERATOR_TOKEN"):
        load_settings(environ={"UNDERSTUDY_OPERATER_TOKEN": "sesame"})
    for role, token in (("WORKER", "é"), ("OPERATOR", "a\x00b")):
        with pytest.raises(SettingsError) as refused:
            load_settings(environ={f"UNDERSTUDY_{role}_TOKEN": token})
        assert token not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_token_that_is_not_ascii_is_known_however_it_is_sent(encoding: str) -> None:
    from starlette.requests import Request  # noqa: PLC0415 - here alone

    access = Access(Tokens.model_validate({"operator": "Schlüssel"}), ServerSection())
    headers = [
        (b"host", b"127.0.0.1"),
        (b"authorization", b"Bearer " + "Schlüssel".encode(encoding)),
    ]
    request = Request({"type": "http", "headers": headers, "client": ("10.0.0.7", 1)})
    assert access.role_of(request) == "operator"


# ---------------------------------------------------------------- the rule

DECODING = {
    "cache/untrusted.py": "the border",
    "cache/local/cache.py": "listings that we wrote, each with a proof of its content",
    "server/config/settings.py": "TOML, which knows neither halves nor depth; told by its place",
    "server/reports/archive.py": "the report of a child of ours, in a folder of ours",
    "server/rehearsal/simulation.py": "messages of our own stage, in this process",
    "server/cli/rehearse.py": "a word of our own /healthz is looked for",
    "generator/jobs/fields.py": "written again from what `decode_message` gave, field by field",
    "generator/jobs/held.py": "a row of our own database",
    "generator/jobs/paces.py": "a row of our own database; what is no such thing is left",
    "generator/jobs/store.py": "rows of our own database",
    "server/studio/hooks/deliveries.py": "rows of our own database",
    "server/studio/hooks/webhooks.py": "rows of our own database",
}
WRITING = {
    "cache/durable.py": "the one way",
    "cache/local/disk_cache.py": "copies: behind each stands the proof of it; none is missed",
    "cache/stores/folder.py": "a store's files: as durable, and with locks for many writers",
    "server/asrun/file.py": "SQLite writes; a database that is beyond use is renamed",
    "server/core/child_process.py": "a setting of the kernel",
    "server/performance/state_file.py": "an unreadable file is renamed",
    "server/rehearsal/backstage.py": "a child's report, synced before its folder gets its name",
    "server/reports/archive.py": "a folder gets its name, all in it synced",
    "server/core/output.py": "standard streams",
    "generator/jobs/backup.py": "SQLite writes; the copy gets its name once it is synced",
    "generator/jobs/database.py": "a lock that says who holds it; an empty file for SQLite",
}


@cache
def calls() -> tuple[tuple[str, ast.Call, str], ...]:
    return tuple(_calls())


def _calls() -> Iterator[tuple[str, ast.Call, str]]:
    for package in ("cache", "generator", "server"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    yield path.relative_to(ROOT).as_posix(), node, node.func.attr


def decodes(node: ast.Call, name: str) -> bool:
    if name in {"validate_json", "model_validate_json"}:
        given = node.args[0] if node.args else None
        return not (
            isinstance(given, ast.Call)
            and isinstance(given.func, ast.Name)
            and given.func.id == "fit_json"
        )
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    of = owner.id if isinstance(owner, ast.Name) else ""
    return (name in {"loads", "load"} and of in {"json", "tomllib", "pickle", "yaml"}) or (
        name == "json" and not node.args
    )


def writes(node: ast.Call, name: str) -> bool:
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    of = owner.id if isinstance(owner, ast.Name) else ""
    modes = [each.value for each in node.args if isinstance(each, ast.Constant)]
    if name == "open":
        flags = ast.unparse(node)
        return (of == "os" and ("O_WRONLY" in flags or "O_RDWR" in flags)) or any(
            isinstance(mode, str) and set(mode) & set("wxa+") and len(mode) <= 3 for mode in modes
        )
    if name in {"replace", "rename"}:
        return (
            of in {"os", "shutil"}
            or (name == "rename")
            or (
                len(node.args) == 1 and not node.keywords and of in {"path", "beside", "unfinished"}
            )
        )
    return name in {"write_text", "write_bytes"} or (of == "tempfile")


@pytest.mark.parametrize(
    ("does", "allowed", "instead"),
    [
        (decodes, DECODING, "cache/untrusted.py decodes what comes from outside"),
        (writes, WRITING, "cache/durable.py writes small files"),
    ],
    ids=["decoding", "writing"],
)
def test_there_is_one_border_and_one_writer(
    does: Callable[[ast.Call, str], bool], allowed: dict[str, str], instead: str
) -> None:
    found = {path: node.lineno for path, node, name in calls() if does(node, name)}
    strangers = {path: at for path, at in found.items() if path not in allowed}
    assert not strangers, f"{instead}; or say here why not"
    assert set(allowed) - set(found) <= {"cache/untrusted.py"}, "listed, and no longer so"


def test_there_is_one_answer_in_json() -> None:
    for package in ("cache", "generator", "server"):
        for path in (ROOT / package).rglob("*.py"):
            ours = path.relative_to(ROOT).as_posix() == "generator/answers.py"
            assert ours or "JSONResponse" not in path.read_text(encoding="utf-8"), path


def test_a_terminal_that_knows_few_characters_ends_nothing(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", [prompt(1, "Łódź 詩")])
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    asked = [sys.executable, "-m", "server", "generate", "plan", "--show", str(tiny.folder)]
    done = subprocess.run(asked, env=environ, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert b"\\u8a69" in done.stdout
