"""`understudy generate reject` and `restore`: which sets of the show are never shown again."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from cache.untrusted import one_line
from generator.sets.rejection import NoSuchSet, reject_set, restore_set
from server.cli.common import ShowOption, StoreOption, fail, in_store, load

ActionArgument = Annotated[str, typer.Argument(metavar="ACTION", help="An action's id.")]
SetArgument = Annotated[int, typer.Argument(metavar="SET", min=0, help="The number of its set.")]

_LONGEST_REASON = 200


def reject(
    action: ActionArgument,
    number: SetArgument,
    *,
    why: Annotated[str, typer.Option("--why", help="For whoever reads the manifest.")] = "",
    show: ShowOption = None,
    store: StoreOption = None,
) -> None:
    """Have a set never shown, nor drawn, again. Its files stay until they are pruned."""
    loaded = load(show, store=store)
    reason = one_line(why, _LONGEST_REASON)
    try:
        new = in_store(loaded, lambda opened: reject_set(opened, action, number, reason))
    except NoSuchSet as error:
        fail(str(error), 2)
    typer.echo(
        f"set {number} of {action} is rejected; understudy generate restore {action} {number} "
        "takes that back"
        if new
        else f"set {number} of {action} was rejected already"
    )


def restore(
    action: ActionArgument,
    number: SetArgument,
    *,
    show: ShowOption = None,
    store: StoreOption = None,
) -> None:
    """Have a set that was rejected shown again."""
    loaded = load(show, store=store)
    try:
        restored = in_store(loaded, partial(restore_set, action_id=action, set_id=number))
    except NoSuchSet as error:
        fail(str(error), 2)
    was = "is back" if restored else "was not rejected"
    typer.echo(f"set {number} of {action} {was}")
