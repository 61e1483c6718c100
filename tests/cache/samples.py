"""Small real images, sets and stores to test with."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from cache.model.formats import FileFacts, SetMeta, dump_meta
from cache.model.keys import image_key, meta_key
from cache.model.manifest import Manifest, ManifestAction, dump_manifest
from cache.stores.memory import MemoryStore

KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
WHEN = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
FINGERPRINT = "sha256:" + "5a" * 32

SPEC_META = """{"cue_id": "prompt_001", "set_id": 0, "total_steps": 3,
 "durations": {"1": 0.91, "2": 0.62, "3": 0.6, "final": 0.35}, "total_duration": 2.48,
 "generated_at": "2026-11-20T10:30:00Z",
 "model_config": {"program": "P2", "prompt": "painting like epic poem of malaya",
   "num_inference_steps": 3, "guidance_scale": 7.5},
 "seed": 1234, "fingerprint": "sha256:…", "engine": "diffusers 0.42.1", "timing": "measured",
 "files": {"1.jpg": {"bytes": 51234, "sha256": "…"}, "2.jpg": {}, "3.jpg": {}}}"""

ORIGINAL_META = """{"cue_id": "prompt_001", "set_id": 0, "total_steps": 3,
 "durations": {"1": 0.91, "2": 0.62, "3": 0.6, "final": 0.35}, "total_duration": 2.48,
 "generated_at": "2026-11-20T10:30:00Z",
 "model_config": {"program": "P2", "prompt": "painting like epic poem of malaya"}}"""


@cache
def picture(kind: str = "jpg", seed: int = 0, size: int = 48, **options: Any) -> bytes:
    """An image of noise, so that nothing in it is flat or short."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, KINDS[kind], **options)
    return buffer.getvalue()


@cache
def plain(kind: str, colour: tuple[int, int, int], size: int = 256) -> bytes:
    """An image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, KINDS[kind])
    return buffer.getvalue()


def meta_of(images: dict[str, bytes], **changes: Any) -> SetMeta:
    """A meta as the recorder writes it."""
    stems = [name.partition(".")[0] for name in images]
    durations: dict[str, float | None] = dict.fromkeys(stems, 0.5)
    fields: dict[str, Any] = {
        "cue_id": "prompt_001",
        "set_id": 0,
        "total_steps": len(stems) - ("final" in stems),
        "durations": durations,
        "total_duration": 0.5 * len(stems),
        "generated_at": WHEN,
        "config": {"program": "P2", "prompt": "malaya", "num_inference_steps": 3},
        "seed": 1234,
        "fingerprint": FINGERPRINT,
        "engine": "sketch 1",
        "timing": "simulated",
        "files": {name: FileFacts.of(data) for name, data in images.items()},
    }
    return SetMeta(**{**fields, **changes})


def original_meta(steps: int, **changes: Any) -> bytes:
    """A meta as the piece's first generator wrote it."""
    return json.dumps(
        {
            "cue_id": "prompt_001",
            "set_id": 0,
            "total_steps": steps,
            "durations": {str(step): 0.5 for step in range(1, steps + 1)},
            **changes,
        }
    ).encode()


def images_of(steps: int, kind: str = "jpg", *, final: bool = True) -> dict[str, bytes]:
    """The images of a set by file name."""
    names = [*(f"{step}.{kind}" for step in range(1, steps + 1)), *([f"final.{kind}"] * final)]
    return {name: picture(kind, seed) for seed, name in enumerate(names)}


def add_set(
    contents: dict[str, bytes], action_id: str, set_id: int, images: dict[str, bytes]
) -> None:
    """Put a whole set into what a store is to hold."""
    for name, data in images.items():
        contents[image_key(action_id, set_id, name)] = data
    meta = meta_of(images, cue_id=action_id, set_id=set_id)
    contents[meta_key(action_id, set_id)] = dump_meta(meta)


def small_store(actions: int = 2, sets: int = 2) -> MemoryStore:
    """A store with whole sets and a manifest that lists them."""
    contents: dict[str, bytes] = {}
    manifest = Manifest(generated_at=WHEN)
    for action in range(1, actions + 1):
        for set_id in range(sets):
            action_id = f"prompt_{action:03d}"
            add_set(contents, action_id, set_id, images_of(3))
            entry = ManifestAction(type="prompt", program="P2", prompt="malaya", steps=3)
            manifest = manifest.with_set(action_id, entry, set_id)
    contents["manifest.json"] = dump_manifest(manifest)
    return MemoryStore(contents)
