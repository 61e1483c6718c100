"""Rehearsals that are watched, in a process of their own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.servers import ROOT, Address, first_line, plain_environment

_PATIENCE = 30.0
_PROGRAM = """
import sys
from pathlib import Path
from server.config.show import load_show
from server.cli.rehearse import rehearse_live
from server.diagnostics.report import RehearsalOptions
from server.rehearsal.rehearsal import seed_of
show, (speed, asked) = load_show(Path(sys.argv[1]), {"server": {"port": 0}}, {}), eval(sys.argv[2])
rehearse_live(show, RehearsalOptions(seed=seed_of(show, None), **asked), speed=speed)
"""


@dataclass
class RehearsalProcess:
    """A rehearsal in a process of its own."""

    process: subprocess.Popen[str]
    address: Address

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self.process.wait(_PATIENCE)

    def interrupt(self) -> int:
        """As Ctrl-C would; its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()


@contextmanager
def rehearsal_process(folder: Path, *, speed: float, **asked: Any) -> Iterator[RehearsalProcess]:
    """`rehearse_live` the show in `folder`, ended at the end."""
    with (folder.parent / "rehearsal.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(folder), repr((speed, asked))],
            cwd=ROOT,
            env=plain_environment(PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        first = first_line(process)
        found = re.search(r"Rehearsal of .*http://\S+?:(\d+)/", first)
        assert found is not None, f"it said {first!r}"
        yield RehearsalProcess(process, Address(int(found[1])))
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
