"""What drawing will take, judged by what was drawn before (pure).

Nothing is invented: what nothing like it was drawn of, or not measured, is not known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from cache.model.formats import SetMeta
from generator.sheet.recipe import Recipe

_TIMED: Final = frozenset({"measured", "profiled"})
"""A simulated duration was made up: it says nothing of how long the drawing took."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one set takes; None where that is not known.

    Attributes:
        seconds: of drawing.
        size: bytes of its images.
    """

    seconds: float | None
    size: int | None


@dataclass(slots=True)
class _Samples:
    """Of sets of one model in one size: each per denoising step."""

    seconds: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)


class Experience:
    """What sets of each engine, model and size took.

    A set's cost grows with its steps, so it is kept per step that the recipe asked for: with
    Heun, say, it is then also right that twice as many are made.
    """

    def __init__(self, metas: Iterable[SetMeta]) -> None:
        self._samples: dict[tuple[str, str, int, int], _Samples] = defaultdict(_Samples)
        for meta in metas:
            self._learn(meta)

    def cost(self, recipe: Recipe, engines: Collection[str] | None) -> Cost:
        """What a set of a recipe will take.

        Args:
            recipe: what is to be drawn.
            engines: kinds of the engines that will draw it; None for whatever engine.
        """
        like = [
            samples
            for (engine, *rest), samples in self._samples.items()
            if rest == [recipe.model, recipe.width, recipe.height]
            and (engines is None or engine in engines)
        ]
        seconds = [value for samples in like for value in samples.seconds]
        sizes = [value for samples in like for value in samples.sizes]
        steps = _steps(recipe.steps, recipe.strength)
        return Cost(
            seconds=steps * median(seconds) if seconds else None,
            size=round(steps * median(sizes)) if sizes else None,
        )

    def _learn(self, meta: SetMeta) -> None:
        config = meta.config
        match config:
            case {
                "model": str(model),
                "width": int(width),
                "height": int(height),
                "num_inference_steps": int(asked),
            } if meta.engine and asked > 0:
                strength: Any = config.get("strength")
                usable = isinstance(strength, (int, float)) and 0 <= strength <= 1
                steps = _steps(asked, strength if usable else None)
            case _:
                return
        samples = self._samples[meta.engine.split()[0], model, width, height]
        if meta.timing in _TIMED and meta.total_duration is not None:
            samples.seconds.append(meta.total_duration / steps)
        sizes = [facts.size for facts in meta.files.values()]
        if sizes:
            samples.sizes.append(sum(size or 0 for size in sizes) / steps)


def steps_of(recipe: Recipe) -> int:
    """Previews to be expected of a recipe."""
    return _steps(recipe.steps, recipe.strength)


def _steps(asked: int, strength: float | None) -> int:
    """Steps to be expected, as image-to-image leaves some out."""
    return asked if strength is None else max(1, int(asked * strength))
