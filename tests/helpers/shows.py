"""Tiny shows in a temporary folder: a cue sheet, a show.toml, and sets made in no time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cache.model.formats import FileFacts, SetMeta, dump_meta
from cache.model.keys import image_key, meta_key
from cache.model.manifest import Manifest, ManifestAction, dump_manifest
from generator.sheet.cues import format_time
from generator.sheet.plan import Action
from server.config.show import Show, load_show
from tests.helpers.pictures import picture

WHEN = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)

Cue = dict[str, Any]


def cue(at: float, action: str, **fields: Any) -> Cue:
    """One cue at `at` seconds."""
    return {"time": format_time(at), "action": action, **fields}


def line(at: float, text: str, *, generate: bool = True, **fields: Any) -> Cue:
    """A line of transcript."""
    return cue(at, "transcript", transcript=text, generate=generate, **fields)


def prompt(at: float, text: str, **fields: Any) -> Cue:
    """A prompt that is drawn."""
    return cue(at, "prompt", prompt=text, **{"program": "P4", **fields})


@dataclass(frozen=True)
class Rhythm:
    """How the sets of an action are made.

    Attributes:
        previews: how many previews come before the final image.
        step: seconds from one image to the next.
        first: seconds to the first image; None for as many as to the others.
        size: bytes of each image; 0 for as small as they come.
        sets: how many sets; 0 for none.
        durations: whether the meta tells them at all.
        latency: seconds from asking to the start of the first step.
    """

    previews: int = 4
    step: float = 0.2
    first: float | None = None
    size: int = 0
    sets: int = 2
    durations: bool = True
    latency: float = 0.0

    @property
    def frames(self) -> int:
        """How many images a run has."""
        return self.previews + 1

    @property
    def seconds(self) -> float:
        """How long a run takes."""
        return sum(self.recorded.values())

    @property
    def recorded(self) -> dict[str, float]:
        """Seconds of each image, as a meta has them."""
        stems = [*(str(step) for step in range(1, self.previews + 1)), "final"]
        seconds = dict.fromkeys(stems, self.step)
        return seconds if self.first is None else {**seconds, stems[0]: self.first}

    def due(self, step: int) -> float:
        """Seconds from the start of a run to its step `step`, from 1."""
        return sum(list(self.recorded.values())[:step])


@dataclass(frozen=True)
class TinyShow:
    """A show on disk, and what is in it."""

    folder: Path
    rhythm: Rhythm
    rhythms: Mapping[str, Rhythm]

    @property
    def state(self) -> Path:
        """Where the server keeps what it must remember."""
        return self.folder / ".understudy"

    def load(self, **sections: Mapping[str, Any]) -> Show:
        """The show, whatever the environment says; sections lay over its show.toml."""
        return load_show(self.folder, sections, {})

    def actions(self) -> tuple[Action, ...]:
        """What it draws."""
        return self.load().plan({}).actions

    def rhythm_of(self, action_id: str) -> Rhythm:
        """How the sets of an action were made."""
        return self.rhythms.get(action_id, self.rhythm)

    def set_folder(self, action_id: str, set_id: int) -> Path:
        """Where a set lies."""
        return self.folder / "actions" / action_id / "sets" / str(set_id)

    def image(self, action_id: str, set_id: int, step: int) -> bytes:
        """What was put into a set as step `step`, from 1; the last is the final image."""
        rhythm = self.rhythm_of(action_id)
        return picture(_label(action_id, set_id, step), rhythm.size)

    def final(self, action_id: str, set_id: int) -> bytes:
        """The final image of a set."""
        return self.image(action_id, set_id, self.rhythm_of(action_id).frames)

    def started(self, ago: float) -> None:
        """Let a server that plays this loop find that its round began `ago` seconds ago."""
        self.state.mkdir(parents=True, exist_ok=True)
        now = time.time()
        content = {"loop_anchor": now - ago, "alive_at": now}
        (self.state / "state.json").write_text(json.dumps(content))


def _label(action_id: str, set_id: int, step: int) -> str:
    return f"{action_id}/{set_id}/{step}"


def set_files(action: Action, set_id: int, rhythm: Rhythm) -> dict[str, bytes]:
    """Every file of one set, by key, its meta among them."""
    images = {
        f"{stem}.jpg": picture(_label(action.action_id, set_id, step), rhythm.size)
        for step, stem in enumerate(rhythm.recorded, start=1)
    }
    meta = SetMeta(
        cue_id=action.action_id,
        set_id=set_id,
        total_steps=rhythm.previews,
        durations={**rhythm.recorded},
        total_duration=rhythm.seconds,
        generated_at=WHEN,
        config={"program": action.program, "prompt": action.recipe.prompt},
        seed=set_id,
        fingerprint=action.fingerprint,
        engine="tests 1",
        timing="simulated",
        latency=rhythm.latency,
        files={name: FileFacts.of(data) for name, data in images.items()},
    )
    data = dump_meta(meta)
    if not rhythm.durations:
        bare = {"cue_id": action.action_id, "set_id": set_id, "total_steps": rhythm.previews}
        bare["latency"] = rhythm.latency
        data = json.dumps(bare).encode()
    files: dict[str, bytes] = {
        image_key(action.action_id, set_id, name): image for name, image in images.items()
    }
    files[meta_key(action.action_id, set_id)] = data
    return files


def _entry(action: Action) -> ManifestAction:
    return ManifestAction(
        type=action.type,
        program=action.program,
        prompt=action.prompt,
        steps=action.recipe.steps,
        time=format_time(action.at),
        override_prompt=action.override,
        fingerprint=action.fingerprint,
    )


def store_contents(
    actions: Sequence[Action], rhythm: Rhythm, rhythms: Mapping[str, Rhythm] | None = None
) -> dict[str, bytes]:
    """A whole store for `actions`, by key."""
    contents: dict[str, bytes] = {}
    manifest = Manifest(generated_at=WHEN)
    for action in actions:
        made = (rhythms or {}).get(action.action_id, rhythm)
        for set_id in range(made.sets):
            contents |= set_files(action, set_id, made)
            manifest = manifest.with_set(action.action_id, _entry(action), set_id)
    contents["manifest.json"] = dump_manifest(manifest)
    return contents


def _with_playback(toml: str, **defaults: str) -> str:
    """A show.toml in which `[playback]` says all of `defaults`, unless it says otherwise.

    Where there is no such section it comes first, so that a test may add to the last.
    """
    before, heading, after = toml.partition("[playback]\n")
    said = after.partition("[")[0]
    keys = "".join(f"{name} = {value}\n" for name, value in defaults.items() if name not in said)
    return f"{before}{heading}{keys}{after}" if heading else f"[playback]\n{keys}{toml}"


def write_show(
    folder: Path, cues: Sequence[Mapping[str, Any]] | str, toml: str = "", *, title: str = "Tiny"
) -> Path:
    """A show without sets: its sheet and its show.toml.

    Its pictures begin with their cues, without a lead, where it does not say otherwise, so that
    a test reads its times off its sheet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheet = cues if isinstance(cues, str) else json.dumps(list(cues))
    (folder / "cues.json").write_text(sheet)
    toml = f'[show]\ntitle = "{title}"\ntimezone = "UTC"\n{toml}'
    (folder / "show.toml").write_text(_with_playback(toml, draw='"cue"', lead="0"))
    return folder


def make_show(
    folder: Path,
    cues: Sequence[Mapping[str, Any]],
    *,
    rhythm: Rhythm | None = None,
    rhythms: Mapping[str, Rhythm] | None = None,
    toml: str = '[schedule]\nkind = "manual"\n',
) -> TinyShow:
    """A show with sets for every action.

    Args:
        folder: where; it is made.
        cues: the sheet.
        rhythm: how the sets are made.
        rhythms: how those of some actions are made, by action id.
        toml: what follows `[show]` in its show.toml; by default it waits for a `go`.
    """
    write_show(folder, cues, toml)
    tiny = TinyShow(folder, rhythm or Rhythm(), rhythms or {})
    for key, data in store_contents(tiny.actions(), tiny.rhythm, tiny.rhythms).items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tiny


MANUAL = '[schedule]\nkind = "manual"\n'
"""The show waits for a hand."""

LOOP = '[schedule]\nkind = "loop"\n'
"""The show plays round after round, from the moment the server first starts."""
