"""The show through a real nginx: with the documented configuration, and with none to speak of."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.helpers.nginx import BY_DEFAULT, documented, free_port, nginx
from tests.helpers.pictures import picture, pixels
from tests.helpers.servers import ROOT, ServerProcess, plain_environment, server_process
from tests.helpers.shows import Rhythm, cue, line, make_show
from tests.helpers.walls import find_browser

OPERATOR, SCREEN = "operate-s3cret", "screen-s3cret"
NAME = "venue.example"
LINES = [line(30 * number, f"lamp {number}", id=f"lamp_{number}") for number in range(8)]
CUES = [cue(0, "start"), *LINES, cue(600, "end")]


@dataclass(frozen=True)
class House:
    """A server, and nginx in front of it."""

    server: ServerProcess
    port: int

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/show"

    @property
    def host(self) -> str:
        return f"{NAME}:{self.port}"

    def client(self, address: str = "127.0.0.1", token: str | None = None) -> httpx.Client:
        headers = {"host": self.host}
        if token:
            headers["authorization"] = f"Bearer {token}"
        return httpx.Client(
            transport=httpx.HTTPTransport(local_address=address), headers=headers, timeout=10
        )

    def go(self) -> None:
        """Have a picture drawn, from where the technician sits."""
        with self.client(token=OPERATOR) as technician:
            while True:  # two within half a second are taken for a slip
                answer = technician.post(f"{self.base}/api/control/go")
                if answer.status_code != 429:
                    break
            assert answer.status_code == 200, answer.text

    @asynccontextmanager
    async def socket(self, path: str, **headers: str) -> AsyncIterator[ClientConnection]:
        async with connect(
            f"ws://{self.host}/show{path}",
            host="127.0.0.1",
            port=self.port,
            proxy=None,
            additional_headers=headers,
        ) as socket:
            yield socket


def a_show(folder: Path, *server: str) -> Path:
    folder.mkdir()
    (folder / "still.jpg").write_bytes(picture("still"))
    toml = 'still = "still.jpg"\n[schedule]\nkind = "manual"\n[server]\n' + "\n".join(server)
    return make_show(
        folder, CUES, rhythm=Rhythm(previews=3, step=0.15, first=0.4), toml=toml
    ).folder


TAKEN_AWAY, LEFT_IN_PLACE = "prefix taken away", "prefix left in place"
once = pytest.mark.parametrize("house", [TAKEN_AWAY], indirect=True)


@pytest.fixture(scope="module", params=[TAKEN_AWAY, LEFT_IN_PLACE])
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    folder, port = tmp_path_factory.mktemp("house"), free_port()
    configuration = documented()
    if request.param == LEFT_IN_PLACE:
        assert "proxy_pass http://understudy/;" in configuration
        configuration = configuration.replace("http://understudy/;", "http://understudy;")
    show = a_show(
        folder / "show",
        f'public_url = "http://{NAME}:{port}/show/"',
        'trusted_proxies = ["127.0.0.1"]',
    )
    tokens = {"UNDERSTUDY_OPERATOR_TOKEN": OPERATOR, "UNDERSTUDY_SCREEN_TOKEN": SCREEN}
    with (
        server_process(show, environment=tokens) as server,
        nginx(folder / "nginx", configuration, server.address.port, port=port),
    ):
        yield House(server, port)


def test_pages_are_found_below_the_path(house: House) -> None:
    with house.client() as client:
        for page in ("/", "/control"):
            answer = client.get(house.base + page)
            assert answer.status_code == 200
            assert "static/" in answer.text
            assert '"/' not in answer.text.replace('"/>', "")
        for path in ("/static/kiosk/main.js", "/static/fonts/fonts.css", "/healthz"):
            assert client.get(house.base + path).status_code == 200
        bare = client.get(house.base + "?screen=left")
        assert bare.status_code in {301, 302, 307}
        assert bare.headers["location"].endswith("show/") or "/show/?" in bare.headers["location"]
        slip = client.get(f"{house.base}/control/")
        assert (slip.status_code, slip.headers["location"]) == (307, "../control")


def test_only_a_token_operates(house: House) -> None:
    with house.client() as stranger:
        assert stranger.get(f"{house.base}/api/state").status_code == 401
        assert stranger.post(f"{house.base}/api/control/panic").status_code == 401
        lie = {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "host": house.host}
        assert stranger.get(f"{house.base}/api/state", headers=lie).status_code == 401
    with house.client("127.0.0.2", OPERATOR) as technician:
        lie = {"x-forwarded-for": "203.0.113.9"}
        answer = technician.post(f"{house.base}/api/control/hold", headers=lie)
        assert answer.status_code == 200, answer.text
        state = technician.get(f"{house.base}/api/state").json()
    # Who asked is whom nginx saw, not what was written before.
    assert state["commands"][0]["sender"] == "http 127.0.0.2 (operator)"


async def test_sockets_are_let_through_and_stay(house: House) -> None:
    origin = {"Origin": f"http://{house.host}"}
    async with house.socket("/ws/control", **origin) as socket:
        await socket.send(json.dumps({"type": "hello", "protocol": 1, "token": OPERATOR}))
        assert json.loads(await socket.recv())["role"] == "operator"
        command = {"type": "command", "id": "1", "command": "state", "args": {}}
        await socket.send(json.dumps(command))
        async with asyncio.timeout(10):
            while (heard := json.loads(await socket.recv()))["type"] != "reply":
                pass
        assert heard["ok"]
    async with house.socket("/ws/screen", **origin) as socket:
        hello = {"type": "hello", "protocol": 1, "screen": "a", "frames": "url", "token": SCREEN}
        await socket.send(json.dumps(hello))
        welcome = json.loads(await socket.recv())
        assert welcome["display"]["still"].startswith("/still?key=")
        with house.client() as client:
            still = client.get(house.base + welcome["display"]["still"])
            assert still.content == picture("still")
            assert client.get(f"{house.base}/still").status_code == 401
            await asyncio.to_thread(house.go)
            async with asyncio.timeout(10):
                while (heard := json.loads(await socket.recv())).get("type") != "frame":
                    pass
            assert heard["url"].startswith("/frames/")
            assert client.get(house.base + heard["url"]).status_code == 200


@once
async def test_a_page_from_elsewhere_is_told_why_not(house: House) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with house.socket("/ws/control", Origin="https://evil.example"):
            pass
    response = refused.value.response
    assert response.status_code == 403
    error: dict[str, Any] = json.loads(response.body or b"{}")["error"]
    assert "public_url" in error["message"]
    assert "evil.example" in error["message"]


@once
def test_a_terminal_by_the_public_address(house: House) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "server", "control", "--url", f"{house.base}/", "state", "--json"],
        cwd=ROOT,
        env=plain_environment(
            UNDERSTUDY_OPERATOR_TOKEN=OPERATOR, HTTP_PROXY="http://127.0.0.1:9", http_proxy=""
        ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["activation"] == "show"


def until(page: Page, said: str) -> None:
    """Wait until something is so in a page, whose policy forbids it to be asked the usual way."""
    for _ in range(200):
        if page.evaluate(said):
            return
        page.wait_for_timeout(50)
    raise AssertionError(said)


@once
@pytest.mark.browser
def test_a_wall_by_the_public_address(house: House, tmp_path: Path) -> None:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=find_browser(),
            args=["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"],
        )
        errors: list[str] = []
        asked: list[str] = []
        try:
            page = chromium.new_page(viewport={"width": 640, "height": 360})
            page.on("console", lambda said: errors.extend([said.text] * (said.type == "error")))
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"http://{house.host}/show/?screen=wall&frames=url&token={SCREEN}")
            page.wait_for_selector("#lobby[data-still], #calm[data-still]", state="attached")
            house.go()
            until(
                page,
                "[...document.querySelectorAll('#picture canvas')]"
                ".some((c) => c.width > 1 && Number(getComputedStyle(c).opacity) > 0.95)",
            )
            for _ in range(100):  # the dark before a screening lifts slowly
                seen = pixels(page.screenshot(path=tmp_path / "wall.png"))
                if float(seen.max() - seen.min()) > 120:
                    break
                page.wait_for_timeout(100)
            else:
                pytest.fail("no picture is to be seen")
            page.goto(f"http://{house.host}/show/control")
            page.wait_for_selector("#door[open]")
            page.fill("#door-token", OPERATOR)
            page.click("#door button[type=submit]")
            page.wait_for_selector("body[data-line=live][data-role=operator]")
            until(page, "document.querySelector('#picture img[data-on]')?.naturalWidth > 0")
        finally:
            chromium.close()
    assert errors == []
    assert any("/show/frames/" in url for url in asked)
    outside = [url for url in asked if f"{house.host}/show/" not in url and "://" in url]
    assert [url for url in outside if not url.startswith(("data:", "blob:"))] == []


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on loopback with nothing set: whoever sits at the machine operates."""
    with server_process(a_show(tmp_path_factory.mktemp("plain") / "show")) as server:
        yield server


