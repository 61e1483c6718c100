"""Drawing the sets, from the cue sheet to the bucket, by the program as it is called."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cache.model.keys import meta_key
from tests.helpers.buckets import SMALL, Servers, in_a_bucket, s3_servers, sheet, whole
from tests.helpers.programs import Program, start
from tests.helpers.servers import ROOT, plain_environment
from tests.helpers.shows import MANUAL, cue, line, prompt, write_show

_PATIENCE = 60.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with s3_servers(tmp_path_factory) as both:
        yield both


# ---------------------------------------------------------------- interrupted, again and again


_PUT = re.compile(r'"PUT /(?P<bucket>[^/]+)/show/actions/(?P<set>\S+?/sets/\d+)/(?P<name>\S+) HTTP')


@dataclass
class Given:
    """What moto was given for the sets in a bucket, in order: set and file."""

    log: Path
    bucket: str
    files: list[tuple[str, str]] = field(default_factory=list)
    _read: int = 0

    def look(self) -> list[tuple[str, str]]:
        """Read what was logged since, up to the last whole line."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            text, newline, _ = file.read().rpartition(b"\n")
        self._read += len(text) + len(newline)
        for found in _PUT.finditer(text.decode(errors="replace")):
            if found["bucket"] == self.bucket:
                self.files.append((found["set"], found["name"]))
        return self.files

    def wait_for(self, count: int, program: Program) -> None:
        """Wait until so many were given, or nobody gives any more."""
        until = time.monotonic() + _PATIENCE
        while program.running and len(self.look()) < count:
            assert time.monotonic() < until, program.said()
            time.sleep(0.001)


async def test_killed_at_any_moment_it_goes_on_and_draws_nothing_twice(
    servers: Servers, tmp_path: Path
) -> None:
    kills, actions, wanted = 10, 8, 3
    rng = random.Random(1_903)
    place = in_a_bucket(tmp_path / "show", servers.moto, sheet(actions), SMALL)
    given = Given(servers.log, place.bucket)
    arguments = ["batch", "--sets", wanted, "--parallel", 1]
    for _ in range(kills):
        target = len(given.look()) + rng.randint(1, 14)
        program = place.start(*arguments)
        given.wait_for(target, program)
        assert program.kill() == -signal.SIGKILL, program.said()
    said = place.run(*arguments)
    assert "0 failed" in said
    assert not said.startswith(("0 ", "24 ")), "there was something to resume"

    manifest = await whole(place)
    assert [entry.set_ids for entry in manifest.actions.values()] == [(0, 1, 2)] * actions
    begun, finished = Counter[str](), set[str]()
    for each, name in given.look():
        if name == "1.jpg":
            assert each not in finished, "what was whole was drawn again"
            begun[each] += 1
        elif name == "meta.json":
            finished.add(each)
    assert len(begun) == actions * wanted
    assert sum(begun.values()) - len(begun) <= kills, "one is in flight when it is killed"
    assert "0 sets drawn, 24 were there already" in place.run(*arguments)


@pytest.mark.parametrize("name", ["moto", "rclone"])
async def test_two_batches_on_one_bucket_lose_nothing_of_each_other(
    servers: Servers, tmp_path: Path, name: str
) -> None:
    place = in_a_bucket(tmp_path / "show", servers.named(name), sheet(5), SMALL)
    shares = [("line_1", "line_2", "line_3"), ("line_3", "line_4", "line_5")]
    programs = []
    for number, share in enumerate(shares):
        only = [word for action_id in share for word in ("--only", action_id)]
        arguments = ["batch", "--sets", 3, "--parallel", 1, *only]
        programs.append(place.start(*arguments, output=f"output-{number}"))
    for program in programs:
        assert program.wait() == 0, program.said()
    manifest = await whole(place)
    assert {action_id: entry.set_ids for action_id, entry in manifest.actions.items()} == {
        f"line_{number}": (0, 1, 2) for number in range(1, 6)
    }
    before = manifest.generated_at
    assert "15 sets" in place.run("reindex")
    assert (await whole(place)).generated_at == before, "there was nothing to put right"


# ---------------------------------------------------------------- what is stale, and only that


