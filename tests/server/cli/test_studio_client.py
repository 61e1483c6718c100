"""What a Studio's terminal makes of whoever answers: another program, a proxy, nobody."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from generator.outgoing import outgoing_client
from server.cli.main import main
from server.cli.studio_client import (
    JobAnswer,
    StudioAway,
    StudioClient,
    StudioFailed,
    studio_address,
)
from tests.helpers.servers import plain_environment

JOB = {"id": "0d1c", "status": "queued", "total": 1, "done": 0}


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """A program that answers everything in one way; its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", "0")))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - as the library calls them

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command: status, output, errors."""
    for name in os.environ.keys() - plain_environment().keys():
        monkeypatch.delenv(name, raising=False)

    def run(url: str, *arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["studio", *arguments, "--url", url])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


@pytest.mark.parametrize("command", [["jobs"], ["stats"], ["try", "a lake"], ["cancel", "abcd"]])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<h1>It works</h1>"),
        (200, b"[]"),
        (200, b"\xff{"),
        (200, b'{"jobs": 7}'),
        (200, b'{"jobs": [{"id": 3}], "id": null}'),
        (404, b'{"ok": false, "error": "not found"}'),
        (404, b'{"detail": "Not Found"}'),
        (301, b""),
        (500, b"Traceback"),
        (502, b"<h1>Bad Gateway</h1>"),
    ],
)
def test_another_program_that_answers_is_said_in_one_line(
    ask: Any, command: list[str], status: int, body: bytes
) -> None:
    with answering(status, body, location="http://127.0.0.1:1/") as url:
        told, out, err = ask(url, *command)
    assert (told, out) == (1, "")
    assert err == f"{url} answers {status}, and not as a Studio does: see --url\n"


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("ftp://here", 2, "--url: expected an address such as http://10.0.0.5:8100"),
        ("http://", 2, "--url: expected an address"),
        ("http://here:port", 2, "--url: "),
        ("http://[", 2, "--url: "),
        ("http://me:hunter2@127.0.0.1:1", 2, "UNDERSTUDY_STUDIO_TOKEN"),
        ("127.0.0.1:{free}", 1, "Is it running? understudy studio"),
        ("http://127.0.0.1:{free}", 1, "Is it running? understudy studio"),
    ],
)
def test_a_studio_that_is_not_there_is_said_in_one_line(
    ask: Any, url: str, status: int, words: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        told, out, err = ask(url.format(free=free.getsockname()[1]), "jobs")
    assert (told, out, err.count("\n")) == (status, "", 1)
    assert words in err
    assert "hunter2" not in err


def test_an_address_may_be_written_in_several_ways() -> None:
    for typed in ("localhost:8100", "http://localhost:8100/", "http://localhost:8100?x=1"):
        assert studio_address(typed) == "http://localhost:8100"
    assert studio_address("https://show.example/studio/") == "https://show.example/studio"
    assert studio_address("[::1]:8100") == "http://[::1]:8100"


def test_what_it_says_of_what_is_wrong_is_one_line_for_each_field(ask: Any) -> None:
    problems = [
        {"code": "bad_request", "field": "n", "message": "too\nmany"},
        {"code": "unknown_style", "field": "style", "message": "there\x1b[2J is none"},
    ]
    error = {"code": "bad_request", "message": "n: too many", "problems": problems}
    with answering(400, json.dumps({"ok": False, "error": error}).encode()) as url:
        status, out, err = ask(url, "try", "a lake")
    assert (status, out) == (2, "")
    first, second = err.splitlines()
    assert first == "n: too many"
    assert "\x1b" not in second


async def test_what_a_later_release_adds_is_passed_over() -> None:
    body = json.dumps({**JOB, "mood": {"of": "the studio"}, "items": [{"n": 0, "status": "resting",
                       "seed": 1, "hue": 3}]}).encode()  # fmt: skip
    with answering(200, body) as url:
        async with outgoing_client() as client:
            found = await StudioClient(client, url, None).json("GET", "/api/jobs/0d1c")
            job = StudioClient(client, url, None).read(JobAnswer, found)
    assert (job.id, job.items[0].status) == ("0d1c", "resting")


@pytest.mark.parametrize(
    ("status", "kind"), [(503, StudioAway), (504, StudioAway), (404, StudioFailed)]
)
async def test_a_picture_that_is_not_there_is_told_from_a_studio_that_is_not(
    status: int, kind: type[StudioFailed]
) -> None:
    with answering(status, b"") as url:
        async with outgoing_client() as client:
            with pytest.raises(StudioFailed) as told:
                await StudioClient(client, url, None).picture("/takes/1/final.jpg?seal=secret")
    assert type(told.value) is kind
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("media_type", "suffix"),
    [("image/png", ".png"), ("image/webp", ".webp"), ("image/jpeg; q=1", ".jpg"), ("", ".jpg")],
)
async def test_a_picture_is_named_for_what_it_is(media_type: str, suffix: str) -> None:
    with answering(200, b"pixels", content_type=media_type) as url:
        async with outgoing_client() as client:
            picture = await StudioClient(client, url, None).picture("/takes/1/final.jpg")
    assert (picture.data, picture.suffix) == (b"pixels", suffix)


async def test_events_are_read_one_by_one_and_what_is_none_is_no_end() -> None:
    told = b'id: 1\nevent: step\ndata: {"type": "step", "n": 0}\n\n: still here\n\ndata: [1]\n\n'
    with answering(200, told, content_type="text/event-stream") as url:
        async with outgoing_client() as client:
            studio = StudioClient(client, url, SecretStr("ust_x"))
            assert [each async for each in studio.events("/e")] == [{"type": "step", "n": 0}]
    with answering(429, b"{}") as url:  # it is asked again and again instead
        async with outgoing_client() as client:
            assert [each async for each in StudioClient(client, url, None).events("/e")] == []
    with answering(200, b"data: {\n\n") as url:
        async with outgoing_client() as client:
            with pytest.raises(StudioAway):
                assert [each async for each in StudioClient(client, url, None).events("/e")]


async def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    with answering(200, b" " * (17 * 2**20)) as url:
        async with outgoing_client() as client:
            with pytest.raises(StudioAway, match="more than"):
                await StudioClient(client, url, None).json("GET", "/api/jobs")
