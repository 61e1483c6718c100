"""Everything that technicians see and can ask for, built and connected."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from server.control.commands.modes import ModeCommands
from server.control.commands.rehearsal import RehearsalCommands
from server.control.commands.show import ShowCommands
from server.control.commands.supply import SupplyCommands
from server.control.dispatcher import Dispatcher
from server.control.state import StateView
from server.control.state_feed import StateFeed
from server.core.conditions import Conditions
from server.lifecycle import Playout, keep_panic
from server.performance.state_file import KEPT_WITHIN
from server.rehearsal.checks import Checks


@dataclass(frozen=True, slots=True)
class Control:
    """What technicians see, and what they can ask for."""

    view: StateView
    feed: StateFeed
    modes: ModeCommands
    dispatcher: Dispatcher


def build_control(playout: Playout, checks: Checks, conditions: Conditions) -> Control:
    """Build what technicians see and can ask for, of a performance."""
    setup, runtime, state_file = playout.setup, playout.runtime, playout.state_file
    show, clock = setup.show, setup.clock
    view = StateView(
        show,
        clock,
        runtime.playback,
        runtime.stage,
        runtime.readiness,
        runtime.modes,
        live=playout.engines,
        activation=setup.activation,
        time_scale=setup.time_scale,
        conditions=conditions,
        time_of_day=playout.time_of_day,
        presence=playout.presence,
        preflight=checks.preflight.state if checks.on else None,
        rehearsal=checks.rehearsals.state if checks.on else None,
    )
    # Technicians and screens are outside, in real time, whatever time the show has.
    feed = StateFeed(view.state, setup.outside)
    checks.notify(feed.nudge)
    show_commands = ShowCommands(
        playback=runtime.playback,
        stage=runtime.stage,
        view=view,
        asrun=playout.asrun,
        clock=clock,
        remember=partial(keep_panic, state_file),
    )
    mode_commands = ModeCommands(
        modes=runtime.modes,
        playback=runtime.playback,
        view=view,
        clock=clock,
        engines=playout.engines,
        keep=partial(state_file.keep, KEPT_WITHIN),
    )
    supply_commands = SupplyCommands(playout.supply, runtime.lookahead, runtime.readiness)
    groups: list[object] = [show_commands, mode_commands, supply_commands]
    if checks.on:
        groups.append(RehearsalCommands(show, checks.rehearsals))
    dispatcher = Dispatcher(groups, setup.outside, view.commands, changed=feed.nudge)
    return Control(view, feed, mode_commands, dispatcher)