def test_a_changed_prompt_is_the_only_thing_to_draw(tmp_path: Path) -> None:
    cues = [
        cue(0, "start"),
        line(0, "boats on the sea"),
        prompt(10, "a portrait"),
        prompt(20, "a garden", program="P2", guidance=40),
        cue(30, "move-slider", program="P2", value=75),
        cue(60, "end"),
    ]
    toml = MANUAL + SMALL + "[programs.P2]\nsteps = 4\nwidth = 64\nheight = 64\n"
    folder = write_show(tmp_path / "show", cues, toml)

    def told(*arguments: object) -> str:
        program = start(["generate", *arguments, "--show", folder], tmp_path / "output")
        assert program.wait() == 0, program.said()
        said = program.said()
        program.output.unlink()
        return said

    def plan(*arguments: object) -> dict[str, Any]:
        answer = json.loads(told("plan", "--json", "--sets", 2, *arguments))
        assert answer["totals"]["sets_missing"] == sum(
            len(row["missing_sets"]) for row in answer["actions"]
        )
        return {row["action_id"]: row for row in answer["actions"]}

    told("batch", "--sets", 2, "--parallel", 1)
    before = plan()
    assert [row["missing_sets"] for row in before.values()] == [[]] * 4
    kept = {path: path.read_bytes() for path in (folder / "actions").rglob("*.jpg")}

    cues[2] = prompt(10, "a self-portrait")
    cues.insert(1, line(0, "a storm"))
    cues[4]["guidance"] = 60
    write_show(folder, cues, toml)
    after = plan()
    (new,) = set(after) - set(before)
    assert after[new]["prompt"] == "a storm"
    changed = {name: row["why"] for name, row in after.items() if row["stale"]}
    assert changed == {
        "prompt_001": ['prompt "a portrait, photorealistic" → "a self-portrait, photorealistic"'],
        "prompt_002": ["strength 0.4 → 0.6"],
    }
    assert {name for name, row in after.items() if row["missing_sets"]} == {
        new,
        *changed,
    }
    people = told("plan", "--sets", 2)
    assert "prompt_002: strength 0.4 → 0.6" in people
    assert "5 actions, 4 sets there, 6 to draw" in people
    assert "how long 6 sets will take is not known" in people
    assert "judged by what was drawn before" in people, "how large they are is"

    told("batch", "--sets", 2, "--parallel", 1)
    for path, data in kept.items():
        if not {"prompt_001", "prompt_002"} & set(path.parts):
            assert path.read_bytes() == data
    assert {name for name, row in plan().items() if row["stale"]} == set()
    assert list(plan("--only", "slider_001")) == ["slider_001"]


# ---------------------------------------------------------------- real diffusion


_LACKING = [
    name
    for name in ("accelerate", "diffusers", "peft", "torch", "transformers")
    if importlib.util.find_spec(name) is None
]
_DIFFUSION = """
[programs.P0]
model = "{model}"
steps = 4
width = 64
height = 64
[programs.P4]
model = "{model}"
steps = 10
width = 64
height = 64
scheduler = "PNDMScheduler"
[programs.P3B]
model = "{model}"
steps = 5
width = 64
height = 64
scheduler = "HeunDiscreteScheduler"
[programs.P2]
model = "{model}"
steps = 10
width = 64
height = 64
[[engines]]
name = "studio"
kind = "diffusers"
device = "cpu"
previews = "latent-rgb"
batch_size = 2
"""


@pytest.mark.skipif(
    bool(_LACKING) and "CI" not in os.environ,
    reason=f"the diffusers extra is not installed (lacking {', '.join(_LACKING)})",
)
async def test_a_whole_batch_of_real_diffusion(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    from tests.generator.engines import tiny_pipelines  # noqa: PLC0415 - an extra

    model = tiny_pipelines.save_sd(tmp_path / "sd")
    cues = [
        cue(0, "start"),
        line(0, "boats on the sea", id="euler"),
        prompt(10, "a portrait", id="pndm"),
        prompt(20, "a face", program="P3B", id="heun"),
        prompt(30, "a garden", program="P2", guidance=40, id="two-fifths"),
        cue(40, "move-slider", program="P2", value=0, id="nothing"),
        cue(60, "end"),
    ]
    toml = _DIFFUSION.format(model=model)
    place = in_a_bucket(tmp_path / "show", servers.moto, cues, toml)
    command = [sys.executable, "-m", "server", "generate", "batch"]
    done = await asyncio.to_thread(
        subprocess.run,
        [*command, "--show", str(place.folder), "--sets", "3", "--json"],
        cwd=ROOT,
        env=plain_environment(**place.environment),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"drawn": 15, "kept": 0, "failed": []}

    manifest = await whole(place)
    previews = {"euler": 4, "pndm": 19, "heun": 9, "two-fifths": 4, "nothing": 1}
    async with place.store() as store:
        for action_id, count in previews.items():
            assert manifest.set_ids(action_id) == (0, 1, 2)
            metas = [json.loads(await store.get(meta_key(action_id, n))) for n in range(3)]
            for meta in metas:
                stems = [str(step) for step in range(1, count + 1)]
                stems += ["final"] if action_id != "nothing" else []
                assert meta["total_steps"] == count
                assert list(meta["durations"]) == stems
                assert list(meta["files"]) == [f"{stem}.jpg" for stem in stems]
                assert meta["engine"].startswith("diffusers ")
                total = sum(meta["durations"].values())
                assert meta["total_duration"] == pytest.approx(total, abs=1e-4)
            # The first alone, the others together, timed by what the first took.
            expected = ["measured", "profiled", "profiled"]
            assert [meta["timing"] for meta in metas] == expected, action_id
            assert len({meta["seed"] for meta in metas}) == 3
    said = json.loads(place.run("plan", "--json", "--sets", 5))
    assert said["totals"]["sets_untimed"] == 0
    assert said["totals"]["seconds"] > 0
    assert said["totals"]["bytes"] > 0
