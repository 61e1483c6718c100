from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from generator.engines.older_wire.engine import OlderWireEngine, command, command_of
from generator.engines.port import DrawingFailed, Engine, EngineUnavailable, RecipeRefused
from generator.sheet.recipe import Recipe
from tests.contracts.engine_contract import (
    AddressedEngineContract,
    drawn,
    from_base,
    recipe,
)
from tests.generator.engines.older_wire_server import (
    DIALECTS,
    FINAL,
    OTHER,
    PREVIEW,
    OlderProgram,
    older_program,
)


class TestOlderWireEngine(AddressedEngineContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        async with older_program() as url:
            yield OlderWireEngine(url)

    async def test_the_same_recipe_is_the_same_picture(self, engine: Engine) -> None:
        """The wire has no word for a seed: each drawing is another picture."""
        first, second = await drawn(engine, recipe()), await drawn(engine, recipe())
        assert len(first) == len(second)


@pytest.mark.parametrize(
    ("program", "prompt", "strength", "expected"),
    [
        ("P0", "boats", None, "P0:boats"),
        ("P2", "boats", 0.4, "P2:0.40"),
        ("P2B", "boats", 0.6, "P2B:0.60"),
        ("P3", "", None, "P3"),
        ("P3B", "boats\n at  sea", None, "P3B:boats at sea"),
        ("P4", "boats", None, "P4:boats"),
        # programs of somebody else's
        ("P7", "boats", None, "P4:boats"),
        ("P7", "boats", 1.0, "P2:1.00"),
        ("P7", " ", None, "P3"),
    ],
)
def test_what_it_says(program: str, prompt: str, strength: float | None, expected: str) -> None:
    assert command(program, prompt, strength) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(recipe(), "P4:boats on the sea"), (recipe(prompt=""), "P3"), (from_base(0.4), "P2:0.40")],
)
def test_of_a_recipe_alone(wanted: Recipe, expected: str) -> None:
    assert command_of(wanted) == expected


async def test_it_asks_in_the_wires_own_words() -> None:
    program = OlderProgram()
    async with older_program(program) as url:
        await drawn(OlderWireEngine(url), recipe())
        images = await drawn(OlderWireEngine(url), from_base(0.4))
    assert program.asked == ["P4:boats on the sea", "P2:0.40"]
    assert len(images) == 5  # ten steps, four of them left


async def test_p0_shows_nothing_but_the_final_image() -> None:
    async with older_program() as url:
        engine = OlderWireEngine(url, says=lambda wanted: f"P0:{wanted.prompt}")
        (final,) = await drawn(engine, recipe())
    assert (final.step, final.steps, final.final, final.timestep) == (1, 1, True, None)


async def test_a_p0_that_shows_previews_after_all_has_them_at_their_steps() -> None:
    script: list[str | bytes | None] = ["p:s=0:t=981", PREVIEW, "p:s=1:t=500.5", OTHER, FINAL]
    script.append("done")
    async with older_program(OlderProgram(script=script)) as url:
        images = await drawn(OlderWireEngine(url, says=lambda _: "P0:x"), recipe())
    assert [(image.timestep, image.image) for image in images] == [
        (981, PREVIEW),
        (500.5, OTHER),
        (None, FINAL),
    ]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_each_of_the_pieces_own_programs_can_draw(dialect: str) -> None:
    greeting, asked, script, expected = DIALECTS[dialect]
    program = OlderProgram(script=script, greeting=greeting)
    async with older_program(program) as url, asyncio.timeout(10):
        engine = OlderWireEngine(url, says=lambda _: asked, end_within=0.2)
        images = await drawn(engine, recipe())
    assert program.asked == [asked]
    assert [image.image for image in images] == expected
    assert [image.final for image in images] == [False] * (len(expected) - 1) + [True]
    timesteps = [image.timestep for image in images[:-1]]
    assert timesteps == sorted((t for t in timesteps if t is not None), reverse=True)


@pytest.mark.parametrize(
    ("printed", "timestep"),
    [
        ("964.2857055664062", 964.2857055664062),
        ("981", 981),
        ("9.5367431640625e-07", 9.5367431640625e-07),
        ("tensor(964.2857, device='cuda:0')", 964.2857),
        ("nan", None),
        ("", None),
    ],
)
async def test_a_timestep_is_read_as_torch_prints_it(printed: str, timestep: float | None) -> None:
    script: list[str | bytes | None] = [f"p:s=0:t={printed}", PREVIEW, FINAL, "done"]
    async with older_program(OlderProgram(script=script)) as url:
        images = await drawn(OlderWireEngine(url, says=lambda _: "P4:x"), recipe())
    assert [image.timestep for image in images] == [timestep, None]


