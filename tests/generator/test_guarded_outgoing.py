"""Addresses that somebody else named: forty ways to have us ask ourselves, none of which does."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from generator.guarded_outgoing import (
    MAX_BRIEF,
    NOWHERE_ELSE,
    AddressRefused,
    Reach,
    Resolve,
    ask_guarded,
    checked_address,
    guarded_client,
    is_public,
    reach_of,
    tell,
)
from generator.outgoing import AnswerRefused

PUBLIC = "93.184.215.14"
OTHER_PUBLIC = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


class Dialled:
    """Every address that this process connects to while it listens; none outside is reached."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.listening = False
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.listening or event != "socket.connect":
            return
        sock, place = arguments
        if sock.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        self.addresses.append(place[0])
        if not ip_address(place[0].partition("%")[0]).is_loopback:
            raise OSError("no way out of a test")


_DIALLED = Dialled()  # a hook of the interpreter's cannot be taken off again


@pytest.fixture
def dialled() -> Iterator[list[str]]:
    _DIALLED.addresses.clear()
    _DIALLED.listening = True
    yield _DIALLED.addresses
    _DIALLED.listening = False


Reply = bytes | None
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Listener:
    """A server on every address of this machine that notes whoever comes."""

    port: int = 0
    reply: Reply = OK
    came: list[str] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.append(writer.get_extra_info("sockname")[0])
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heard.append(head)
            self.asked.set()
            if self.reply is None:
                await reader.read()
                self.left.set()
            else:
                writer.write(self.reply)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(
    tls: ssl.SSLContext | None = None, reply: Reply = OK
) -> AsyncIterator[Listener]:
    listener = Listener(reply=reply)
    servers = [await asyncio.start_server(listener.serve, "0.0.0.0", 0, ssl=tls)]
    listener.port = servers[0].sockets[0].getsockname()[1]
    if socket.has_dualstack_ipv6():
        servers.append(await asyncio.start_server(listener.serve, "::", listener.port, ssl=tls))
    try:
        yield listener
    finally:
        for server in servers:
            server.close()


def leads_to(*answers: Sequence[str]) -> Resolve:
    """A resolver that gives these, one after another, and then the last for ever."""
    left = [list(each) for each in answers]

    async def resolve(_host: str, _port: int) -> list[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with listening() as here:
        yield here


# ---------------------------------------------------------------- what must never be asked

WRITTEN = [
    "127.0.0.1",
    "127.255.255.254",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "017700000001",
    "0177.0.0.1",
    "127.0.0.01",
    "0",
    "0.0.0.0",
    "0.0.0.0.",
    "127.0.0.1.",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "127。0。0。1",
    "１２７.０.０.１",  # noqa: RUF001 - it is what somebody may write
    "①②⑦.⓪.⓪.①",
    "%31%32%37.0.0.1",
    "127.0.0.1%00.example.com",
    "public.example@127.0.0.1",
    "user:password@localhost",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::8080]",
    "[fe80::1%25lo]",
    "[fe80::1]",
    "[::1%25lo]",
    "[fd00:ec2::254]",
    "[fec0::1]",
    "[ff02::1]",
    "[3fff::1]",
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "192.88.99.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
]
"""Hosts as somebody may write them; the system's own resolver reads them."""

LED_TO = [
    ["127.0.0.1"],
    ["::1"],
    ["0.0.0.0"],
    ["::"],
    ["::ffff:127.0.0.1"],
    ["::ffff:0:7f00:1"],
    ["64:ff9b::7f00:1"],
    ["2002:7f00:1::"],
    ["169.254.169.254"],
    ["10.1.2.3"],
    ["fe80::1%lo"],
    [PUBLIC, "127.0.0.1"],
    ["127.0.0.1", PUBLIC],
    [OTHER_PUBLIC, "::1"],
    [PUBLIC, "224.0.0.1"],
]
"""What an innocent name may lead to."""


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("host", WRITTEN)
async def test_no_address_that_is_not_public_is_ever_connected_to(
    host: str, scheme: str, listener: Listener, dialled: list[str]
) -> None:
    url = f"{scheme}://{host}:{listener.port}/"
    async with guarded_client() as client:
        with pytest.raises(AddressRefused):
            await tell(client, url, b"{}", {})
        with pytest.raises(AddressRefused):
            await ask_guarded(client, "GET", url)
    assert (dialled, listener.came) == ([], [])


