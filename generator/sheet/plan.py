"""From cues to actions: what each generating cue draws, and under which id (pure).

Ids are stable. A finished action keeps its id as long as its recipe stays the same, so
inserting a cue neither orphans nor re-labels what is drawn; a cue whose recipe changed
keeps its place's id, and is drawn again under it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from generator.sheet.cues import (
    CueProblem,
    CueSheet,
    PromptCue,
    SliderCue,
    TranscriptCue,
    format_time,
)
from generator.sheet.programs import Program
from generator.sheet.recipe import Recipe

ActionType = Literal["transcript", "prompt", "slider"]
DEFAULT_PROGRAM = "P0"


@dataclass(frozen=True, slots=True)
class Action:
    """The generation that a cue triggers.

    Attributes:
        action_id: where its sets are kept.
        type: which kind of cue triggers it.
        cue_index: which cue of the sheet, from 0.
        at: seconds from the start of the screening.
        program: name of the program that draws it.
        prompt: what is displayed.
        override: what is drawn in its place, where the cue says so.
        recipe: everything that determines its pixels but the seed.
        regenerate: drawn again and again until the next generating cue or navigation.
        slider: where the slider stands before and after its cue, in percent; None where the
            cue does not move it. It starts at the program's strength.
    """

    action_id: str
    type: ActionType
    cue_index: int
    at: float
    program: str
    prompt: str
    override: str | None
    recipe: Recipe = field(repr=False)
    regenerate: bool = False
    slider: tuple[float, float] | None = None

    @property
    def fingerprint(self) -> str:
        """The recipe's: what a set must carry to be this action's."""
        return self.recipe.fingerprint


Finished = Mapping[str, Collection[str]]
"""Of which recipes a store holds, or held, sets: fingerprints by action id."""


class Planned(Protocol):
    """All actions of a sheet, in the order of their cues."""

    @property
    def actions(self) -> tuple[Action, ...]:
        """What is drawn."""
        ...

    @property
    def remarks(self) -> tuple[CueProblem, ...]:
        """What is odd in the sheet, and does no harm."""
        ...

    def of_cue(self, index: int) -> Action | None:
        """The action that cue `index` triggers, None if it draws nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """All actions of a sheet, in the order of their cues, as of one moment."""

    actions: tuple[Action, ...]
    remarks: tuple[CueProblem, ...] = ()
    _drafts: tuple[_ActionDraft, ...] = field(default=(), repr=False, compare=False)
    _by_cue: dict[int, Action] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_cue = {action.cue_index: action for action in self.actions}
        object.__setattr__(self, "_by_cue", by_cue)

    def of_cue(self, index: int) -> Action | None:
        """The action that cue `index` triggers, None if it draws nothing."""
        return self._by_cue.get(index)

    @property
    def wanted(self) -> dict[str, str]:
        """The fingerprint that each action's sets must have."""
        return {action.action_id: action.fingerprint for action in self.actions}

    def given(self, finished: Finished) -> Plan:
        """The same actions, under the ids that they have where `finished` is what is drawn."""
        return _plan(self._drafts, self.remarks, finished)


