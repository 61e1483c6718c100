"""The program in processes of its own, begun at once: each is forked from one that has loaded it.

They are real processes that run the real command line, and can be killed; only what an
interpreter takes to start and import is saved.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.helpers.servers import plain_environment

_PATIENCE = 60.0
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["server.cli.main", "cache.stores.s3.store"])


@dataclass
class Program:
    """`understudy` with some arguments, running or ended.

    Attributes:
        process: it.
        output: the file that has both its outputs.
    """

    process: ForkServerProcess
    output: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive()

    def said(self) -> str:
        """What it has written so far."""
        return self.output.read_text(errors="replace")

    def wait(self) -> int:
        """Its exit status, or minus the signal that ended it."""
        self.process.join(_PATIENCE)
        if self.process.exitcode is None:
            self.kill()
            raise AssertionError(f"it did not end: {self.said()[-2000:]}")
        return self.process.exitcode

    def kill(self) -> int:
        """As a power cut would; what `wait` then says."""
        self.process.kill()
        return self.wait()


def start(
    arguments: Sequence[object], output: Path, environment: Mapping[str, str] | None = None
) -> Program:
    """Run `understudy` in a process of its own, with both its outputs in a file."""
    words = [str(argument) for argument in arguments]
    process = _FORKING.Process(
        target=_run, args=(words, str(output), plain_environment(**(environment or {})))
    )
    output.touch()
    process.start()
    return Program(process, output)


def _run(words: list[str], output: str, environment: dict[str, str]) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.clear()
    os.environ.update(environment)

    from server.cli.main import main  # noqa: PLC0415 - in that process alone

    main(words)
    sys.exit(0)
