"""A real Postgres of our own: Debian's, in a folder that is thrown away, on a socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa

_SERVERS: Final = Path("/usr/lib/postgresql")
_ACCOUNT: Final = "postgres"
_SETTINGS: Final = "listen_addresses=''", "fsync=on", "max_connections=40", "shared_buffers=16MB"


@dataclass(frozen=True)
class PostgresServer:
    """A server that runs, or is stopped for a while.

    Attributes:
        folder: where its data and its socket are.
        programs: the folder of its programs.
        account: the id of the user and of the group that it runs as, None for ours.
    """

    folder: Path
    programs: Path
    account: tuple[int, int] | None
    url: sa.URL = field(init=False)

    def __post_init__(self) -> None:
        address = sa.URL.create(
            "postgresql+psycopg", "studio", database="postgres", query={"host": str(self.folder)}
        )
        object.__setattr__(self, "url", address)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = " ".join(f"-c {option}" for option in _SETTINGS) + f" -k {self.folder}"
        self.call("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """End it as a power cut would, or nearly so: what was begun is lost, connections break."""
        self.call("pg_ctl", "-w", "-m", "immediate", "stop")

    def call(self, program: str, *words: str) -> None:
        """Run one of its programs on its data.

        Raises:
            RuntimeError: it failed, for the reason that it gave.
        """
        user, group = self.account if self.account is not None else (None, None)
        done = subprocess.run(
            [self.programs / program, "-D", self.folder / "data", *words],
            check=False,
            # A file, not a pipe: the server that pg_ctl leaves behind would hold it open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            cwd="/",
            user=user,
            group=group,
            extra_groups=None if self.account is None else [],
        )
        if done.returncode:
            log = self.folder / "log"
            said = log.read_text("utf-8") if log.exists() else (done.stderr or b"").decode()
            raise RuntimeError(f"{program} failed: {said[-2000:]}")


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
def postgres() -> Iterator[PostgresServer]:
    """A server with an empty database, until the context is left."""
    programs = find_postgres()
    # pytest's own folders are closed to the account that it runs as, and their paths too long
    # for a socket's.
    folder = Path(tempfile.mkdtemp(prefix="understudy-pg-"))
    try:
        account = None
        if os.geteuid() == 0:  # it refuses to run as root
            entry = pwd.getpwnam(_ACCOUNT)
            account = entry.pw_uid, entry.pw_gid
            os.chown(folder, *account)
        server = PostgresServer(folder, programs, account)
        # Made quickly: a folder that a power cut spoils is made anew. The server itself flushes.
        quickly = "--no-sync", "--wal-segsize=1", "--no-instructions"
        server.call("initdb", "-U", "studio", "--auth=trust", "-E", "UTF8", "--locale=C", *quickly)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
