"""Whether a machine could tell a replay from a live run by what the wall shows.

A tiny diffusion pipeline draws sets through `understudy generate batch`, and live through
`understudy serve` as its local engine. Then runs are asked for in random order, half of them
replayed and half live, each as somebody at the keys would: its text is typed, and it begins.
All of it in rounds, each with another set of every picture.
Of each, one screen notes when each picture is to be seen, and the pictures. Two classifiers
are asked which is which, of sets and runs that they have not learnt from. 50 % is chance.

Beside it, from the same runs, the older way of dating them: live pictures by their arrival,
with `lead` and what came before the first step in live runs alone. And the same figures with
the labels shuffled, which shows what chance alone gives.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from websockets.asyncio.client import ClientConnection

from benchmarks.lengths import length
from benchmarks.machinery import Running, Seen, say, screen, serving
from server.core.child_process import NICENESS
from tests.helpers.screens import decode_frame

PICTURES: Final = length(10, 2)
SETS: Final = length(3, 1)
TIMES_EACH: Final = 2
"""How often each picture is replayed in a round; as many runs as that are live."""

ENGINE: Final = length("diffusers", "sketch")
"""What draws; in short, what needs no torch."""

STEPS: Final = length(20, 3)
SIZE: Final = length(256, 64)
LEAD: Final = 0.5
"""Seconds: the server's own default."""

ONE_CORE: Final = {"OMP_NUM_THREADS": "1"}
"""The pipeline draws on one core, so that it is disturbed by whoever serves no more than a GPU."""

_FOLDS: Final = 5
_RESAMPLED: Final = 2000
_GOAL: Final = 0.6
_RUN_WITHIN: Final = 60.0

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class ShownRun:
    """One run as the wall showed it.

    Attributes:
        live: whether it was drawn while it was shown.
        group: the set that was replayed, or the run itself.
        shown: seconds from the last letter typed to each picture, the final one last.
        before: the same in the older way of dating.
        images: the encoded pictures.
    """

    live: bool
    group: str
    shown: tuple[float, ...]
    before: tuple[float, ...]
    images: tuple[bytes, ...]


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        show = _write_show(Path(name))
        runs: list[ShownRun] = []
        for number in range(1, SETS + 1):
            # In rounds, so that what else the machine does is in sets and live runs alike.
            batch = ("generate", "batch", "--show", str(show), "--sets", str(number))
            _python("-m", "server", *batch)
            say(f"round {number}, load of the machine: {_load()}")
            with serving(show, ONE_CORE) as running:
                runs += asyncio.run(_runs(running, show, random.Random(number)))
    report(runs)


def _load() -> str:
    return " ".join(f"{each:.1f}" for each in os.getloadavg()) + f" on {os.cpu_count()} cores"


def _python(*arguments: str) -> None:
    """Run Python as a live engine's process runs: on one core, and giving way to others."""
    done = subprocess.run(
        ["nice", "-n", str(NICENESS), sys.executable, *arguments],
        env={**os.environ, **ONE_CORE},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stdout[-800:]}{done.stderr[-800:]}")


def _write_show(folder: Path) -> Path:
    """A show of a few pictures, far apart, drawn by a pipeline of a million parameters."""
    model, show = folder / "model", folder / "show"
    if ENGINE == "diffusers":  # in a process of its own: torch would take this one's cores
        saved = (
            "from tests.generator.engines.tiny_pipelines import save_sd; from pathlib import Path"
        )
        _python("-c", f"{saved}; save_sd(Path({str(model)!r}))")
    show.mkdir()
    cues: list[dict[str, Any]] = [
        {
            "time": f"00:{number:02d}:00",
            "action": "prompt",
            "program": "P4",
            "prompt": f"no {number}",
            "delay": {"base": 30, "variance": 10},
        }
        for number in range(PICTURES)
    ]
    cues.append({"time": f"00:{PICTURES:02d}:00", "action": "end"})
    (show / "cues.json").write_text(json.dumps(cues))
    (show / "show.toml").write_text(
        f"""
[schedule]
kind = "manual"
[playback]
min_go = 0
lead = {LEAD}
[generate]
sets_per_action = {SETS}
[programs.P4]
model = {json.dumps(str(model))}
steps = {STEPS}
width = {SIZE}
height = {SIZE}
[[engines]]
name = "studio"
kind = "{ENGINE}"
live = true
{'device = "cpu"' if ENGINE == "diffusers" else "pace = 0.05"}
"""
    )
    return show


# ---------------------------------------------------------------- what the wall shows


