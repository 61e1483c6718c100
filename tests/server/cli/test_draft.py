from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.console import Console

from cache.model.formats import FileFacts, SetMeta
from generator.sets.inventory import Holding
from generator.sheet.estimate import Experience
from generator.sheet.plan import Action
from generator.sheet.provenance import model_config
from generator.sheet.recipe import Recipe
from server.cli.draft import Draft
from tests.contracts.engine_contract import recipe

WHEN = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)


def action(number: int, prompt: str = "boats", **recipe_fields: int) -> Action:
    drawn = recipe(prompt=prompt, **recipe_fields)
    return Action(f"prompt_{number:03d}", "prompt", number, 0.0, "P4", prompt, None, drawn)


def meta(drawn: Recipe, seconds: float, timing: str = "measured") -> SetMeta:
    return SetMeta(
        total_steps=1,
        total_duration=seconds,
        generated_at=WHEN,
        config=model_config(drawn, "P4"),
        fingerprint=drawn.fingerprint,
        engine="diffusers 0.42.1",
        timing=timing,
        files={"1.jpg": FileFacts(size=250_000_000, sha256=None)},
    )


HALF = Holding(action(1), (0, 1), metas={n: meta(action(1).recipe, 60.0) for n in (0, 1)})
STALE = Holding(
    action(2, "[cats]"),
    (),
    (0,),
    ((1, "it has no meta.json"), (2, "it has no meta.json")),
    {0: meta(recipe(prompt="dogs"), 60.0)},
)
LARGE = Holding(action(3, width=320), ())


def draft(*holdings: Holding, engines: set[str] | None = None, beside: int = 1) -> Draft:
    known = Experience(meta for held in holdings for meta in held.metas.values())
    return Draft(holdings, 4, experience=known, engines=engines, beside=beside)


def test_what_is_known_and_what_is_not_are_told_apart() -> None:
    told = draft(HALF, STALE, LARGE)
    assert (told.missing, told.seconds, told.bytes) == (10, 360.0, 1_500_000_000)
    assert (told.untimed, told.unsized) == (4, 4)
    never = "none like them was drawn here with this engine"
    assert told.summary() == [
        "3 actions, 2 sets there, 10 to draw",
        "about 6 min of drawing and 1.5 GB, judged by what was drawn before",
        f"how long 4 sets will take is not known: {never} and measured",
        f"how large 4 sets will be is not known: {never}",
        told.summary()[-1],
    ]
    assert told.summary()[-1].startswith("kept as drawn for other sheets: 1 set; ")
    assert (
        "about 3 min of drawing, 2 beside each other" in draft(HALF, STALE, beside=2).summary()[1]
    )
    assert draft(HALF, engines={"comfyui"}).seconds is None
    assert draft(HALF, engines={"comfyui"}).bytes is None


def test_where_nothing_is_to_be_drawn_nothing_is_judged() -> None:
    whole = Holding(action(1), (0, 1, 2, 3))
    told = draft(whole)
    assert told.summary() == ["1 action, 4 sets there, 0 to draw"]
    totals = told.as_json()["totals"]
    assert (totals["seconds"], totals["bytes"], totals["sets_untimed"]) == (None, None, 0)


def test_programs_are_told_everything() -> None:
    answer = draft(HALF, STALE, LARGE).as_json()
    half, stale, large = answer["actions"]
    assert (half["sets_present"], half["sets_wanted"], half["stale"]) == (2, 4, False)
    assert (half["missing_sets"], half["seconds"], half["bytes"]) == ([2, 3], 120.0, 500_000_000)
    assert (stale["stale"], stale["stale_sets"], stale["broken_sets"]) == (True, [0], [1, 2])
    assert stale["why"] == ['prompt "dogs" → "[cats]"', "set 1, 2: it has no meta.json"]
    assert (large["seconds"], large["bytes"]) == (None, None)
    assert answer["totals"] == {
        "actions": 3,
        "sets_present": 2,
        "sets_wanted": 12,
        "sets_missing": 10,
        "stale_actions": 1,
        "broken_sets": 2,
        "seconds": 360.0,
        "bytes": 1_500_000_000,
        "sets_untimed": 4,
        "sets_unsized": 4,
    }


def test_people_are_told_as_it_stands_in_the_sheet() -> None:
    console = Console(file=io.StringIO(), width=100)
    told = draft(HALF, STALE, LARGE)
    console.print(told.as_table())
    assert isinstance(console.file, io.StringIO)
    _, half, stale, large = console.file.getvalue().splitlines()
    assert half.split() == ["prompt_001", "P4", "2/4", "2", "min", "boats"]
    assert stale.split() == ["prompt_002", "P4", "0/4", "stale", "broken", "4", "min", "[cats]"]
    assert large.split() == ["prompt_003", "P4", "0/4", "?", "boats"]
    assert told.remarks() == [
        'prompt_002: prompt "dogs" → "[cats]"',
        "prompt_002: set 1, 2: it has no meta.json",
    ]
