"""Builds the engines that settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from pydantic import SecretStr

from generator.engine import Engine
from generator.engines import sketch
from generator.engines.older_wire import OlderWireEngine
from generator.engines.pooled import PooledEngine, process_pool
from generator.engines.remote import RemoteEngine
from generator.engines.testcard import TestCardEngine
from server.sections import EngineSection
from server.settings import Settings


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
    if name.startswith(("http://", "https://")):
        return EngineSection(name="worker", kind="worker", url=name)
    if name.startswith(("ws://", "wss://")):
        return EngineSection(name="older-wire", kind="older-wire", url=name)
    for kind in ("sketch", "testcard", "diffusers"):
        if name == kind:
            return EngineSection.model_validate({"name": name, "kind": kind})
    known = ", ".join([*by_name, "sketch", "testcard", "diffusers", "or the address of a worker"])
    raise UnknownEngine(f"no engine {name!r}: expected one of {known}")


@asynccontextmanager
async def recording_engines(
    sections: Sequence[EngineSection], count: int, token: SecretStr | None
) -> AsyncIterator[list[Engine]]:
    """Engines that draw beside each other, as fast as they can.

    Args:
        sections: which.
        count: how many of each that draws on this machine's cores; of the others there is one.
        token: what workers must be brought.
    """
    engines: list[Engine] = []
    async with AsyncExitStack() as stack:
        for section in sections:
            if section.kind == "worker" and section.url is not None:
                client = await stack.enter_async_context(httpx.AsyncClient())
                engines.append(RemoteEngine(client, section.url, token=token))
            elif section.kind == "older-wire" and section.url is not None:
                engines.append(OlderWireEngine(section.url))
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
        section: which; no worker.
        wait: whether an engine that only plays at drawing keeps a rhythm.
    """
    match section.kind:
        case "diffusers":
            # Not above: the show's own process must not so much as look at torch.
            from generator.engines.diffusers import (  # noqa: PLC0415
                DiffusersEngine,
            )
            from generator.engines.diffusers import (  # noqa: PLC0415
                Settings as DiffusersSettings,
            )

            drawing = DiffusersEngine(
                DiffusersSettings(
                    device=section.device,
                    previews=section.previews,
                    allow_download=section.allow_download,
                    keep_models=section.keep_models or 1,
                )
            )
            return drawing, drawing.close
        case "testcard":
            return TestCardEngine(pace=section.pace, wait=wait), _nothing
        case _:
            return sketch.SketchEngine(pace=section.pace, wait=wait), _nothing


def _nothing() -> None:
    """There is nothing to close."""
