from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from generator.jobs.brief_request import generate_request
from generator.jobs.cost import OfferedEngine, Tariff
from generator.jobs.drawing import NO_ACTION, DrawWork
from generator.jobs.eta import WorkSize
from generator.jobs.paces import Paces
from generator.jobs.fields import BadJobRequest
from generator.jobs.request import (
    MAX_PICTURES,
    MAX_PROMPT,
    Catalogue,
    JobRequest,
    accept_request,
    asked_take,
    estimate_request,
    public_request,
)
from generator.jobs.store import NewJob
from generator.sheet.plan import plan_actions
from generator.sheet.programs import FastVariant, Program
from generator.sheet.recipe import SEED_LIMIT, Lora, PipelineKind, Recipe
from generator.styles import Style, with_default_styles
from server.config.settings import load_settings
from tests.helpers.cues import sheet_of

SECRET = "whsec_" + base64.b64encode(b"hunter2-correct-horse-battery").decode()
HOOK = {"url": "https://bell.example/hook", "secret": SECRET}
TAKE = "0d4b4f0e-8f4e-4a6c-9c25-0c6d1b1f2a3b"


def picture(width: int = 64, height: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "navy").save(buffer, "png")
    return buffer.getvalue()


PICTURE = picture()


def catalogue() -> Catalogue:
    programs = dict(load_settings(None, None, {}).programs)
    programs["P0"] = programs["P0"].model_copy(
        update={"fast": FastVariant(model="turbo", steps=4, loras=(Lora(model="lightning"),))}
    )
    programs["bare"] = Program(kind=PipelineKind.IMAGE_TO_IMAGE, base_image="gone.jpg")
    styles = with_default_styles(
        {
            "One Piece": {"match": ["One Piece"], "loras": [{"model": "pirates"}]},
            "Ink": {"match": ["ink drawing"], "words": "black ink", "steps": 12},
        }
    )
    bases = {name: PICTURE for name, each in programs.items() if each.image_to_image}
    del bases["bare"]
    sheet = sheet_of(
        {"action": "prompt", "prompt": "a lake at dawn", "steps": 9},
        {"action": "prompt", "program": "P2", "prompt": "a hall", "guidance": 40},
        {"action": "prompt", "prompt": "a door", "override": "an oak door, closed", "id": "door"},
        {"action": "prompt", "program": "P2B", "prompt": "people"},
    )
    actions = plan_actions(sheet, programs, bases).actions
    return Catalogue(
        programs=programs,
        styles={name: Style.model_validate(keys) for name, keys in styles.items()},
        actions={action.action_id: action for action in actions},
        base_images=bases,
        engines=(OfferedEngine("gpu", "diffusers", Tariff(an_hour=3.6)),),
    )


OFFERED = catalogue()


def accepted(body: object, **more: Any) -> NewJob:
    fixed: dict[str, Any] = {
        "owner": "ada",
        "new_seed": lambda: 5_000_000_000,
        "new_id": lambda: "the-id",
    }
    return accept_request(body, OFFERED, **(fixed | more))


