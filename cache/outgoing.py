"""Outgoing connections: which proxy each goes through, and how its address may be told.

One rule for the store, engines, probes and the terminal, whichever library does the asking:
the environment's ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``ALL_PROXY``, but for what ``NO_PROXY``
names and for what is near: this machine, private and link-local addresses, and names that mean
something on this network alone (``gpu``, ``gpu.local``). No proxy outside leads to those.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import structlog

_log = structlog.get_logger(__name__)

_VARIABLE: Final = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
_PORT: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_NEAR_SUFFIXES: Final = (".local", ".localhost", ".internal", ".lan", ".home.arpa")
_UNREADABLE: Final = "an address that cannot be read"
_warned: set[str] = set()
"""Variables whose proxies were said to be of no use; no more than the variables there are."""


def redacted(url: str) -> str:
    """An address as it may be logged and shown: no user, password, query or fragment.

    ``ws://me:secret@gpu.example/ws?token=secret`` becomes ``ws://gpu.example/ws?…``.
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
        host = parts.hostname or ""
    except ValueError:
        return _UNREADABLE
    place = f"[{host}]{port}" if ":" in host else f"{host}{port}"
    told = urlunsplit((parts.scheme, place, parts.path, "", ""))
    return f"{told}?…" if parts.query else told


def has_password(url: str) -> bool:
    """Whether an address brings a user or a password along."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "@" in url
    return parts.username is not None or parts.password is not None


def reason_of(error: Exception, *urls: str) -> str:
    """What an error says, without the secrets of the addresses that were asked."""
    text = str(error) or type(error).__name__
    for url in urls:
        text = text.replace(url, redacted(url))
        try:
            parts = urlsplit(url)
        except ValueError:
            continue
        for secret in (parts.password, parts.query):
            if secret:
                text = text.replace(secret, "…")
    return text


def proxy_for(url: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The proxy through which an address is to be asked; None: directly.

    Args:
        url: ``http``, ``https``, ``ws`` or ``wss``.
        environ: the environment; None for the process's.
    """
    env = os.environ if environ is None else environ
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return None
    kind = _VARIABLE.get(parts.scheme)
    if kind is None or is_near(host) or _exempt(host, port or _PORT[parts.scheme], env):
        return None
    for name in (f"{kind}_proxy", "all_proxy"):
        proxy = env.get(name) or env.get(name.upper())
        if not proxy:
            continue
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        if _usable(proxy):
            return proxy
        if name not in _warned:
            _warned.add(name)
            _log.warning(
                "proxy_not_supported",
                variable=name.upper(),
                proxy=redacted(proxy),
                expected="http://host:port or https://host:port; it is passed over",
            )
    return None


def is_near(host: str) -> bool:
    """Whether a host is this machine or on this network, as far as its name or address tells."""
    host = host.lower()
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return "." not in host or host.endswith(_NEAR_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_link_local


def _usable(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _exempt(host: str, port: int, env: Mapping[str, str]) -> bool:
    """Whether ``NO_PROXY`` names a host: by name, suffix, address, network, or all with ``*``."""
    named = env.get("no_proxy") or env.get("NO_PROXY") or ""
    return any(_names(entry.strip().lower(), host.lower(), port) for entry in named.split(","))


def _names(entry: str, host: str, port: int) -> bool:
    if not entry:
        return False
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # a name is no network
    before, colon, behind = entry.rpartition(":")
    if colon and behind.isdecimal():
        if int(behind) != port:
            return False
        entry = before.strip("[]")
    entry = entry.removeprefix("*").removeprefix(".")
    return host == entry or host.endswith(f".{entry}")
