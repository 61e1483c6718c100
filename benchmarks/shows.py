"""Shows made for measuring: pictures of a given size, with given durations."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from cache.model.formats import FileFacts, SetMeta, dump_meta
from cache.model.images import decode_check
from cache.model.keys import set_prefix
from cache.model.manifest import Manifest, ManifestAction, dump_manifest
from generator.sets.recorder import manifest_entry
from generator.sheet.cues import format_time
from generator.sheet.plan import Action

_DRAWN_AT = datetime(2026, 11, 20, tzinfo=UTC)


def jpeg_of(width: int, height: int, at_least: int, seed: int) -> bytes:
    """A grainy picture of about `at_least` bytes: blurred noise, sharp enough to weigh that."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    soft = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.integers(-24, 24, (height, width, 1), dtype=np.int16)
    picture = Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8))
    encoded = b""
    for quality in range(30, 100, 5):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        encoded = buffer.getvalue()
        if len(encoded) >= at_least:
            break
    decode_check(encoded)
    return encoded


def write_set(
    store: Path, action_id: str, set_id: int, durations: Sequence[float], images: Sequence[bytes]
) -> None:
    """A whole set: one image a duration, the given images in turn."""
    folder = store / "actions" / action_id / "sets" / str(set_id)
    folder.mkdir(parents=True)
    files = {}
    for step in range(1, len(durations) + 1):
        image = images[(step - 1) % len(images)]
        (folder / f"{step}.jpg").write_bytes(image)
        files[f"{step}.jpg"] = FileFacts.of(image)
    meta = SetMeta(
        cue_id=action_id,
        set_id=set_id,
        total_steps=len(durations),
        durations={str(step): duration for step, duration in enumerate(durations, start=1)},
        total_duration=round(sum(durations), 6),
        generated_at=_DRAWN_AT,
        config={"program": "P0"},
        seed=0,
        fingerprint="sha256:" + "0" * 64,
        engine="benchmark",
        timing="simulated",
        files=files,
    )
    # No fingerprint: the sets of a benchmark fit any recipe.
    document = json.loads(dump_meta(meta))
    del document["fingerprint"]
    (folder / "meta.json").write_text(json.dumps(document))


def write_show(
    folder: Path,
    times: Sequence[float],
    durations: Sequence[float],
    images: Sequence[bytes],
    *,
    length: float,
    settings: str = "",
) -> None:
    """A show with a prompt cue at each of `times`, each with one set of `durations`."""
    folder.mkdir(parents=True, exist_ok=True)
    cues = [
        {"time": format_time(at), "action": "prompt", "program": "P0", "prompt": f"number {n}"}
        for n, at in enumerate(times, start=1)
    ]
    cues.append({"time": format_time(length), "action": "end"})
    (folder / "cues.json").write_text(json.dumps(cues))
    # Drawing begins with the cue, so that what is measured begins when the sheet says.
    toml = '[show]\ntitle = "Benchmark"\n[playback]\ndraw = "cue"\n'
    (folder / "show.toml").write_text(toml + settings)
    actions: dict[str, ManifestAction] = {}
    for n in range(1, len(times) + 1):
        action_id = f"prompt_{n:03d}"
        write_set(folder, action_id, 0, durations, images)
        actions[action_id] = ManifestAction(
            type="prompt",
            program="P0",
            prompt=f"number {n}",
            steps=len(durations),
            time=format_time(times[n - 1]),
            fingerprint="sha256:" + "0" * 64,
            set_ids=(0,),
        )
    manifest = Manifest(generated_at=_DRAWN_AT, actions=actions)
    (folder / "manifest.json").write_bytes(dump_manifest(manifest))


def write_plain_show(folder: Path, settings: str) -> None:
    """A show with one cue and no set: for what is drawn beside it."""
    cues = [
        {"time": format_time(0.0), "action": "prompt", "program": "P0", "prompt": "a lamp"},
        {"time": format_time(60.0), "action": "end"},
    ]
    (folder / "cues.json").write_text(json.dumps(cues))
    (folder / "show.toml").write_text(f'[show]\ntitle = "Benchmark"\n{settings}')


def fill_store(
    store: Path,
    actions: Sequence[Action],
    images: Sequence[bytes],
    *,
    sets: int,
    durations: Sequence[float],
) -> None:
    """Sets for every action; the same few pictures again and again, as links."""
    pictures = store / "pictures"
    pictures.mkdir(parents=True)
    facts = [FileFacts.of(image) for image in images]
    for number, image in enumerate(images):
        (pictures / f"{number}.jpg").write_bytes(image)
    manifest = Manifest(generated_at=_DRAWN_AT)
    for action in actions:
        for set_id in range(sets):
            place = store / set_prefix(action.action_id, set_id)
            place.mkdir(parents=True)
            files: dict[str, FileFacts] = {}
            for step in range(1, len(durations) + 1):
                number = (step + set_id) % len(images)
                (place / f"{step}.jpg").hardlink_to(pictures / f"{number}.jpg")
                files[f"{step}.jpg"] = facts[number]
            meta = SetMeta(
                cue_id=action.action_id,
                set_id=set_id,
                total_steps=len(durations),
                durations={str(step): seconds for step, seconds in enumerate(durations, start=1)},
                total_duration=round(sum(durations), 6),
                generated_at=_DRAWN_AT,
                config={"program": action.program},
                seed=set_id,
                fingerprint=action.fingerprint,
                engine="benchmark",
                timing="simulated",
                files=files,
            )
            (place / "meta.json").write_bytes(dump_meta(meta))
            manifest = manifest.with_set(action.action_id, manifest_entry(action), set_id)
    (store / "manifest.json").write_bytes(dump_manifest(manifest))
