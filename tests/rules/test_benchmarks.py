"""Every benchmark runs from a fresh clone, a little of it; the figures are for `make bench`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.__main__ import BENCHMARKS

NEEDS_CHROMIUM = {"browser"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_little_of_each_runs_to_its_end(name: str) -> None:
    if name in NEEDS_CHROMIUM and shutil.which("chromium") is None:
        pytest.skip("no Chromium on this machine")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name],
        env={**os.environ, "BENCHMARKS_SHORT": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) > 3, done.stdout
