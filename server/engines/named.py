"""Builds the engines that settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pydantic import ValidationError

from cache.outgoing import redacted
from generator.engine import Engine
from generator.engines import sketch
from generator.engines.pooled import PooledEngine, process_pool
from generator.engines.testcard import TestCardEngine
from server.config.sections import EngineSection, Tokens
from server.config.settings import Settings
from server.engines.elsewhere import ELSEWHERE, client_for_engines, engine_elsewhere


class UnknownEngine(Exception):
    """An engine was named that is neither set up nor built in."""


def find_engine(settings: Settings, name: str | None) -> EngineSection:
    """One of `[[engines]]`, a worker by its address, or a built-in one by its kind.

    None is the first set up, else sketch.

    Raises:
        UnknownEngine: there is none of that name.
    """
    by_name = {section.name: section for section in settings.engines}
    if name is None:
        return settings.engines[0] if settings.engines else EngineSection(name="sketch")
    if name in by_name:
        return by_name[name]
    kind_of_address = {"http": "worker", "https": "worker", "ws": "older-wire", "wss": "older-wire"}
    scheme, colon, _ = name.partition("://")
    if colon and scheme in kind_of_address:
        described = {"name": kind_of_address[scheme], "kind": kind_of_address[scheme], "url": name}
        try:
            return EngineSection.model_validate(described)
        except ValidationError as error:
            reason = error.errors(include_url=False, include_input=False)[0]["msg"]
            reason = reason.removeprefix("Value error, ")
            raise UnknownEngine(f"the engine at {redacted(name)}: {reason}") from None
    shown = redacted(name) if colon else name
    for kind in ("sketch", "testcard", "diffusers"):
        if name == kind:
            return EngineSection.model_validate({"name": name, "kind": kind})
    known = ", ".join([*by_name, "sketch", "testcard", "diffusers", "or the address of a worker"])
    raise UnknownEngine(f"no engine {shown!r}: expected one of {known}")


def engines_of(section: EngineSection, parallel: int) -> int:
    """How many sets an engine draws beside each other.

    Args:
        section: which.
        parallel: how many of what draws on this machine's cores.
    """
    if section.kind == "sketch":
        return max(1, parallel)
    return section.at_once if section.kind == "replicate" else 1


@asynccontextmanager
async def recording_engines(
    sections: Sequence[EngineSection], parallel: int, *, folder: Path, tokens: Tokens
) -> AsyncIterator[list[Engine]]:
    """Engines that draw beside each other, as fast as they can.

    One that draws several sets beside each other is in the list as often.

    Args:
        sections: which.
        parallel: how many of what draws on this machine's cores.
        folder: the show's.
        tokens: what engines elsewhere must be brought.

    Raises:
        BadEngine: one is set up in a way that cannot work.
    """
    engines: list[Engine] = []
    async with AsyncExitStack() as stack:
        for section in sections:
            count = engines_of(section, parallel)
            if section.kind in ELSEWHERE:
                client = await stack.enter_async_context(client_for_engines())
                elsewhere = engine_elsewhere(section, client, folder=folder, tokens=tokens)
                engines += [elsewhere] * count
            elif section.kind == "sketch" and count > 1:
                pool = stack.enter_context(process_pool(count))
                drawing = PooledEngine(sketch.NAME, sketch.draw_set, section.pace, pool)
                engines += [drawing] * count
            else:
                engine, close = local_engine(section, wait=False)
                stack.callback(close)
                engines.append(engine)
        yield engines


def local_engine(section: EngineSection, *, wait: bool) -> tuple[Engine, Callable[[], None]]:
    """An engine that draws in this process, and what to call when it is done with.

    Args:
        section: which; none that draws elsewhere.
        wait: whether an engine that only plays at drawing keeps a rhythm.
    """
    match section.kind:
        case "diffusers":
            # Not above: the show's own process must not so much as look at torch.
            from generator.engines.diffusers import (  # noqa: PLC0415
                DiffusersEngine,
                DiffusersSettings,
            )

            drawing = DiffusersEngine(
                DiffusersSettings(
                    device=section.device,
                    previews=section.previews,
                    allow_download=section.allow_download,
                    keep_models=section.keep_models or 1,
                    batch_size=section.batch_size,
                )
            )
            return drawing, drawing.close
        case "testcard":
            return TestCardEngine(pace=section.pace, wait=wait), _nothing
        case _:
            return sketch.SketchEngine(pace=section.pace, wait=wait), _nothing


def _nothing() -> None:
    """There is nothing to close."""
