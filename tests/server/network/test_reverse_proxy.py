from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from server.config.sections import ServerSection, Tokens
from server.network.access import Access
from server.network.connections import ConnectionLimits
from server.network.rate_limit import LimitedRequests, RateLimit, cost_of
from server.network.reverse_proxy import (
    BehindProxies,
    Forwarded,
    ReverseProxies,
    came_through_a_proxy,
    network_of,
)
from server.web.pages import STATIC

TRUSTED = ReverseProxies(["127.0.0.1", "10.0.0.0/24"], "https://venue.example/show/")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, Forwarded()),
        ({"x-forwarded-for": "203.0.113.9"}, Forwarded("203.0.113.9")),
        ({"x-forwarded-for": "6.6.6.6, 203.0.113.9, 10.0.0.2"}, Forwarded("203.0.113.9")),
        ({"x-forwarded-for": "10.0.0.3, 10.0.0.2"}, Forwarded("10.0.0.3")),
        ({"x-forwarded-for": "203.0.113.9:5123"}, Forwarded("203.0.113.9")),
        ({"x-forwarded-for": "[2001:db8::1]:5123"}, Forwarded("2001:db8::1")),
        ({"x-forwarded-for": "::ffff:203.0.113.9"}, Forwarded("203.0.113.9")),
        ({"x-forwarded-for": "203.0.113.9, nonsense"}, Forwarded("unknown")),
        ({"x-forwarded-for": " , "}, Forwarded()),
        ({"x-forwarded-for": "1.1.1.1," * 1000 + "10.0.0.2"}, Forwarded("1.1.1.1")),
        ({"x-forwarded-proto": "https", "x-forwarded-host": "a, b"}, Forwarded(None, "b", "https")),
        ({"x-forwarded-proto": "gopher"}, Forwarded()),
        (
            {"forwarded": 'for="[2001:db8::1]:99";proto=https;host=venue.example, for=10.0.0.2'},
            Forwarded("2001:db8::1", "venue.example", "https"),
        ),
        ({"forwarded": "for=_hidden"}, Forwarded("unknown")),
        (
            {"forwarded": "for=1.1.1.1", "x-forwarded-for": "203.0.113.9"},
            Forwarded("203.0.113.9"),
        ),
    ],
)
def test_what_a_trusted_proxy_says(headers: dict[str, str], expected: Forwarded) -> None:
    assert TRUSTED.read(Headers(headers)) == expected


async def whoami(request: Request) -> JSONResponse:
    return JSONResponse(
        {
            "client": request.client.host if request.client else None,
            "host": request.headers["host"],
            "scheme": request.url.scheme,
            "path": request.url.path,
            "proxied": came_through_a_proxy(request),
        }
    )


async def asked(
    path: str = "/x", client: str = "10.0.0.1", rules: ReverseProxies = TRUSTED, **headers: str
) -> httpx.Response:
    app = BehindProxies(Starlette(routes=[Route("/x", whoami), Route("/", whoami)]), rules)
    transport = httpx.ASGITransport(app, client=(client, 1))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=transport, base_url="http://local") as web:
        return await web.get(path, headers=named)


async def test_a_trusted_proxys_word_is_taken() -> None:
    answer = await asked(
        x_forwarded_for="203.0.113.9", x_forwarded_host="venue.example", x_forwarded_proto="https"
    )
    assert answer.json() == {
        "client": "203.0.113.9",
        "host": "venue.example",
        "scheme": "https",
        "path": "/x",
        "proxied": True,
    }


async def test_nobody_elses_is() -> None:
    answer = await asked(
        client="10.0.9.9",
        x_forwarded_for="127.0.0.1",
        x_forwarded_host="venue.example",
        x_forwarded_proto="https",
    )
    assert answer.json() == {
        "client": "10.0.9.9",
        "host": "local",
        "scheme": "http",
        "path": "/x",
        "proxied": True,
    }


@pytest.mark.parametrize("path", ["/x", "/show/x"])
async def test_the_prefix_may_be_there_or_not(path: str) -> None:
    assert (await asked(path)).json()["path"] == "/x"


async def test_without_its_last_slash_the_prefix_leads_to_the_page() -> None:
    answer = await asked("/show?screen=left")
    assert (answer.status_code, answer.headers["location"]) == (307, "show/?screen=left")
    assert (await asked("/show/")).json()["path"] == "/"
    assert (await asked("/shows/x")).status_code == 404
    assert (await asked("/show/x", rules=ReverseProxies())).status_code == 404


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("venue.example", "expected an address"),
        ("ftp://venue.example", "expected an address"),
        ("https://me:secret@venue.example", "without user"),
        ("https://venue.example/?a=b", "without user"),
        ("https://venue.example/api/", "one of our own"),
        ("https://[venue", "expected an address"),
    ],
)
def test_a_public_address_that_will_not_do(url: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        ServerSection(public_url=url)
    assert "secret" not in str(refused.value.errors(include_input=False))


@pytest.mark.parametrize(
    "server",
    [
        ServerSection(public_url="https://venue.example/show/"),
        ServerSection(trusted_proxies=("127.0.0.1",)),
    ],
)
def test_a_proxy_wants_an_operators_token(server: ServerSection) -> None:
    refusal = Access(Tokens(), server).refuses_to_listen()
    assert refusal is not None
    assert "UNDERSTUDY_OPERATOR_TOKEN" in refusal
    token = Tokens(operator=SecretStr("s"))
    assert Access(token, server).refuses_to_listen() is None


def test_a_budget_is_each_clients_own() -> None:
    now = 0.0
    limit = RateLimit(rate=10, burst=20, most=3, monotonic=lambda: now)
    assert [limit.wait("a") for _ in range(20)] == [0.0] * 20
    assert limit.wait("a") == pytest.approx(0.1)
    assert limit.wait("a", 5) == pytest.approx(0.5)
    assert limit.wait("b", 20) == 0.0
    now = 1.0
    assert limit.wait("a", 10) == 0.0
    assert limit.wait("a") > 0
    for name in range(10):  # however many there are, no more are remembered
        limit.wait(str(name))
    assert len(limit._buckets) == 3


def test_fifty_walls_behind_one_address_load_their_pages_at_once() -> None:
    files = ["/", *(f"/static/{path.relative_to(STATIC)}" for path in (STATIC / "kiosk").iterdir())]
    files += [f"/static/fonts/{path.name}" for path in (STATIC / "fonts").iterdir()]
    limit = RateLimit(monotonic=lambda: 0.0)
    assert not any(limit.wait("nat", cost_of(path)) for path in files * 50)
    section = ServerSection()
    assert section.max_connections_per_address >= 50 * (6 + 1), "browsers open six, and a socket"
    assert ConnectionLimits().most_of_one_address == section.max_connections_per_address


async def test_who_asks_too_much_is_told_to_wait() -> None:
    routes = [Route("/x", whoami), Route("/api/control/go", whoami)]
    app = LimitedRequests(Starlette(routes=routes), RateLimit(rate=1, burst=3))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://local"
    ) as web:
        answers = [(await web.get("/x")) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert answers[-1].json()["error"]["code"] == "too_many"
        # A technician's page that is greedy may still panic.
        assert (await web.get("/api/control/go")).status_code == 200


def test_what_is_one_client() -> None:
    assert network_of("203.0.113.9") == "203.0.113.9"
    assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::1")
    assert network_of("2001:db8:1:2::1") != network_of("2001:db8:1:3::1")
    assert network_of("testclient") == "testclient"
