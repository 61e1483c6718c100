"""A real Postgres of our own: Debian's, in a folder that is thrown away, on a socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa

_SERVERS: Final = Path("/usr/lib/postgresql")
_ACCOUNT: Final = "postgres"
_LOOSE: Final = "listen_addresses=''", "fsync=on", "max_connections=40", "shared_buffers=16MB"


def find_postgres() -> Path:
    """The folder of its programs. In CI a missing one is a failure, elsewhere a reason to skip."""
    found = sorted(_SERVERS.glob("*/bin/initdb")) if _SERVERS.is_dir() else []
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path is not None:
        return Path(on_path).parent
    reason = "no PostgreSQL here: install it to see a queue that two Studios share"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def postgres(folder: Path) -> Iterator[sa.URL]:
    """A server until the context is left, and the address of an empty database in it."""
    programs = find_postgres()
    data, socket = folder / "data", folder / "socket"
    socket.mkdir(parents=True)
    as_account: dict[str, object] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        account = pwd.getpwnam(_ACCOUNT)
        as_account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        for path in (folder, socket):
            os.chown(path, account.pw_uid, account.pw_gid)
    run = {"check": True, "capture_output": True, "cwd": "/", **as_account}
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "studio", "--auth=trust", "-E", "UTF8"], **run
    )
    options = " ".join(f"-c {option}" for option in _LOOSE) + f" -k {socket}"
    control = [programs / "pg_ctl", "-D", data, "-w", "-l", socket / "log", "-o", options]
    subprocess.run([*control, "start"], **run)
    try:
        yield sa.URL.create(
            "postgresql+psycopg", "studio", database="postgres", query={"host": str(socket)}
        )
    finally:
        subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **run)