async def played(script: list[str | bytes | None], says: str = "P4:x", **how: float) -> list[bytes]:
    """What comes of a script, as images' bytes."""
    async with older_program(OlderProgram(script=script)) as url:
        engine = OlderWireEngine(url, says=lambda _: says, **{"end_within": 0.2, **how})  # type: ignore[arg-type]
        images = await drawn(engine, recipe())
    assert [image.step for image in images] == list(range(1, len(images) + 1))
    assert [image.final for image in images] == [False] * (len(images) - 1) + [True]
    return [image.image for image in images]


@pytest.mark.parametrize(
    ("says", "script", "expected"),
    [
        # a P0 that shows previews after all
        ("P0:x", ["p:s=0:t=981", PREVIEW, "p:s=1:t=1", FINAL, "done"], [PREVIEW, FINAL]),
        ("P0:x", ["p:s=0:t=981", PREVIEW, FINAL, "done"], [PREVIEW, FINAL]),
        # a preview that is cut short, steps without one, words that nobody knows
        ("P4:x", ["p:s=0:t=9", PREVIEW[:50], "p:s=1:t=1", OTHER, FINAL, "done"], [OTHER, FINAL]),
        ("P4:x", ["p:s=0:t=9", "p:s=1:t=1", OTHER, FINAL, "done"], [OTHER, FINAL]),
        ("P4:x", ["hello", "p:s=x:t=", "", "p:s=1:t=1", OTHER, FINAL, "done"], [OTHER, FINAL]),
        # more steps than the recipe said
        ("P4:x", [*["p:s=0:t=1", PREVIEW] * 9, FINAL, "done"], [PREVIEW] * 9 + [FINAL]),
        ("P4:x", [FINAL, "done"], [FINAL]),
        # hanging up says as much as `done`
        ("P4:x", ["p:s=0:t=9", PREVIEW, FINAL, None], [PREVIEW, FINAL]),
        ("P0:x", ["p:s=0:t=9", FINAL, None], [FINAL]),
    ],
)
async def test_it_makes_the_best_of_what_comes(
    says: str, script: list[str | bytes | None], expected: list[bytes]
) -> None:
    assert await played(script, says) == expected


@pytest.mark.parametrize(
    ("script", "error", "match"),
    [
        (["unknown command: P4:x"], RecipeRefused, "unknown command"),
        (["done"], DrawingFailed, "without a final image"),
        (["p:s=0:t=9", PREVIEW, "done"], DrawingFailed, "without a final image"),
        (["p:s=0:t=9", PREVIEW, None], DrawingFailed, "hung up"),
        ([b"no picture", "done"], DrawingFailed, "cannot be read"),
        (["Unknown command: P4:x"], RecipeRefused, "Unknown command"),
        (["Error during generation: CUDA out of memory"], DrawingFailed, "CUDA out of memory"),
        (["Server error: 'pipe'"], DrawingFailed, "Server error"),
        (["error:Command failed: no"], DrawingFailed, "Command failed"),
    ],
)
async def test_what_is_no_drawing_is_an_error(
    script: list[str | bytes | None], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        await played(script)


async def test_who_falls_silent_is_given_up() -> None:
    with pytest.raises(EngineUnavailable, match="fell silent"):
        await played(["p:s=0:t=9", PREVIEW], silence=0.2)


async def test_chatter_is_no_sign_of_life() -> None:
    program = OlderProgram(script=["still here"] * 10_000, pause=0.01)
    async with older_program(program) as url, asyncio.timeout(20):
        with pytest.raises(EngineUnavailable, match="fell silent"):
            await drawn(OlderWireEngine(url, silence=0.2), recipe())


async def test_a_picture_may_be_large_but_not_without_bound() -> None:
    large = PREVIEW + bytes(2**21)
    assert await played(["p:s=0:t=9", PREVIEW, FINAL, "done"], max_size=2**20)
    with pytest.raises(DrawingFailed):
        await played(["p:s=0:t=9", large, FINAL, "done"], max_size=2**20)


async def test_where_nobody_draws_it_is_unavailable() -> None:
    async with older_program(OlderProgram(script=["ready"])) as url:
        with pytest.raises(EngineUnavailable, match="fell silent"):
            await drawn(OlderWireEngine(url, silence=0.1), recipe())
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"ws://127.0.0.1:{deaf.getsockname()[1]}/ws"
        with pytest.raises(EngineUnavailable):
            await drawn(OlderWireEngine(url, connect_within=0.1), recipe())


async def test_leaving_ends_the_drawing_there() -> None:
    program = OlderProgram(steps=500, pause=0.01)
    async with older_program(program) as url:
        async with OlderWireEngine(url).render(recipe()) as images:
            async for image in images:
                assert image.step == 1
                break
        async with asyncio.timeout(5):
            while program.drawing:  # noqa: ASYNC110 - it is the other side's
                await asyncio.sleep(0.01)
    assert program.left == 1
