"""What a new cue sheet makes of what is drawn: what is stale, what is new, what stays (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from generator.sheet.plan import Action, Finished, Plan
from generator.sheet.provenance import changes, model_config


def plan_difference(before: Plan, after: Plan, finished: Finished) -> dict[str, Any]:
    """How a plan differs from the one before it, as the Studio answers it.

    An action is kept if its recipe is: where only the numbers of places have moved, nothing is
    to be drawn again. What is left of both is compared by its id.

    Args:
        before: the plan that there was.
        after: the plan that there is.
        finished: of which recipes the store has sets.

    Returns:
        ``{"stale", "new", "gone", "kept"}``: lists of actions by their cues, and how many are as
        they were. ``drawn`` says whether there are sets of what an action was before, and of what
        a new one is.
    """
    left, came, kept = _without_same_recipes(before.actions, after.actions)
    former = {action.action_id: action for action in left}
    stale, new = [], []
    for action in came:
        was = former.pop(action.action_id, None)
        if was is None:
            new.append(_told(action, finished))
        else:
            changed = changes(model_config(was.recipe, was.program), action.recipe)
            stale.append({**_told(action, finished, was), "changes": changed})
    gone = [_told(action, finished) for action in left if action.action_id in former]
    return {"stale": stale, "new": new, "gone": gone, "kept": kept}


def _without_same_recipes(
    before: Sequence[Action], after: Sequence[Action]
) -> tuple[list[Action], list[Action], int]:
    """What is only before, what is only after, and of how many the recipe is in both."""
    # First by id and recipe, so that of two cues of one recipe each is taken for itself.
    places = {(action.action_id, action.fingerprint) for action in before}
    same = places & {(action.action_id, action.fingerprint) for action in after}
    left, came = (
        [each for each in actions if (each.action_id, each.fingerprint) not in same]
        for actions in (before, after)
    )
    moved = Counter(each.fingerprint for each in left) & Counter(each.fingerprint for each in came)
    return _less(left, moved), _less(came, moved), len(same) + moved.total()


def _less(actions: Iterable[Action], moved: Counter[str]) -> list[Action]:
    rest, found = moved.copy(), []
    for action in actions:
        if rest[action.fingerprint] > 0:
            rest[action.fingerprint] -= 1
        else:
            found.append(action)
    return found


def _told(action: Action, finished: Finished, was: Action | None = None) -> dict[str, Any]:
    of = was or action
    return {
        "cue": action.cue_index,
        "action_id": action.action_id,
        "drawn": of.fingerprint in finished.get(of.action_id, ()),
    }
