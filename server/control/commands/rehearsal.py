"""The commands that rehearse in the background: `rehearse`, `rehearse.cancel`, `rehearsal`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from server.config.show import Show
from server.control.command import Caller, Result, command
from server.rehearsal.background import BackgroundRehearsals
from server.rehearsal.request import RehearsalRequest, check_asked


@dataclass
class RehearsalCommands:
    """What a technician can ask of the rehearsal beside a show."""

    show: Show
    rehearsals: BackgroundRehearsals

    @command("rehearse")
    async def rehearse(self, args: RehearsalRequest, caller: Caller) -> Result:
        """Rehearse in the background."""
        await asyncio.to_thread(
            check_asked, self.show, from_=args.from_ or 0.0, to=args.to, fail=args.fail
        )
        self.rehearsals.start(args, caller.name)
        return {"rehearsal": self.rehearsals.state()}

    @command("rehearse.cancel")
    async def cancel(self, caller: Caller) -> Result:
        """Break a rehearsal off; when it is answered, nothing of it is left."""
        await self.rehearsals.cancel(caller.name)
        return {"rehearsal": self.rehearsals.state()}

    @command("rehearsal", viewers=True)
    async def result(self) -> Result:
        """Tell how a rehearsal stands, and the last report's findings, 100 at most."""
        return {"rehearsal": self.rehearsals.result()}