def refused(body: object, **more: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(BadJobRequest) as caught:
        accepted(body, **more)
    assert caught.value.problems
    return [(each.code, each.field, each.message) for each in caught.value.problems]


def works(job: NewJob) -> list[DrawWork]:
    """What is drawn, as whoever draws reads it from the database."""
    return [DrawWork.model_validate(json.loads(json.dumps(item.work))) for item in job.items]


def drawn(body: object, **more: Any) -> Recipe:
    (work,) = works(accepted(body, **more))
    return work.recipe


# ---------------------------------------------------------------- what is drawn


def test_a_prompt_is_drawn_by_p0_as_the_show_would() -> None:
    job = accepted({"prompt": "a lighthouse in fog", "seed": 1000, "n": 4})
    assert (job.id, job.kind, job.owner, job.priority, job.key) == (
        "the-id",
        "draw",
        "ada",
        5,
        None,
    )
    assert [item.seed for item in job.items] == [1000, 1001, 1002, 1003]
    for item, work in zip(job.items, works(job), strict=True):
        wanted = OFFERED.programs["P0"].recipe("a lighthouse in fog").with_seed(item.seed)
        assert work.recipe == wanted
        assert work.action_id == NO_ACTION
        assert (work.description.prompt, work.description.program) == ("a lighthouse in fog", "P0")


def test_the_body_may_be_bytes_or_the_value_that_they_hold() -> None:
    body = {"prompt": "a lake", "n": 2}
    assert accepted(json.dumps(body).encode()) == accepted(body)


def test_seeds_are_drawn_by_lot_once_where_none_is_named() -> None:
    job = accepted({"prompt": "a lake", "n": 2})
    first = 5_000_000_000 % SEED_LIMIT
    assert [item.seed for item in job.items] == [first, first + 1]
    job = accepted({"prompt": "a lake", "n": 2, "seed": SEED_LIMIT - 1})
    assert [item.seed for item in job.items] == [SEED_LIMIT - 1, 0]


def test_the_same_request_is_kept_the_same_whatever_was_drawn_by_lot() -> None:
    body = {"prompt": "a lake", "hook": HOOK, "metadata": {"a": 1}}
    one = accepted(body, new_seed=lambda: 1)
    two = accepted({**body, "n": 1, "priority": 5}, new_seed=lambda: 2)
    assert one.request == two.request
    assert one.items != two.items


def test_a_cue_is_drawn_as_it_stands_so_that_a_take_may_become_its_set() -> None:
    for name, action in OFFERED.actions.items():
        (work,) = works(accepted({"cue": name}))
        assert work.action_id == name
        assert work.recipe.fingerprint == action.fingerprint
        assert work.description.prompt == action.prompt
        assert work.description.override_prompt == action.override


def test_a_cue_with_another_prompt_is_drawn_as_the_cue_would_be() -> None:
    (work,) = works(accepted({"cue": "prompt_001", "prompt": "a lake at night"}))
    assert (work.recipe.prompt, work.recipe.steps) == ("a lake at night, photorealistic", 9)
    assert work.action_id == "prompt_001"
    (work,) = works(accepted({"cue": "prompt_002", "prompt": "a cellar"}))
    assert (work.recipe.strength, work.recipe.base_image) == (0.4, PICTURE)
    (work,) = works(accepted({"cue": "door", "prompt": "a gate"}))
    assert work.recipe.prompt == "a gate, photorealistic"
    assert work.description.override_prompt is None


def test_a_cue_may_be_tried_with_another_program() -> None:
    recipe = drawn({"cue": "door", "program": "P3B"})
    assert (recipe.prompt, recipe.steps) == ("an oak door, closed", 40)
    recipe = drawn({"cue": "prompt_001", "program": "P2", "strength": 0.3})
    assert (recipe.prompt, recipe.strength) == ("a lake at dawn", 0.3)


def test_words_that_are_asked_for_are_drawn_also_by_a_program_with_a_text_of_its_own() -> None:
    assert drawn({"prompt": "a lighthouse", "program": "P2B"}).prompt == "a lighthouse"
    assert drawn({"cue": "prompt_004"}).prompt == "crowd of people in a public space"


def test_a_recipe_is_drawn_as_it_stands() -> None:
    recipe = OFFERED.actions["prompt_002"].recipe.with_seed(77)
    body = {"recipe": recipe.model_dump(mode="json"), "cue": "prompt_002", "n": 2}
    job = accepted(body)
    assert [work.recipe for work in works(job)] == [recipe, recipe.with_seed(78)]
    assert [work.action_id for work in works(job)] == ["prompt_002"] * 2
    kept = job.request["recipe"]["base_image"]
    assert kept == "sha256:" + hashlib.sha256(PICTURE).hexdigest()
    assert [item.seed for item in accepted({**body, "seed": 3}).items] == [3, 4]


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_picture_may_come_in_either_base64(encode: Any) -> None:
    recipe = OFFERED.actions["prompt_002"].recipe.model_dump(mode="json")
    recipe["base_image"] = encode(PICTURE).decode()
    assert drawn({"recipe": recipe}).base_image == PICTURE


@pytest.mark.parametrize("written", ["Watercolor", "watercolor", "WATER_COLOR"])
def test_a_style_is_laid_over_the_prompt(written: str) -> None:
    recipe = drawn({"prompt": "a lake", "style": written})
    assert recipe.prompt == "a lake, photorealistic, soft blending, artistic brush strokes"


def test_words_of_the_prompt_choose_a_style_where_none_is_named() -> None:
    assert drawn({"prompt": "a lake, ink drawing"}).steps == 12
    named = drawn({"prompt": "a lake, ink drawing", "style": "Anime"})
    assert "anime art style" in named.prompt
    assert "black ink" not in named.prompt


def test_fast_is_the_programs_own_variant_and_its_steps_go_before_a_styles() -> None:
    recipe = drawn({"prompt": "a lake", "speed": "fast", "style": "Ink"})
    assert (recipe.model, recipe.steps) == ("turbo", 4)
    assert recipe.prompt.endswith("black ink")
    assert drawn({"cue": "prompt_001", "speed": "fast"}).steps == 4


def test_a_take_may_be_what_a_drawing_starts_from() -> None:
    body = {"prompt": "a lake", "base": f"take:{TAKE.upper()}", "strength": 0.25}
    assert asked_take(body) == TAKE
    recipe = drawn(body, bases={TAKE: PICTURE})
    assert (recipe.kind, recipe.base_image, recipe.strength) == ("image-to-image", PICTURE, 0.25)
    del body["strength"]
    assert drawn(body, bases={TAKE: PICTURE}).strength == 0.6
    recipe = drawn({**body, "program": "bare"}, bases={TAKE: PICTURE})
    assert Recipe.model_validate(recipe.model_dump()) == recipe


@pytest.mark.parametrize("base", [None, 3, "take:", "take:x", "input:abc", "mistake:" + TAKE])
def test_no_take_is_asked_for(base: object) -> None:
    assert asked_take({"base": base}) is None
    assert asked_take([base]) is None


# ---------------------------------------------------------------- templates


def test_a_template_is_a_picture_of_each_prompt_and_seed() -> None:
    job = accepted({"prompt": "a {red|blue} door", "template": True, "n": 2, "seed": 7})
    prompts = [work.recipe.prompt for work in works(job)]
    assert prompts == [
        f"a {colour} door, photorealistic" for colour in ("red", "red", "blue", "blue")
    ]
    assert [item.seed for item in job.items] == [7, 8, 7, 8]


def test_braces_are_words_where_no_template_is_meant() -> None:
    assert drawn({"prompt": "a {red|blue} door"}).prompt.startswith("a {red|blue} door")


def test_many_pictures_of_a_template_want_all_to_be_said() -> None:
    body = {"prompt": "{a|b}" * 9, "template": True, "n": 2}
    problems = refused(body)
    assert problems == [
        ("bad_request", "all", 'expected "all": true for more than 1,000 pictures, found 1,024')
    ]
    assert len(accepted({**body, "all": True}).items) == 1024
    assert len(accepted({**body, "n": 1}).items) == 512


def test_more_pictures_than_a_job_has_are_too_many_all_the_same() -> None:
    for count in (11, 200):
        ((code, field, message),) = refused(
            {"prompt": "{a|b}" * count, "template": True, "all": True, "n": 8}
        )
        assert (code, field) == ("too_large", "prompt")
        assert f"{MAX_PICTURES:,}" in message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "a {b", "template": True}, "prompt"),
        ({"template": True, "cue": "door"}, "template"),
        ({"all": True, "prompt": "a"}, "all"),
    ],
)
def test_a_template_that_is_none(body: dict[str, Any], field: str) -> None:
    assert [problem[:2] for problem in refused(body)] == [("bad_request", field)]


