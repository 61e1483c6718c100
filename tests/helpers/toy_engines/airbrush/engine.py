from __future__ import annotations

from generator.engines.port import Engine, ScriptedEngine
from generator.engines.settings import EngineAccess
from tests.helpers.engines import drawing
from tests.helpers.toy_engines.airbrush.settings import AirbrushSection


def connect_engine(settings: AirbrushSection, access: EngineAccess) -> Engine:
    token = "" if access.token is None else access.token.get_secret_value()
    return ScriptedEngine(drawing("airbrush", 3), name=f"airbrush {settings.nozzle} {token}")
