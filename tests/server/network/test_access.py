from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from server.config.sections import ServerSection, Tokens, is_loopback
from server.network.access import Access, AccessDenied, Role

OPERATOR, VIEWER = "let me operate", "let me see"


def tokens(*, worker: str | None = None, **given: str) -> Tokens:
    engines = {} if worker is None else {"worker": worker}
    return Tokens.model_validate({**given, "engines": engines})


def asking(client: str | None = "127.0.0.1", **headers: str) -> HTTPConnection:
    scope = {
        "type": "http",
        "client": (client, 50000) if client else None,
        "headers": [(name.encode(), text.encode("latin-1")) for name, text in headers.items()],
    }
    return HTTPConnection(scope)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("foh", False),
    ],
)
def test_what_is_this_machine_alone(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "foh.example"])
def test_it_listens_elsewhere_only_with_an_operators_token(host: str) -> None:
    refusal = Access(Tokens(), ServerSection(host=host)).refuses_to_listen()
    assert refusal is not None
    assert "UNDERSTUDY_OPERATOR_TOKEN" in refusal
    assert (
        Access(tokens(viewer=VIEWER, screen="s"), ServerSection(host=host)).refuses_to_listen()
        is not None
    )
    assert Access(tokens(operator=OPERATOR), ServerSection(host=host)).refuses_to_listen() is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_it_listens_on_loopback_without(host: str) -> None:
    assert Access(Tokens(), ServerSection(host=host)).refuses_to_listen() is None


# ---------------------------------------------------------------- roles


def role(access: Access, token: str | None, client: str | None = "127.0.0.1") -> Role | str:
    try:
        return access.role(token, client)
    except AccessDenied as error:
        return error.code


def test_without_tokens_whoever_sits_at_the_machine_operates() -> None:
    access = Access(Tokens(), ServerSection())
    assert role(access, None) == "operator"
    assert role(access, "whatever") == "operator"
    assert role(access, None, "192.168.1.5") == "unauthorized"
    assert role(access, None, None) == "unauthorized"
    assert role(access, "", "192.168.1.5") == "unauthorized"


def test_with_tokens_everybody_brings_one() -> None:
    access = Access(
        tokens(operator=OPERATOR, viewer=VIEWER, screen="s", worker="w"),
        ServerSection(host="0.0.0.0"),
    )
    for client in ("127.0.0.1", "192.168.1.5"):
        assert role(access, OPERATOR, client) == "operator"
        assert role(access, VIEWER, client) == "viewer"
        for wrong in (None, "", "s", "w", OPERATOR + " ", OPERATOR[:-1], "é", "\udc80"):
            assert role(access, wrong, client) == "unauthorized", wrong


def test_a_viewers_token_alone_lets_nobody_operate() -> None:
    access = Access(tokens(viewer=VIEWER), ServerSection())
    assert role(access, None) == "unauthorized"
    assert role(access, VIEWER) == "viewer"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"Bearer {OPERATOR}", "operator"),
        (f"bearer {OPERATOR}", "operator"),
        (f"Basic {OPERATOR}", "unauthorized"),
        (OPERATOR, "unauthorized"),
        ("Bearer", "unauthorized"),
        ("Bearer sch\xfcssel", "unauthorized"),
    ],
)
def test_the_token_is_a_bearers(header: str, expected: str) -> None:
    access = Access(tokens(operator=OPERATOR), ServerSection())
    found: str
    try:
        found = access.role_of(asking(host="127.0.0.1:8000", authorization=header))
    except AccessDenied as error:
        found = error.code
    assert found == expected


def test_screens_need_a_token_only_where_there_is_one() -> None:
    Access(Tokens(), ServerSection()).check_screen(None)
    Access(tokens(operator=OPERATOR), ServerSection(host="0.0.0.0")).check_screen("anything")
    access = Access(tokens(screen="sesame"), ServerSection())
    access.check_screen("sesame")
    for wrong in (None, "", "Sesame", "sesame "):
        with pytest.raises(AccessDenied) as refused:
            access.check_screen(wrong)
        assert refused.value.code == "unauthorized"
        assert "sesame" not in str(refused.value)


# ---------------------------------------------------------------- pages


def let_in(access: Access, **headers: str) -> bool:
    try:
        access.check_origin(asking(**headers))
    except AccessDenied as error:
        refused = error
    else:
        return True
    assert refused.code == "forbidden"
    return False


LOOPBACK = Access(Tokens(), ServerSection())
OPEN = Access(
    tokens(operator=OPERATOR), ServerSection(host="0.0.0.0", origins=("https://foh.example",))
)


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("127.0.0.1:8000", None, True),
        ("localhost:8000", "http://localhost:8000", True),
        ("LOCALHOST:8000", "http://localhost:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", False),
        ("127.0.0.1:8000", "http://localhost:8000", False),
        ("127.0.0.1:8000", "https://evil.example", False),
        ("127.0.0.1:8000", "null", False),
        ("127.0.0.1:8000", "", False),
        ("evil.example:8000", "http://evil.example:8000", False),
        ("evil.example", None, False),
        ("", None, False),
    ],
)
def test_on_loopback_only_pages_loaded_by_its_name(
    host: str, origin: str | None, *, expected: bool
) -> None:
    headers = {"host": host} | ({"origin": origin} if origin is not None else {})
    assert let_in(LOOPBACK, **headers) is expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, True),
        ("http://gallery.lan:8000", True),
        ("https://foh.example", True),
        ("https://foh.example.evil", False),
        ("http://foh.example", False),
        ("http://gallery.lan", False),
        ("http://user@gallery.lan:8000", False),
        ("file://", False),
        ("http://[", False),
    ],
)
def test_elsewhere_its_own_pages_and_those_named(origin: str | None, *, expected: bool) -> None:
    headers = {"host": "gallery.lan:8000"} | ({"origin": origin} if origin is not None else {})
    assert let_in(OPEN, **headers) is expected


@pytest.mark.parametrize("host", ["[", "[::1", "127.0.0.1:notaport", "a@127.0.0.1:8000"])
def test_a_host_that_is_none_never_breaks_it(host: str) -> None:
    assert let_in(LOOPBACK, host=host, origin=f"http://{host}") in {True, False}