def test_work_that_no_database_should_hold_is_too_large() -> None:
    image = base64.b64encode(picture(1500, 1500) + bytes(4 * 2**20)).decode()
    recipe = {**OFFERED.actions["prompt_002"].recipe.model_dump(mode="json"), "base_image": image}
    ((code, field, _),) = refused({"recipe": recipe, "n": 64})
    assert (code, field) == ("too_large", "n")
    assert len(accepted({"recipe": recipe, "n": 4}).items) == 4
    long = {"model": "m" * 2**21, "prompt": "a", "steps": 1, "width": 64, "height": 64}
    assert [problem[:2] for problem in refused({"recipe": long, "n": 64})] == [("too_large", "n")]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("body", "code", "field", "part"),
    [
        ({"prompt": "a", "kind": "film"}, "bad_request", "kind", "'draw'"),
        ({"prompt": "a", "program": "P9"}, "unknown_program", "program", "no program 'P9'"),
        ({"prompt": "a", "style": "Animee"}, "unknown_style", "style", "did you mean Anime?"),
        ({"cue": "prompt_01"}, "unknown_cue", "cue", "did you mean prompt_001?"),
        ({"prompt": "a" * (MAX_PROMPT + 1)}, "too_large", "prompt", "at most 10,000"),
        ({"prompt": "  \n"}, "bad_request", "prompt", "expected words"),
        ({}, "bad_request", "prompt", "expected a prompt, a recipe, or a cue"),
        ({"prompt": None}, "bad_request", "prompt", "expected a prompt, a recipe, or a cue"),
        ({"prompt": 3}, "bad_request", "prompt", "string"),
        ({"prompt": "a", "n": 0}, "bad_request", "n", "not 0"),
        ({"prompt": "a", "n": 65}, "bad_request", "n", "not 65"),
        ({"prompt": "a", "n": 2.0}, "bad_request", "n", "integer"),
        ({"prompt": "a", "n": True}, "bad_request", "n", "integer"),
        ({"prompt": "a", "n": "4"}, "bad_request", "n", "integer"),
        ({"prompt": "a", "seed": -1}, "bad_request", "seed", "not -1"),
        ({"prompt": "a", "seed": SEED_LIMIT}, "bad_request", "seed", "not 4294967296"),
        ({"prompt": "a", "seed": 10**30}, "bad_request", "", "within 64 bits"),
        ({"prompt": "a", "priority": 10}, "bad_request", "priority", "not 10"),
        ({"prompt": "a", "speed": "quick"}, "bad_request", "speed", "'full' or 'fast'"),
        (
            {"prompt": "a", "speed": "fast", "program": "P3"},
            "bad_request",
            "speed",
            "P3 has no fast variant; [programs.P3.fast]",
        ),
        ({"prompt": "a", "strength": 0.5}, "bad_request", "strength", "expected a base"),
        ({"prompt": "a", "strength": 1.5, "program": "P2"}, "bad_request", "strength", "not 1.5"),
        ({"prompt": "a", "strength": float("nan")}, "bad_request", "", "NaN"),
        ({"prompt": "a", "metadata": {"a": float("inf")}}, "bad_request", "", "Infinity"),
        ({"prompt": "a", "mask": "input:abc"}, "not_configured", "mask", "no mask yet"),
        ({"prompt": "a", "edit": "make it night"}, "not_configured", "edit", "no edit yet"),
        ({"prompt": "a", "enlarge": 2}, "not_configured", "enlarge", "no enlarge yet"),
        ({"prompt": "a", "base": "input:abc"}, "not_configured", "base", "no inputs yet"),
        ({"prompt": "a", "base": "abc"}, "bad_request", "base", "expected take:"),
        ({"prompt": "a", "base": f"take:{TAKE}"}, "not_configured", "base", "no takes yet"),
        ({"prompt": "a", "program": "bare"}, "not_configured", "program", "[programs.bare]"),
        ({"prompt": "a", "promt": "b"}, "bad_request", "promt", "did you mean prompt?"),
        ({"prompt": "a", "every": True}, "bad_request", "every", "unknown field"),
        ({"prompt": "a", "width": 64}, "bad_request", "width", "unknown field; expected one of"),
        (
            {"prompt": "a", "hook": {"url": "x", "secret": SECRET}},
            "bad_request",
            "hook.url",
            "such",
        ),
        ({"prompt": "a", "hook": {**HOOK, "urll": "x"}}, "bad_request", "hook.urll", "mean url?"),
        ({"prompt": "a", "hook": {"url": HOOK["url"]}}, "bad_request", "hook.secret", "required"),
        ({"prompt": "a", "hook": {**HOOK, "events": []}}, "bad_request", "hook.events", "at least"),
        (
            {"prompt": "a", "hook": {**HOOK, "url": "https://me:pw@bell.example/"}},
            "bad_request",
            "hook.url",
            "without user, password",
        ),
        ({"prompt": "a", "metadata": [1]}, "bad_request", "metadata", "object"),
        ({"prompt": "a", "metadata": {"a": "é" * 9000}}, "bad_request", "metadata", "16384 bytes"),
        ({"prompt": "a", "recipe": {"model": "m"}}, "bad_request", "recipe.prompt", "required"),
        (b"{", "bad_request", "", "no JSON"),
        (b'{"prompt": "a", "prompt": "b"}', "bad_request", "", "twice"),
        (b'{"prompt": "a", "strength": 1e400}', "bad_request", "", "floating point"),
        ([], "bad_request", "", "expected a JSON object"),
        ("prompt", "bad_request", "", "expected a JSON object"),
        (None, "bad_request", "", "expected a JSON object"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(
    body: object, code: str, field: str, part: str
) -> None:
    problems = refused(body)
    assert (code, field) in [problem[:2] for problem in problems]
    assert any(part in message for _, _, message in problems)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    problems = refused(
        {
            "prompt": "a",
            "program": "P9",
            "style": "Cubist",
            "cue": "prompt_999",
            "n": 100,
            "seed": "x",
            "mask": 1,
            "base": "here",
            "hook": {"url": "ftp://x", "secret": "y", "evnts": 1},
            "metadata": 7,
            "sped": "fast",
        }
    )
    fields = {field for _, field, _ in problems}
    assert fields == {
        *("program", "style", "cue", "n", "seed", "mask", "base"),
        *("hook.url", "hook.secret", "hook.evnts", "metadata", "sped"),
    }


def test_a_wrong_prompt_is_told_once_and_its_speed_too() -> None:
    assert [problem[1] for problem in refused({"prompt": 3, "speed": "fast", "program": "P3"})] == [
        "prompt",
        "speed",
    ]


def test_an_unknown_take_is_told_as_such() -> None:
    body = {"prompt": "a", "base": f"take:{TAKE}"}
    assert refused(body, bases={}) == [("unknown_take", "base", "there is no such take")]


@pytest.mark.parametrize("name", ["prompt", "program", "base", "strength", "template", "speed"])
def test_a_recipe_says_all_of_how_it_is_drawn(name: str) -> None:
    given: dict[str, object] = {"prompt": "a", "program": "P0", "base": f"take:{TAKE}"}
    given |= {"strength": 0.5, "template": True, "speed": "fast"}
    recipe = OFFERED.actions["door"].recipe.model_dump(mode="json")
    assert [problem[:2] for problem in refused({"recipe": recipe, name: given[name]})] == [
        ("bad_request", name)
    ]
    harmless = {"template": False, "speed": "full"}
    assert len(accepted({"recipe": recipe, **harmless}).items) == 1


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (b"no picture", "bad_request"),
        (PICTURE[:-20], "bad_request"),
        (picture(8000, 6000), "bad_request"),  # 48 megapixels in some kilobytes
        (PICTURE + bytes(10 * 2**20), "too_large"),
    ],
    ids=["none", "cut", "bomb", "large"],
)
def test_a_picture_that_cannot_be_started_from(image: bytes, code: str) -> None:
    recipe = OFFERED.actions["prompt_002"].recipe.model_dump(mode="json")
    recipe["base_image"] = base64.b64encode(image).decode()
    ((found, field, message),) = refused({"recipe": recipe})
    assert (found, field) == (code, "recipe.base_image")
    assert len(message) < 300


