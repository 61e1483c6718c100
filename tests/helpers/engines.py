"""Engines that do as a test says."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from PIL import Image

from generator.engines.port import EngineError, ScriptedEngine, StepImage
from server.core.clock import VirtualClock
from server.providers.live import LiveEngine
from tests.helpers.pictures import picture

PREVIEWS = 20


def drawing(label: str, previews: int = PREVIEWS) -> list[StepImage]:
    """A whole drawing: its previews, then its final image."""
    steps = previews + 1
    return [
        StepImage(
            step=step,
            steps=steps,
            final=step == steps,
            timestep=None if step == steps else 1000.0 * (1 - step / steps),
            duration=0.5,
            image=picture(f"{label}/{step}"),
        )
        for step in range(1, steps + 1)
    ]


@lru_cache
def flat(colour: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """A picture of nothing: all one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (160, 96), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def spoilt(images: Sequence[StepImage], image: bytes, first: int = 1) -> list[StepImage]:
    """A drawing of which everything from a step on is another picture, or none."""
    return [replace(one, image=image) if one.step >= first else one for one in images]


def scripted(
    clock: VirtualClock,
    images: Sequence[StepImage],
    error: EngineError | None = None,
    *,
    pause: float = 0.5,
    **how: Any,
) -> ScriptedEngine:
    """An engine on a virtual clock."""
    return ScriptedEngine(images, error, pause, sleep=clock.sleep, **how)


def live(engine: ScriptedEngine, name: str = "gpu", *, local: bool = False) -> LiveEngine:
    """An engine that may draw for the stage."""
    return LiveEngine(name, engine, local)
