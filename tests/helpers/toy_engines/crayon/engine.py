from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from generator.engines.port import Engine, ScriptedEngine
from tests.helpers.engines import drawing
from tests.helpers.toy_engines.crayon.settings import CrayonSection


def open_engine(
    settings: CrayonSection, *, wait: bool, processes: int
) -> AbstractContextManager[Engine]:
    name = f"crayon {settings.wax:g}{' waits' if wait else ''} {processes}"
    return nullcontext(ScriptedEngine(drawing("crayon", 3), name=name))
