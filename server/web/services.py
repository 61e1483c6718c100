"""What endpoints answer from: the parts of the server that is open, as the lifespan gives them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import HTTPConnection

from server.asrun.log import AsRun
from server.config.show import Show
from server.control.dispatcher import Dispatcher
from server.control.socket import ControlSocket
from server.control.state import StateView
from server.core.conditions import Conditions
from server.core.metrics import Metrics
from server.diagnostics.preflight import Preflight
from server.network.access import Access
from server.older_wire.socket import OlderWireSocket
from server.rehearsal.background import BackgroundRehearsals
from server.stage.presence import ScreenPresence
from server.stage.screens import ScreenSocket
from server.stage.stage import Stage
from server.supply.readiness import Readiness
from server.supply.sources import Supply

_READ_AT_ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of one server that its endpoints ask. Nothing but an endpoint reads this.

    Attributes:
        reading: files read for `/assets` at once: the disk and the threads are the show's.
        encoding: long answers encoded at once, in a thread, for the same reason.
    """

    show: Show
    access: Access
    supply: Supply
    stage: Stage
    readiness: Readiness
    view: StateView
    dispatcher: Dispatcher
    asrun: AsRun
    screens: ScreenSocket
    control: ControlSocket
    older_wire: OlderWireSocket
    metrics: Metrics
    preflight: Preflight
    rehearsals: BackgroundRehearsals
    conditions: Conditions
    presence: ScreenPresence
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READ_AT_ONCE))
    encoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


def services(connection: HTTPConnection) -> Services:
    """Those of the server that a request or a socket has come to."""
    return cast("Services", connection.state.services)
