"""The commands that rehearse in the background: `rehearse`, `rehearse.cancel`, `rehearsal`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from server.config.show import Show
from server.control.dispatcher import Args, Caller, CommandError, Handler, expect
from server.rehearsal.jobs import RehearsalJobError, RehearsalJobs
from server.rehearsal.rehearsal import fail_names
from server.rehearsal.request import BadRehearsalRequest, RehearsalRequest


class RehearsalCommands:
    """What a technician can ask of the rehearsal beside a show.

    Args:
        show: what is rehearsed: it knows what may be made to fail, and how long it is.
        desk: who does it.
    """

    def __init__(self, show: Show, desk: RehearsalJobs) -> None:
        self._show = show
        self._desk = desk

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """See `Commands.handlers`."""
        return {
            "rehearse": self._rehearse,
            "rehearse.cancel": self._cancel,
            "rehearsal": self._result,
        }

    @property
    def read_only(self) -> frozenset[str]:
        """See `Commands.read_only`."""
        return frozenset({"rehearsal"})

    async def _rehearse(self, args: Args, caller: Caller) -> dict[str, Any]:
        """`rehearse {screenings?, bandwidth?, latency?, fail?, seed?, from?, to?, deep?}`."""
        try:
            order = RehearsalRequest.read(args)
        except BadRehearsalRequest as error:
            raise CommandError("bad_args", str(error)) from None
        self._check_times(order)
        unknown = await asyncio.to_thread(fail_names, self._show, order.fail)
        if unknown:
            engines = [each.name for each in self._show.settings.engines if each.plays_live]
            known = ", ".join(["store", "engines", *engines, "or an action such as prompt_001"])
            text = f"fail: nothing is called {unknown[0]!r:.70}: expected one of {known}"
            raise CommandError("unknown_failure", text)
        try:
            self._desk.start(order, caller.name)
        except RehearsalJobError as error:
            raise CommandError(error.code, str(error)) from None
        return {"rehearsal": self._desk.state()}

    async def _cancel(self, args: Args, caller: Caller) -> dict[str, Any]:
        """`rehearse.cancel`: when it is answered, nothing of the rehearsal is left."""
        expect(args)
        try:
            await self._desk.cancel(caller.name)
        except RehearsalJobError as error:
            raise CommandError(error.code, str(error)) from None
        return {"rehearsal": self._desk.state()}

    async def _result(self, args: Args, _caller: Caller) -> dict[str, Any]:
        """`rehearsal`: how it stands, and every finding of the last report."""
        expect(args)
        return {"rehearsal": self._desk.result()}

    def _check_times(self, order: RehearsalRequest) -> None:
        start, duration = order.from_ or 0.0, self._show.duration
        if start >= duration:
            raise CommandError("out_of_range", f"from: the show is over after {duration:g} s")
        if order.to is not None and order.to <= start:
            raise CommandError("out_of_range", "to: expected a time after from")
