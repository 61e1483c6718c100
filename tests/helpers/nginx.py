"""A real nginx with the configuration that the documentation shows, unprivileged, on loopback."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.helpers.servers import ROOT

DOCUMENTED = ROOT / "docs" / "proxies.md"
_PATIENCE = 15.0

_AROUND = """\
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 128; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{inside}
}}
"""

BY_DEFAULT = """\
server {
    listen 80;
    location / {
        proxy_pass http://127.0.0.1:8000;
    }
}
"""
"""What somebody writes who knows nothing of forwarding headers."""


def find_nginx() -> str:
    """The program. In CI a missing one is a failure, elsewhere a reason to skip."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        reason = "no nginx here: install it to see the show through a reverse proxy"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def documented() -> str:
    """The configuration in the documentation, to the letter."""
    found = re.search(r"```nginx\n(.*?)```", DOCUMENTED.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@contextmanager
def nginx(folder: Path, configuration: str, to_port: int, *, port: int) -> Iterator[Path]:
    """Run nginx at `port` in front of `to_port`; the folder of its logs.

    Args:
        folder: its own.
        configuration: what stands in its `http` block; ports 80 and 8000 are put right.
        to_port: the server's.
        port: its own.
    """
    folder.mkdir()
    inside = configuration.replace("listen 80;", f"listen 127.0.0.1:{port};")
    inside = inside.replace("127.0.0.1:8000", f"127.0.0.1:{to_port}")
    assert str(port) in inside
    assert str(to_port) in inside
    user = "user root;" if os.geteuid() == 0 else ""
    file = folder / "nginx.conf"
    file.write_text(_AROUND.format(user=user, folder=folder, inside=inside))
    process = subprocess.Popen(
        [find_nginx(), "-p", str(folder), "-c", str(file), "-e", str(folder / "start.log")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process, folder)
        yield folder
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        said = (folder / "start.log").read_text() if (folder / "start.log").exists() else ""
        assert process.poll() is None, said
        assert time.monotonic() < until, said
        time.sleep(0.02)


def free_port() -> int:
    """A port of loopback that is free at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
