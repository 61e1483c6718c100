from __future__ import annotations

import numpy as np
import pytest

from generator.engines.port import Engine
from generator.engines.sketch.engine import draw_set, nominal_durations
from generator.engines.testcard.engine import TestCardEngine, draw
from tests.contracts.engine_contract import EngineContract, from_base, pixels, recipe


class TestContract(EngineContract):
    uses_base = False

    @pytest.fixture
    def engine(self) -> Engine:
        return TestCardEngine(wait=False)


def test_it_has_the_rhythm_of_the_sketch() -> None:
    wanted = recipe(steps=5)
    assert [card.duration for card in draw(wanted)] == nominal_durations(wanted)
    assert [card.timestep for card in draw(wanted)] == [
        image.timestep for image in draw_set(wanted)
    ]
    assert len(list(draw(from_base(0.5)))) == 6


def test_only_the_dial_moves() -> None:
    cards = [pixels(card.image) for card in draw(recipe(width=640, height=360, steps=6))]
    moved = np.max([np.abs(card - cards[0]).max(axis=2) for card in cards[1:]], axis=0)
    rows, columns = np.nonzero(moved > 40)
    assert np.hypot(columns - 320, rows - 180).max() < 0.34 * 360
    assert all((np.abs(card - cards[0]) > 40).any() for card in cards[1:])


def test_the_grey_ramp_is_even() -> None:
    card = pixels(next(iter(draw(recipe(width=1360, height=768)))).image)
    unit = 7.68
    middles = [680 - unit * 36 + unit * 72 * (step + 0.5) / 11 for step in range(11)]
    greys = [card[round(384 + unit * 38), round(middle) + 8].mean() for middle in middles]
    assert greys == pytest.approx([255 * step / 10 for step in range(11)], abs=3)


@pytest.mark.parametrize("size", [(8, 8), (64, 400), (400, 64)])
@pytest.mark.parametrize("prompt", ["", "永遠 of a very long prompt " * 30])
def test_any_size_and_prompt_can_be_drawn(size: tuple[int, int], prompt: str) -> None:
    for card in draw(recipe(width=size[0], height=size[1], prompt=prompt, steps=1)):
        assert pixels(card.image).shape == (size[1], size[0], 3)
