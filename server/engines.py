"""Builds the engines that settings name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from generator.engine import Engine
from generator.engines import sketch
from generator.engines.pooled import PooledEngine, process_pool
from generator.engines.testcard import TestCardEngine
from server.settings import EngineSection, Settings


class UnknownEngine(Exception):
    """An engine was named that is neither set up nor built in."""


def find_engine(settings: Settings, name: str | None) -> EngineSection:
    """One of `[[engines]]`, or a built-in one by its kind; None for the first set up.

    Raises:
        UnknownEngine: there is none of that name.
    """
    by_name = {section.name: section for section in settings.engines}
    if name is None:
        return settings.engines[0] if settings.engines else EngineSection(name="sketch")
    if name in by_name:
        return by_name[name]
    if name == "sketch":
        return EngineSection(name=name, kind="sketch")
    if name == "testcard":
        return EngineSection(name=name, kind="testcard")
    known = ", ".join([*by_name, "sketch", "testcard"])
    raise UnknownEngine(f"no engine {name!r}: expected one of {known}")


@contextmanager
def recording_engines(section: EngineSection, count: int) -> Iterator[Sequence[Engine]]:
    """`count` engines that draw beside each other, as fast as they can.

    Args:
        section: which engine.
        count: how many; several sketch engines draw in processes of their own.
    """
    if section.kind == "testcard":
        yield [TestCardEngine(pace=section.pace, wait=False) for _ in range(count)]
    elif count <= 1:
        yield [sketch.SketchEngine(pace=section.pace, wait=False)]
    else:
        with process_pool(count) as pool:
            drawing = PooledEngine(sketch.NAME, sketch.draw_set, section.pace, pool)
            yield [drawing] * count
