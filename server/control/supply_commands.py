"""The command that looks after the copies: `prefetch`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.control.dispatcher import Args, Caller, CommandError, Handler, expect
from server.control.show_commands import find_cue
from server.supply.lookahead import Lookahead
from server.supply.sources import Supply


class SupplyCommands:
    """`prefetch {cue?}`: bring what a cue needs, or what is coming, to this machine now.

    Args:
        supply: the copies.
        lookahead: what is coming; told what is wanted out of turn.
    """

    def __init__(self, supply: Supply, lookahead: Lookahead) -> None:
        self._supply = supply
        self._lookahead = lookahead

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """See `Commands.handlers`."""
        return {"prefetch": self._prefetch}

    @property
    def read_only(self) -> frozenset[str]:
        """See `Commands.read_only`."""
        return frozenset()

    async def _prefetch(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args, "cue")
        answer: dict[str, Any] = {}
        if args.get("cue") is not None:
            index = find_cue(self._lookahead.show, self._lookahead.plan, args["cue"])
            action = self._lookahead.plan.of_cue(index)
            if action is None:
                raise CommandError("nothing_drawn", f"cue {index} draws nothing")
            self._lookahead.ask_for(action)
            answer = {
                "cue": action.action_id,
                "copies": self._supply.coverage(action.action_id),
            }
        self._supply.nudge()
        return {**answer, "supply": self._supply.status()}