class PlanInForce:
    """The plan that is played by: it follows the store.

    What is drawn never changes while the show plays; under which ids its sets are kept does,
    where the store comes later than the show, or somebody draws for a newer sheet.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @property
    def actions(self) -> tuple[Action, ...]:
        """See `Planned.actions`."""
        return self._plan.actions

    @property
    def remarks(self) -> tuple[CueProblem, ...]:
        """See `Planned.remarks`."""
        return self._plan.remarks

    @property
    def wanted(self) -> dict[str, str]:
        """See `Plan.wanted`."""
        return self._plan.wanted

    def of_cue(self, index: int) -> Action | None:
        """See `Planned.of_cue`."""
        return self._plan.of_cue(index)

    def follow(self, finished: Finished) -> dict[str, str]:
        """Take over the ids that what is drawn gives the actions.

        Returns:
            The new id by the old one, of those whose id has changed.
        """
        before, self._plan = self._plan, self._plan.given(finished)
        pairs = zip(before.actions, self._plan.actions, strict=True)
        return {old.action_id: new.action_id for old, new in pairs if old != new}


@dataclass(frozen=True, slots=True)
class _ActionDraft:
    """An action under the id that its place has, and the id that its cue asks for."""

    action: Action
    explicit_id: str | None


def plan_actions(
    sheet: CueSheet,
    programs: Mapping[str, Program],
    base_images: Mapping[str, bytes],
    finished: Finished | None = None,
) -> Plan:
    """Plan every generating cue of `sheet`.

    Args:
        sheet: a sheet whose programs are all in `programs`.
        programs: by name.
        base_images: encoded base image by program name, one for each image-to-image program.
        finished: of which recipes a store holds sets already; each action's own comes first.
    """
    drafts, remarks = _draft(sheet, programs, base_images)
    return _plan(tuple(drafts), tuple(remarks), finished or {})


def _plan(
    drafts: tuple[_ActionDraft, ...], remarks: tuple[CueProblem, ...], finished: Finished
) -> Plan:
    ids = _assign_ids(drafts, finished)
    actions = tuple(
        replace(draft.action, action_id=action_id)
        for draft, action_id in zip(drafts, ids, strict=True)
    )
    return Plan(actions, remarks, drafts)


def _draft(
    sheet: CueSheet, programs: Mapping[str, Program], base_images: Mapping[str, bytes]
) -> tuple[list[_ActionDraft], list[CueProblem]]:
    drafts: list[_ActionDraft] = []
    remarks: list[CueProblem] = []
    counts: dict[ActionType, int] = defaultdict(int)
    last_prompt: dict[str, PromptCue] = {}
    slider: dict[str, float] = {}
    current = DEFAULT_PROGRAM

    for index, cue in enumerate(sheet.cues):
        if not cue.generates:
            continue
        override: str | None = None
        regenerate = False
        sets: float | None = None
        problem = ""
        kind: ActionType
        if isinstance(cue, TranscriptCue):
            kind, name, prompt = "transcript", cue.program or DEFAULT_PROGRAM, cue.transcript
        elif isinstance(cue, PromptCue):
            kind, name, prompt = "prompt", cue.program or DEFAULT_PROGRAM, cue.prompt
            override, regenerate, sets = cue.override, cue.enter.regen, cue.guidance
            last_prompt[name] = cue
            current = name
        elif isinstance(cue, SliderCue):
            kind, name, sets = "slider", cue.program or current, cue.value
            before = last_prompt.get(name)
            prompt = before.prompt if before else ""
            override = before.override if before else None
            if before is None:
                problem = f"no prompt of {name} before it: it draws with an empty prompt"
        else:  # pragma: no cover - `generates` is true for these three alone
            continue
        moved: tuple[float, float] | None = None
        if sets is not None:
            moved = (_standing(slider, name, programs), sets)
            slider[name] = sets / 100
            if not programs[name].image_to_image:
                what = "the slider" if kind == "slider" else "guidance"
                problem = problem or f"{what} has no effect: {name} is no image-to-image program"
        if problem:
            remarks.append(CueProblem(index, format_time(cue.at), problem))
        counts[kind] += 1
        action = Action(
            action_id=f"{kind}_{counts[kind]:03d}",
            type=kind,
            cue_index=index,
            at=cue.at,
            program=name,
            prompt=prompt,
            override=override,
            recipe=programs[name].recipe(
                prompt,
                override=override,
                strength=slider.get(name),
                steps=cue.steps,
                base_image=base_images.get(name),
            ),
            regenerate=regenerate,
            slider=moved,
        )
        drafts.append(_ActionDraft(action, cue.id))
    return drafts, remarks


def _standing(slider: Mapping[str, float], name: str, programs: Mapping[str, Program]) -> float:
    """Where a program's slider stands, in percent."""
    return round(100 * slider.get(name, programs[name].strength), 6)


def _assign_ids(drafts: Sequence[_ActionDraft], finished: Finished) -> list[str]:
    """An id for each draft: its own, a finished one of the same recipe, its place's, a new one."""
    ids: list[str | None] = [draft.explicit_id for draft in drafts]
    taken = {action_id for action_id in ids if action_id is not None}

    # Finished actions of the same recipe are handed out in the sheet's order; a cue whose
    # place's id is among them takes that one, so that an unchanged sheet keeps every id, also
    # where sets of a newer sheet have come to lie beside its own. Those who hold the recipe now
    # go before those who held it once.
    now: dict[str, list[str]] = defaultdict(list)
    once: dict[str, list[str]] = defaultdict(list)
    for action_id, fingerprints in finished.items():
        for place, fingerprint in enumerate(fingerprints):
            (once if place else now)[fingerprint].append(action_id)
    open_drafts = [index for index, action_id in enumerate(ids) if action_id is None]
    for index in open_drafts:
        action = drafts[index].action
        natural = action.action_id
        if natural not in taken and action.fingerprint in finished.get(natural, ()):
            ids[index] = natural
            taken.add(natural)
    for index in open_drafts:
        if ids[index] is None:
            fingerprint = drafts[index].action.fingerprint
            same = (each for each in (*now[fingerprint], *once[fingerprint]) if each not in taken)
            ids[index] = next(same, None)
            taken.update(each for each in (ids[index],) if each is not None)

    for index in open_drafts:
        if ids[index] is not None:
            continue
        action = drafts[index].action
        action_id = action.action_id
        if action_id in taken:
            # A new number, beyond those of the sheet and of what is drawn, so that it
            # neither takes a later cue's place nor claims sets that were another's.
            places = {other.action.action_id for other in drafts}
            action_id = _first_free(action.type, taken | places | finished.keys())
        ids[index] = action_id
        taken.add(action_id)
    return [action_id for action_id in ids if action_id is not None]


def _first_free(kind: ActionType, used: Iterable[str]) -> str:
    numbers = [
        int(tail)
        for head, _, tail in (action_id.rpartition("_") for action_id in used)
        if head == kind and tail.isdecimal()
    ]
    return f"{kind}_{max(numbers, default=0) + 1:03d}"