def test_control_characters_and_halves_of_emoji_are_cleaned() -> None:
    recipe = drawn({"prompt": "a\x00 \ud83d lake", "metadata": {"\x1b": "\ud800"}})
    assert recipe.prompt == "a� � lake, photorealistic"
    assert accepted({"prompt": "a", "metadata": {"\x1b": "\ud800"}}).metadata == {"�": "�"}


@pytest.mark.parametrize("depth", [15, 16, 60, 70, 5000])
def test_metadata_is_not_nested_deeper_than_anybody_reads(depth: int) -> None:
    text = '{"prompt": "a", "metadata": ' + '{"a": ' * depth + "1" + "}" * depth + "}"
    if depth <= 16:
        assert accepted(text.encode()).metadata
    else:
        assert {field for _, field, _ in refused(text.encode())} <= {"metadata", ""}


# ---------------------------------------------------------------- hooks


def test_a_hooks_secret_is_kept_and_never_told() -> None:
    job = accepted({"prompt": "a", "hook": HOOK})
    assert job.request["hook"] == {"url": HOOK["url"], "secret": SECRET}
    told = public_request(job.request)
    assert told["hook"] == {"url": HOOK["url"]}
    assert job.request["hook"]["secret"] == SECRET
    assert public_request({"prompt": "a"}) == {"prompt": "a"}
    assert SECRET not in repr(JobRequest.model_validate({"hook": HOOK}))