async def _runs(running: Running, show: Path, dice: random.Random) -> list[ShownRun]:
    """The runs of a round, in random order, after a few that warm everything up."""
    modes = ("static", "live") * TIMES_EACH
    asked = [(number, mode) for number in range(PICTURES) for mode in modes]
    dice.shuffle(asked)
    url = f"http://{running.address}"
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client,
        screen(running, "wall") as (socket, seen),
    ):
        await _until_the_engine_is_ready(client)
        for number in (0, PICTURES - 1)[: length(2, 0)]:
            await _one(client, socket, seen, number, "live")
        runs = []
        for number, mode in asked:
            found = await _one(client, socket, seen, number, mode)
            if found is not None:
                runs.append(_as_shown(found, show))
    return runs


async def _until_the_engine_is_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(120):
        while True:
            (engine,) = (await client.get("/api/state")).json()["engines"]
            if engine["process"] is None or engine["process"]["state"] == "ready":
                break
            await asyncio.sleep(0.2)
    # It may have been tried out while it was starting, and be resting for that.
    (await client.post("/api/control/engine.reset", json={"engine": "studio"})).raise_for_status()


@dataclass
class _Taken:
    """What came of one run."""

    row: Mapping[str, Any]
    typed_at: float
    frames: list[tuple[dict[str, Any], bytes, float]]


async def _one(
    client: httpx.AsyncClient, socket: ClientConnection, seen: Seen, number: int, mode: str
) -> _Taken | None:
    """Ask for one run and take it; None where it was not played as asked for."""
    force = {"mode": mode, "until": "released", "reason": "the illusion"}
    (await client.post("/api/control/mode.force", json=force)).raise_for_status()
    (await client.post("/api/control/go", json={"cue": number})).raise_for_status()
    run, typed_at = "", 0.0
    frames: list[tuple[dict[str, Any], bytes, float]] = []
    async with asyncio.timeout(_RUN_WITHIN):
        while True:
            message = await socket.recv()
            arrived = seen.now()
            if isinstance(message, bytes):
                header, image = decode_frame(message)
                if header["run"] == run:
                    frames.append((header, image, arrived))
                continue
            told = json.loads(message)
            match told["type"]:
                case "typing":
                    typed_at = told["at"] + told["seconds"]
                case "run":
                    run = told["run"]
                case "run_end" if told["run"] == run and run:
                    break
                case _:
                    pass
    rows = (await client.get("/api/asrun", params={"format": "json", "limit": 5})).json()
    rows = rows if isinstance(rows, list) else rows["runs"]
    row = next(row for row in rows if row["run"] == run)
    expected = (mode, "completed", True)
    if (row["provider"], row["outcome"], frames[-1][0]["final"]) != expected:
        say(f"left out: {mode} of {number} was {row['provider']}, {row['outcome']}")
        return None
    await asyncio.sleep(0.1)
    return _Taken(row, typed_at, frames)


def _as_shown(taken: _Taken, show: Path) -> ShownRun:
    """A run by what is seen of it, now and in the older way."""
    row, zero = taken.row, taken.typed_at
    shown = tuple(header["present_at"] - zero for header, _, _ in taken.frames)
    live = row["provider"] == "live"
    if live:
        group = row["run"]
        before = tuple(arrived + LEAD - zero for _, _, arrived in taken.frames)
    else:
        group = f"{row['action_id']}/{row['set_id']}"
        meta = show / "actions" / row["action_id"] / "sets" / str(row["set_id"]) / "meta.json"
        ahead = LEAD + (json.loads(meta.read_text()).get("latency") or 0.0)
        before = tuple(at - ahead for at in shown)
    return ShownRun(live, group, shown, before, tuple(image for _, image, _ in taken.frames))


# ---------------------------------------------------------------- what can be made of it