def until_refused(server: ServerProcess, **told: str) -> dict[str, Any]:
    """The line in the log that tells of it."""
    for _ in range(100):
        for entry in server.log_lines():
            if entry["event"] == "access_refused" and told.items() <= entry.items():
                return entry
        time.sleep(0.05)
    raise AssertionError("nothing was logged")


def test_a_proxy_with_defaults_makes_nobody_operator(plain: ServerProcess, tmp_path: Path) -> None:
    port = free_port()
    assert "mode" in plain.state()
    with nginx(tmp_path / "nginx", BY_DEFAULT, plain.address.port, port=port):
        answer = httpx.post(f"http://127.0.0.1:{port}/api/control/panic", trust_env=False)
    assert answer.status_code == 401
    assert "UNDERSTUDY_OPERATOR_TOKEN" in answer.json()["error"]["message"]
    assert plain.state()["panic"] is None
    refused = until_refused(plain, path="/api/control/panic")
    assert "reverse proxy" in refused["reason"]


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-For: 127.0.0.1",
        "Forwarded: for=127.0.0.1",
        "X-Real-IP: 127.0.0.1",
        "Via: 1.1 x",
    ],
)
def test_nor_does_a_sign_of_one(plain: ServerProcess, header: str) -> None:
    name, _, value = header.partition(": ")
    url = f"{plain.address.http}/api/control/panic"
    answer = httpx.post(url, headers={name: value}, trust_env=False)
    assert answer.status_code == 401


def test_another_name_is_refused_with_what_helps(plain: ServerProcess) -> None:
    answer = httpx.get(f"{plain.address.http}/api/state", headers={"host": NAME}, trust_env=False)
    assert answer.status_code == 403
    assert "[server] public_url" in answer.json()["error"]["message"]
    assert until_refused(plain, host=NAME)["path"] == "/api/state"


@pytest.mark.browser
def test_a_technician_is_told_what_helps(plain: ServerProcess) -> None:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=find_browser(),
            args=["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"],
        )
        try:
            page = chromium.new_page()
            page.goto(f"http://{NAME}:{plain.address.port}/control")
            alarm = page.locator("#alarm-line p", has_text="[server] public_url")
            alarm.wait_for(timeout=20_000)
        finally:
            chromium.close()