@pytest.mark.parametrize(
    "secret", ["", "hunter2", "whsec_aHVudGVyMg==", "whsec_hunter2!", f" {SECRET}", f"{SECRET}é"]
)
def test_a_secret_that_signs_nothing_is_refused_and_not_told(secret: str) -> None:
    ((code, field, message),) = refused({"prompt": "a", "hook": {**HOOK, "secret": secret}})
    assert (code, field) == ("bad_request", "hook.secret")
    assert not secret or secret not in message


def test_a_hook_that_is_no_object_is_refused_and_not_told() -> None:
    ((_, field, message),) = refused({"prompt": "a", "hook": SECRET})
    assert field == "hook"
    assert SECRET not in message


def test_whoever_sends_may_say_that_a_hook_cannot_be_reached() -> None:
    told = refused({"prompt": "a", "hook": HOOK}, why_no_hook=lambda url: f"{url} is near")
    assert told == [("bad_request", "hook.url", "https://bell.example/hook is near")]


# ---------------------------------------------------------------- what it would take


def test_an_estimate_says_what_was_measured_and_null_else() -> None:
    paces = Paces()
    job = accepted({"prompt": "a lake", "n": 4})
    unknown = {"pictures": 4, "seconds": None, "cost": None, "currency": "EUR"}
    assert estimate_request(job, OFFERED, paces) == unknown
    recipe = works(job)[0].recipe
    paces.learn("gpu", WorkSize(recipe.model, recipe.width, recipe.height, recipe.steps), 25.0)
    known = {"pictures": 4, "seconds": 100.0, "cost": 0.1, "currency": "EUR"}
    assert estimate_request(job, OFFERED, paces) == known


