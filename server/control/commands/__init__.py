"""What technicians can ask, a module for each group of commands; a command is one method.

To add one, declare it in its group (see `server/control/command.py`). A new group is listed here,
and built in `server/control/build.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from server.control.command import ControlCommand, commands_of
from server.control.commands.modes import ModeCommands
from server.control.commands.rehearsal import RehearsalCommands
from server.control.commands.show import ShowCommands
from server.control.commands.supply import SupplyCommands

COMMANDS: Final[Mapping[str, ControlCommand]] = {
    each.name: each
    for group in (ShowCommands, ModeCommands, SupplyCommands, RehearsalCommands)
    for each in commands_of(group)
}
"""Every command that a server knows, by name."""
