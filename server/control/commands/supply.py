"""The commands that look after sets and their copies: `sets.refresh`, `prefetch`."""

from __future__ import annotations

from dataclasses import dataclass

from server.control.command import CommandError, Result, command
from server.control.commands.show import MaybeCueArguments, find_cue
from server.supply.lookahead import Lookahead
from server.supply.readiness import Readiness
from server.supply.sources import Supply


@dataclass
class SupplyCommands:
    """What can be asked of sets and their copies."""

    supply: Supply
    lookahead: Lookahead
    readiness: Readiness

    @command("sets.refresh")
    async def refresh(self) -> Result:
        """Look at the store now, for sets that were made, picked or rejected a moment ago."""
        await self.readiness.refresh()
        problem = self.readiness.store_problem
        if problem is not None:
            raise CommandError("store_unavailable", problem)
        self.supply.nudge()
        actions = [action.action_id for action in self.readiness.plan.actions]
        return {
            "sets": sum(map(self.readiness.sets, actions)),
            "without_sets": self.readiness.without_sets(),
        }

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