def test_an_estimate_counts_the_steps_that_image_to_image_makes() -> None:
    paces = Paces()
    job = accepted({"prompt": "a hall", "program": "P2", "strength": 0.5})
    recipe = works(job)[0].recipe
    paces.learn("gpu", WorkSize(recipe.model, recipe.width, recipe.height, 10), 10.0)
    assert estimate_request(job, OFFERED, paces)["seconds"] == 20.0


# ---------------------------------------------------------------- the brief's own


def generated(body: object) -> NewJob:
    return generate_request(body, OFFERED, owner="ada", new_seed=lambda: 9, new_id=lambda: "id")


def test_the_briefs_request_is_one_picture_in_a_style_and_a_size() -> None:
    body = {"prompt": "A phoenix rising", "style": "Anime", "width": 1024, "height": 1024}
    job = generated(body)
    (work,) = works(job)
    assert (work.recipe.width, work.recipe.height, work.recipe.seed) == (1024, 1024, 9)
    assert work.recipe.prompt.startswith("A phoenix rising")
    assert work.recipe.prompt.endswith("vibrant colors, detailed shading, anime art style")
    assert (job.metadata, job.request) == (body, {"kind": "draw", **body})
    assert [item.seed for item in generated({**body, "seed": 3}).items] == [3]


def test_a_franchise_is_laid_over_a_style_and_does_not_take_its_place() -> None:
    recipe = works(generated({"prompt": "a ship", "style": "Anime", "franchise": "One Piece"}))[
        0
    ].recipe
    assert "anime art style" in recipe.prompt
    assert [lora.model for lora in recipe.loras] == ["pirates"]
    same = {"prompt": "One Piece ship", "style": "one-piece", "franchise": "One Piece"}
    assert len(works(generated(same))[0].recipe.loras) == 1
    assert (
        len(
            works(generated({"prompt": "One Piece ship", "franchise": "One Piece"}))[0].recipe.loras
        )
        == 1
    )
    assert not works(generated({"prompt": "a ship", "franchise": "Nobody's"}))[0].recipe.loras


