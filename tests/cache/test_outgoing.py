from __future__ import annotations

import pytest

from cache.outgoing import has_password, is_near, proxy_for, reason_of, redacted

PROXY = "http://proxy.example:3128"
ENV = {"HTTP_PROXY": PROXY, "https_proxy": "proxy.example:3129"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://gpu.example:9000", PROXY),
        ("ws://gpu.example/ws", PROXY),
        ("https://gpu.example", "http://proxy.example:3129"),
        ("wss://gpu.example/ws", "http://proxy.example:3129"),
        ("https://account.r2.cloudflarestorage.com", "http://proxy.example:3129"),
        ("http://127.0.0.1:9000", None),
        ("http://[::1]:9000", None),
        ("http://localhost:9000", None),
        ("http://10.0.0.7:9000", None),
        ("http://192.168.1.5:9000", None),
        ("http://[fe80::1]:9000", None),
        ("http://gpu:9000", None),
        ("http://gpu.local:9000", None),
        ("http://8.8.8.8:9000", PROXY),
        ("ftp://gpu.example", None),
        ("http://gpu.example:port", None),
    ],
)
def test_who_is_asked_through_a_proxy(url: str, expected: str | None) -> None:
    assert proxy_for(url, ENV) == expected
    assert proxy_for(url, {}) is None


@pytest.mark.parametrize(
    ("named", "direct"),
    [
        ("gpu.example", True),
        ("GPU.Example", True),
        ("example", True),
        (".example", True),
        ("*.example", True),
        ("other.example, gpu.example", True),
        ("gpu.example:9000", True),
        ("gpu.example:9001", False),
        ("*", True),
        ("u.example", False),
        ("gpu.example.org", False),
        ("10.0.0.0/8", False),
        ("", False),
        (",", False),
    ],
)
def test_no_proxy_is_kept_to(named: str, *, direct: bool) -> None:
    found = proxy_for("http://gpu.example:9000", {**ENV, "NO_PROXY": named})
    assert (found is None) is direct


def test_no_proxy_knows_networks() -> None:
    env = {"ALL_PROXY": PROXY, "no_proxy": "8.8.8.0/24,2001:db8::/32"}
    assert proxy_for("http://8.8.8.8", env) is None
    assert proxy_for("http://8.8.9.8", env) == PROXY
    assert proxy_for("http://[2001:db8::1]", {**env, "no_proxy": ""}) is None  # documentation's
    assert proxy_for("wss://x.example", env) == PROXY


@pytest.mark.parametrize("proxy", ["socks5://me:secret@proxy.example:1080", "http://", "p:q"])
def test_a_proxy_that_cannot_be_used_is_passed_over(proxy: str) -> None:
    assert proxy_for("http://gpu.example", {"http_proxy": proxy}) is None
    assert proxy_for("http://gpu.example", {"http_proxy": proxy, "all_proxy": PROXY}) == PROXY


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://gpu.example:9000/x", "http://gpu.example:9000/x"),
        ("http://me:secret@gpu.example:9000", "http://gpu.example:9000"),
        ("ws://me@gpu.example/ws?token=secret#secret", "ws://gpu.example/ws?…"),
        ("http://[::1]:9000/?a=secret", "http://[::1]:9000/?…"),
        ("http://gpu:secret", "an address that cannot be read"),
        ("gpu", "gpu"),
    ],
)
def test_what_is_told_of_an_address(url: str, expected: str) -> None:
    assert redacted(url) == expected


def test_what_is_told_of_an_error() -> None:
    url = "ws://me:s3cret@gpu.example/ws?token=t0ken"
    told = reason_of(ValueError(f"{url} is not nice: s3cret, token=t0ken"), url)
    assert told == "ws://gpu.example/ws?… is not nice: …, …"
    assert reason_of(ValueError(), url) == "ValueError"


def test_passwords_in_addresses() -> None:
    assert has_password("http://me:secret@gpu.example")
    assert has_password("http://me@gpu.example")
    assert not has_password("http://gpu.example/@")
    assert has_password("http://[me@")


def test_what_is_near() -> None:
    assert all(map(is_near, ["localhost", "gpu", "gpu.lan", "172.16.0.1", "fd00::1", "::1"]))
    assert not any(map(is_near, ["gpu.example", "8.8.8.8", "2a00:1450::1"]))