def report(runs: Sequence[ShownRun]) -> None:
    """Print what tells the two apart, if anything does."""
    labels = np.array([run.live for run in runs])
    if labels.all() or not labels.any():
        raise RuntimeError("all runs were played in one way: does the engine draw?")
    say(f"{len(runs)} runs, {labels.sum()} of them live; {STEPS} steps at {SIZE} x {SIZE}\n")
    for what, value in (
        ("from the last letter to the first picture", lambda shown: shown[0]),
        ("from picture to picture, mean", lambda shown: float(np.mean(np.diff(shown)[:-1]))),
        ("before the final image", lambda shown: shown[-1] - shown[-2]),
        ("of one interval with the next, correlation", _autocorrelation),
    ):
        unit, scale = ("", 1.0) if "correlation" in what else (" ms", 1e3)
        cells = []
        for live in (False, True):
            values = [scale * value(run.shown) for run in runs if run.live is live]
            digits = 2 if not unit else 0
            cells.append(f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}{unit}")
        say(f"{what:44} replayed {cells[0]:>18}   live {cells[1]:>18}")
    try:
        import sklearn  # noqa: F401, PLC0415 - only for figures
    except ImportError:
        say("\nno classifiers: pip install 'understudy[dev]' brings scikit-learn")
        return
    groups = np.array([run.group for run in runs])
    timing = np.array([_timing(run.shown) for run in runs])
    images = np.array([_looks(run.images) for run in runs])
    before = np.array([_timing(run.before) for run in runs])
    shuffled = np.random.default_rng(1).permutation(labels)
    heads = ("logistic regression", "random forest")
    say(f"\n{'right of a hundred (95 %)':44} {heads[0]:>22}{heads[1]:>22}")
    for what, features, truth in (
        ("all that the wall shows", np.hstack([timing, images]), labels),
        ("  the time to the first picture", timing[:, :1], labels),
        ("  the rhythm", timing[:, 1:], labels),
        ("  the pictures", images, labels),
        ("dated in the older way, all", np.hstack([before, images]), labels),
        ("  the time to the first picture", before[:, :1], labels),
        ("  the rhythm", before[:, 1:], labels),
        ("labels shuffled", np.hstack([timing, images]), shuffled),
    ):
        found = [_accuracy(classifier, features, truth, groups) for classifier in heads]
        worst = max(right for right, _, _ in found)
        told = "".join(
            f"{100 * right:.0f} ({100 * low:.0f} to {100 * high:.0f})".rjust(22)
            for right, low, high in found
        )
        goal = ""
        if what.startswith("all"):
            goal = f"   goal: at most {100 * _GOAL:.0f}: {'met' if worst <= _GOAL else 'MISSED'}"
        say(f"{what:44} {told}{goal}")


def _timing(shown: Sequence[float]) -> Numbers:
    """What a stopwatch at the wall makes of a run; the time to its first picture first."""
    gaps = np.diff(shown)
    steps = gaps[:-1]
    return np.array(
        [
            shown[0],
            shown[-1] - shown[0],
            float(len(shown)),
            gaps[-1],
            steps.mean(),
            steps.std(),
            *np.quantile(steps, [0.0, 0.25, 0.5, 0.75, 1.0]),
            steps[0],
            steps[-1],
            _autocorrelation(shown),
            np.abs(np.diff(steps)).mean() if len(steps) > 1 else 0.0,
        ]
    )


def _autocorrelation(shown: Sequence[float]) -> float:
    """Of the intervals between previews, each with the next."""
    steps = np.diff(shown)[:-1]
    if len(steps) < 3 or steps.std() == 0:
        return 0.0
    return float(np.corrcoef(steps[:-1], steps[1:])[0, 1])


def _looks(images: Sequence[bytes]) -> Numbers:
    """What the pictures of a run are like: how large, how bright, how varied."""
    looks: list[float] = []
    for image in (images[0], images[len(images) // 2], images[-2], images[-1]):
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert("L"), dtype=np.float64)
        looks += [len(image), pixels.mean(), pixels.std()]
    sizes = [len(image) for image in images[:-1]]
    return np.array([*looks, np.mean(sizes), np.std(sizes)])


def _accuracy(
    name: str, features: Numbers, labels: NDArray[Any], groups: NDArray[Any]
) -> tuple[float, float, float]:
    """How often a classifier is right, of runs whose set it has not seen; and 95 % of that.

    The interval is of a bootstrap over sets: what is replayed twice counts as one.
    """
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415 - only for figures
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - as above
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415 - as above
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - as above
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415 - as above

    if name == "random forest":
        classifier = RandomForestClassifier(n_estimators=length(300, 10), random_state=0)
    else:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    folds = StratifiedGroupKFold(length(_FOLDS, 2), shuffle=True, random_state=0)
    found = np.zeros_like(labels)
    for learnt, asked in folds.split(features, labels, groups):
        first = labels[learnt][0]
        if np.all(labels[learnt] == first):  # of very few runs
            found[asked] = first
            continue
        found[asked] = classifier.fit(features[learnt], labels[learnt]).predict(features[asked])
    right = (found == labels).astype(float)
    names = np.unique(groups)
    members = [np.flatnonzero(groups == each) for each in names]
    rng = np.random.default_rng(0)
    drawn = [
        right[np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])].mean()
        for _ in range(_RESAMPLED)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(right.mean()), float(low), float(high)


if __name__ == "__main__":
    begun = time.monotonic()
    main()
    say(f"in {time.monotonic() - begun:.0f} s")