@pytest.mark.parametrize(
    ("body", "code", "field", "part"),
    [
        ({}, "bad_request", "prompt", "expected a prompt"),
        ({"prompt": ""}, "bad_request", "prompt", "expected words"),
        ({"prompt": "a" * 10_001}, "too_large", "prompt", "10,000"),
        ({"prompt": "a", "style": "Cubism"}, "unknown_style", "style", "Cubism"),
        ({"prompt": "a", "width": 1001}, "bad_request", "width", "a multiple of 8 such as 1000"),
        ({"prompt": "a", "height": 16}, "bad_request", "height", "64, not 16"),
        ({"prompt": "a", "height": 9000}, "bad_request", "height", "8192, not 9000"),
        ({"prompt": "a", "width": 512.0}, "bad_request", "width", "integer"),
        ({"prompt": "a", "seed": -1}, "bad_request", "seed", "not -1"),
        ({"prompt": "a", "heigth": 512}, "bad_request", "heigth", "did you mean height?"),
        ([], "bad_request", "", "expected a JSON object"),
    ],
)
def test_what_is_wrong_with_a_request_of_the_brief(
    body: object, code: str, field: str, part: str
) -> None:
    with pytest.raises(BadJobRequest) as caught:
        generated(body)
    (problem,) = caught.value.problems
    assert (problem.code, problem.field) == (code, field)
    assert part in problem.message


# ---------------------------------------------------------------- whatever comes

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["P0", "P2", "fast", "door", "draw", f"take:{TAKE}", "input:a", SECRET]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = sorted(each.alias or name for name, each in JobRequest.model_fields.items())
usual: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.text("{}|ab $2-", max_size=12) | st.text(max_size=10),
    "program": st.sampled_from(sorted(OFFERED.programs)),
    "cue": st.sampled_from(sorted(OFFERED.actions)),
    "style": st.sampled_from(sorted(OFFERED.styles)),
    "n": st.integers(0, 66),
    "seed": st.integers(-1, SEED_LIMIT),
    "template": st.booleans(),
    "base": st.just(f"take:{TAKE}"),
    "strength": st.floats(0, 1),
    "speed": st.sampled_from(["full", "fast"]),
    "hook": st.just(HOOK),
    "recipe": st.fixed_dictionaries(
        {"model": st.just("m"), "prompt": st.text(max_size=5), "steps": st.integers(0, 5)},
        optional={"width": st.integers(0, 99), "seed": st.integers(-1, 9), "x": json_values},
    ),
}
bodies = (
    json_values
    | st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6)
    | st.fixed_dictionaries({}, optional=usual)
)


@settings(deadline=None, max_examples=200)
@given(bodies)
@example({"prompt": "a", "metadata": {"a": [[[]]]}})
@example({"prompt": "a", "hook": {"url": "https://[", "secret": SECRET}})
def test_any_body_is_a_job_or_says_what_is_wrong(body: object) -> None:
    try:
        job = accepted(body, bases={TAKE: PICTURE})
    except BadJobRequest as error:
        for problem in error.problems:
            assert problem.code
            assert problem.message
            assert len(problem.message) < 600
            json.dumps([problem.code, problem.field, problem.message]).encode()
        return
    assert 1 <= len(job.items) <= 1000
    for item, work in zip(job.items, works(job), strict=True):
        assert work.recipe.seed == item.seed
        assert (
            Recipe.model_validate(work.recipe.model_dump()) == work.recipe
        )  # whole, and in its bounds
    assert isinstance(json.loads(json.dumps(job.request, allow_nan=False)), dict)
    assert estimate_request(job, OFFERED, Paces())["pictures"] == len(job.items)


@settings(deadline=None)
@given(st.binary(max_size=60) | bodies.map(lambda body: json.dumps(body).encode()))
def test_any_bytes_are_a_job_or_say_what_is_wrong(body: bytes) -> None:
    for read in (accepted, generated):
        with contextlib.suppress(BadJobRequest):
            assert read(body).items


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["prompt", "style", "franchise", "width", "seed"]), json_values)
)
def test_any_body_of_the_brief_is_a_job_or_says_what_is_wrong(body: Mapping[str, Any]) -> None:
    with contextlib.suppress(BadJobRequest):
        assert len(generated(body).items) == 1


def test_a_job_has_an_id_of_its_own() -> None:
    ids = {
        accept_request({"prompt": "a"}, OFFERED, owner="ada", new_seed=lambda: 1).id
        for _ in range(3)
    }
    assert len({uuid.UUID(each) for each in ids}) == 3