async def test_many_of_these_lead_here_where_nobody_is_on_guard(
    listener: Listener, dialled: list[str]
) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        for host in WRITTEN:
            try:
                await client.get(f"http://{host}:{listener.port}/")
            except (httpx.HTTPError, httpx.InvalidURL):
                continue
    assert len(listener.came) >= 15
    assert len(dialled) > len(listener.came)


@pytest.mark.parametrize("found", LED_TO, ids="+".join)
async def test_a_name_that_leads_to_anything_near_is_not_asked(
    found: list[str], listener: Listener, dialled: list[str]
) -> None:
    async with guarded_client(resolve=leads_to(found)) as client:
        with pytest.raises(httpx.ConnectError):
            await tell(client, f"https://hook.example:{listener.port}/", b"{}", {})
    assert (dialled, listener.came) == ([], [])


async def test_a_name_is_looked_up_once_and_what_was_checked_is_dialled(
    listener: Listener, dialled: list[str]
) -> None:
    async with guarded_client(resolve=leads_to([PUBLIC], ["127.0.0.1"])) as client:
        url = f"https://rebinds.example:{listener.port}/"
        with pytest.raises(httpx.ConnectError) as first:
            await tell(client, url, b"{}", {})
        assert not isinstance(first.value, AddressRefused)  # it went out, where a test does not
        assert dialled == [PUBLIC]
        with pytest.raises(AddressRefused):
            await tell(client, url, b"{}", {})
    assert (dialled, listener.came) == ([PUBLIC], [])


async def test_a_name_that_leads_elsewhere_meanwhile_is_still_asked_where_it_led(
    listener: Listener, dialled: list[str]
) -> None:
    reach = reach_of(["127.0.0.2"])
    async with guarded_client(reach, resolve=leads_to(["127.0.0.2"], ["127.0.0.1"])) as client:
        url = f"http://rebinds.example:{listener.port}/"
        assert (await tell(client, url, b"{}", {})).status == 200
        with pytest.raises(AddressRefused):
            await tell(client, url, b"{}", {})
    assert (dialled, listener.came) == (["127.0.0.2"], ["127.0.0.2"])
    assert f"host: rebinds.example:{listener.port}".encode() in listener.heard[0].lower()


async def test_every_address_of_a_name_is_tried(listener: Listener, dialled: list[str]) -> None:
    found = [PUBLIC, OTHER_PUBLIC, "127.0.0.1"]
    reach = reach_of(["several.example"])
    async with guarded_client(reach, resolve=leads_to(found)) as client:
        answer = await tell(client, f"http://several.example:{listener.port}/", b"{}", {})
    assert answer.status == 200
    assert dialled == found


