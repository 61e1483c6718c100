"""The command that looks after the copies: `prefetch`."""

from __future__ import annotations

from dataclasses import dataclass

from server.control.command import CommandError, Result, command
from server.control.commands.show import MaybeCueArguments, find_cue
from server.supply.lookahead import Lookahead
from server.supply.sources import Supply


@dataclass
class SupplyCommands:
    """What a technician can ask of the copies."""

    supply: Supply
    lookahead: Lookahead

    @command("prefetch")
    async def prefetch(self, args: MaybeCueArguments) -> Result:
        """Bring what a cue needs, or what is coming, to this machine now."""
        answer: Result = {}
        if args.cue is not None:
            index = find_cue(self.lookahead.show, self.lookahead.plan, args.cue)
            action = self.lookahead.plan.of_cue(index)
            if action is None:
                raise CommandError("nothing_drawn", f"cue {index} draws nothing")
            self.lookahead.ask_for(action)
            answer = {
                "cue": action.action_id,
                "copies": self.supply.coverage(action.action_id),
            }
        self.supply.nudge()
        return {**answer, "supply": self.supply.status()}