async def test_no_proxy_of_the_environment_is_asked(
    listener: Listener, dialled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    async with guarded_client(resolve=leads_to([PUBLIC])) as client:
        with pytest.raises(httpx.ConnectError):
            await tell(client, "https://hook.example/", b"{}", {})
    assert (dialled, listener.came) == ([PUBLIC], [])


async def test_a_redirect_leads_nowhere(dialled: list[str]) -> None:
    async with listening() as inner:
        to_it = f"HTTP/1.1 307 x\r\nlocation: http://127.0.0.1:{inner.port}/\r\n\r\n".encode()
        async with (
            listening(reply=to_it) as outer,
            guarded_client(reach_of(["127.0.0.0/8"])) as client,
        ):
            url = f"http://127.0.0.1:{outer.port}/"
            assert (await tell(client, url, b"{}", {})).status == 307
            assert (await ask_guarded(client, "GET", url)).status_code == 307
        assert inner.came == []
    assert len(dialled) == 2


async def test_nothing_of_ours_is_sent_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    sets = b"HTTP/1.1 200 OK\r\nset-cookie: a=1; path=/\r\ncontent-length: 0\r\n\r\n"
    async with (
        listening(reply=sets) as listener,
        guarded_client(reach_of(["127.0.0.0/8"])) as client,
    ):
        for _ in range(2):
            await tell(client, f"http://127.0.0.1:{listener.port}/", b"{}", {})
    heads = b"".join(listener.heard).lower()
    assert heads.count(b"post / http/1.1") == 2
    assert b"cookie" not in heads
    assert b"authorization" not in heads


# ---------------------------------------------------------------- answers


async def test_a_long_answer_is_not_read_on() -> None:
    reply = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (4 * MAX_BRIEF)
    reach = reach_of(["127.0.0.0/8"])
    async with listening(reply=reply) as listener, guarded_client(reach) as client:
        url = f"http://127.0.0.1:{listener.port}/"
        answer = await tell(client, url, b"{}", {})
        assert (answer.status, answer.beginning) == (200, b"x" * MAX_BRIEF)
        with pytest.raises(AnswerRefused):
            await ask_guarded(client, "GET", url, limit=MAX_BRIEF)
        whole = await ask_guarded(client, "GET", url, limit=4 * MAX_BRIEF)
        assert len(whole.content) == 4 * MAX_BRIEF


async def test_a_packed_answer_is_not_unpacked() -> None:
    reply = b"HTTP/1.1 204 x\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"
    async with (
        listening(reply=reply) as listener,
        guarded_client(reach_of(["127.0.0.0/8"])) as client,
    ):
        url = f"http://127.0.0.1:{listener.port}/"
        assert (await tell(client, url, b"{}", {})).status == 204
        with pytest.raises(AnswerRefused):
            await ask_guarded(client, "GET", url)


@pytest.mark.parametrize("reply", [None, b"", b"HTTP/1.1 2", b"\x16\x03\x01 what is this\r\n\r\n"])
async def test_who_does_not_answer_is_not_waited_for(reply: Reply) -> None:
    async with (
        listening(reply=reply) as listener,
        guarded_client(reach_of(["127.0.0.0/8"])) as client,
    ):
        with pytest.raises(httpx.HTTPError):
            await tell(client, f"http://127.0.0.1:{listener.port}/", b"{}", {}, within=0.2)


async def test_a_status_counts_although_the_rest_never_comes() -> None:
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome of it"
    async with (
        listening(reply=reply) as listener,
        guarded_client(reach_of(["127.0.0.0/8"])) as client,
    ):
        answer = await tell(client, f"http://127.0.0.1:{listener.port}/", b"{}", {}, within=2.0)
    assert (answer.status, answer.beginning) == (200, b"some of it")


async def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    async def hangs(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async with guarded_client(resolve=hangs) as client:
        with pytest.raises(httpx.ReadTimeout):
            await tell(client, "https://hook.example/", b"{}", {}, within=0.1)
        with pytest.raises(httpx.ReadTimeout):
            await ask_guarded(client, "GET", "https://hook.example/", within=0.1)


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's certificate for ``hook.example``, and a client that believes it alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hook.example")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hook.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cafile=str(path))
    return server, client


async def test_the_certificate_is_that_of_the_name_though_an_address_is_dialled(
    certified: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, believes = certified
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    reach = reach_of(["127.0.0.0/8"])
    async with (
        listening(server) as listener,
        guarded_client(reach, resolve=leads_to(["127.0.0.1"]), tls=believes) as client,
        guarded_client(reach, resolve=leads_to(["127.0.0.1"])) as stranger,
    ):
        for host in ("hook.example", "hook.example."):
            answer = await tell(client, f"https://{host}:{listener.port}/", b"{}", {})
            assert answer.status == 200
        assert names == ["hook.example"] * 2
        with pytest.raises(httpx.ConnectError):  # another name's certificate
            await tell(client, f"https://other.example:{listener.port}/", b"{}", {})
        with pytest.raises(httpx.ConnectError):  # a certificate that nobody else believes
            await tell(stranger, f"https://hook.example:{listener.port}/", b"{}", {})
        assert len(listener.heard) == 2


# ---------------------------------------------------------------- what may be asked


@pytest.mark.parametrize(
    "address",
    [PUBLIC, OTHER_PUBLIC, "1.1.1.1", f"::ffff:{PUBLIC}", f"64:ff9b::{PUBLIC}", "2002:808:808::1"],
)
def test_what_anybody_can_reach_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.integers(0, 2**32 - 1))
def test_whatever_wraps_an_address_is_as_public_as_it(number: int) -> None:
    bare = IPv4Address(number)
    for prefix in (0xFFFF << 32, 0x64FF9B << 96, (0x2002 << 112) + (number << 80) - number):
        assert is_public(IPv6Address(prefix + number)) is is_public(bare)
    assert not is_public(IPv6Address(number))


@given(st.ip_addresses())
def test_what_is_for_this_network_or_for_nobody_is_never_public(
    address: IPv4Address | IPv6Address,
) -> None:
    near = address.is_private or address.is_loopback or address.is_link_local
    if near or address.is_multicast or address.is_unspecified:
        wraps = isinstance(address, IPv6Address) and address.ipv4_mapped is not None
        assert wraps or not is_public(address)


@pytest.mark.parametrize("found", [[PUBLIC], [OTHER_PUBLIC], [PUBLIC, OTHER_PUBLIC]])
async def test_a_public_address_is_asked_over_https_alone(
    found: list[str], dialled: list[str]
) -> None:
    async with guarded_client(resolve=leads_to(found)) as client:
        with pytest.raises(httpx.ConnectError):
            await tell(client, "https://hook.example/", b"{}", {})
        assert dialled == found
        with pytest.raises(AddressRefused):
            await tell(client, "http://hook.example/", b"{}", {})
        assert dialled == found


@pytest.mark.parametrize(
    ("entries", "host", "goes"),
    [
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.2", False),
        (["127.0.0.0/8"], "[::ffff:127.0.0.1]", True),
        (["127.0.0.0/8"], "hook.example", True),
        (["10.0.0.0/8"], "hook.example", False),
        (["hook.example"], "hook.example", True),
        (["Hook.Example."], "HOOK.example.", True),
        (["hook.example"], "127.0.0.1", False),
        (["hook.example"], "not.hook.example", False),
        (["127.0.0.0/8"], "2130706433", False),
    ],
)
async def test_what_the_settings_name_may_be_reached(
    entries: list[str], host: str, goes: bool, listener: Listener
) -> None:
    async with guarded_client(reach_of(entries), resolve=leads_to(["127.0.0.1"])) as client:
        url = f"http://{host}:{listener.port}/"
        if goes:
            assert (await tell(client, url, b"{}", {})).status == 200
        else:
            with pytest.raises(AddressRefused):
                await tell(client, url, b"{}", {})
    assert len(listener.came) == goes


@pytest.mark.parametrize("entry", ["", "10.0.0.1/8", "http://x", "a b", "127.1", "x:80", "*"])
def test_what_names_no_host_and_no_network_is_told(entry: str) -> None:
    with pytest.raises(ValueError, match="expected a host"):
        reach_of([entry])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook.example",
        "//hook.example/",
        "ftp://hook.example/",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://hook.example:0/",
        "https://hook.example:65536/",
        "https://hook.example:x/",
        "https://me@hook.example/",
        "https://..hook.example/",
        "https://hook.example/" + "x" * 2048,
        "https://hook.example/\r\nhost: other",
        "https://exa mple/",
        "http://hook.example/",
    ],
)
def test_what_is_no_address_for_a_hook_is_told_before_anything_is_asked(url: str) -> None:
    with pytest.raises(AddressRefused):
        checked_address(url)


@pytest.mark.parametrize("reach", [NOWHERE_ELSE, Reach(frozenset({"x"}))])
def test_a_usual_address_is_taken_as_it_is(reach: Reach) -> None:
    url = "https://bücher.example:8443/hooks?a=b"
    assert checked_address(url, reach).raw_host == b"xn--bcher-kva.example"


async def test_cancelled_it_leaves_nothing_open() -> None:
    async with (
        listening(reply=None) as listener,
        guarded_client(reach_of(["127.0.0.0/8"])) as client,
    ):
        asking = asyncio.create_task(tell(client, f"http://127.0.0.1:{listener.port}/", b"{}", {}))
        await listener.asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await listener.left.wait()
