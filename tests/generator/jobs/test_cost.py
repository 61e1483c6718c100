from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.engines.registry import engine_section
from generator.jobs.cost import (
    Estimate,
    OfferedEngine,
    SecondsOf,
    Tariff,
    cost_by_settings,
    estimate,
    tariff_of,
)
from generator.jobs.eta import WorkSize

SIZE = WorkSize("m", 64, 64, 10)


def paces(**seconds: float) -> SecondsOf:
    return lambda engine, _size: seconds.get(engine)


def engine(
    name: str, an_hour: float | None = None, a_picture: float | None = None
) -> OfferedEngine:
    return OfferedEngine(name, "sketch", Tariff(an_hour, a_picture))


@pytest.mark.parametrize(
    ("tariff", "seconds", "cost"),
    [
        (Tariff(), 10.0, None),
        (Tariff(an_hour=3.6), 10.0, 0.01),
        (Tariff(an_hour=3.6), None, None),
        (Tariff(an_hour=3.6, a_picture=0.5), 10.0, 0.51),
        (Tariff(an_hour=3.6, a_picture=0.5), None, None),
        (Tariff(a_picture=0.5), None, 0.5),
        (Tariff(an_hour=0.0), None, 0.0),
        (Tariff(an_hour=0.0, a_picture=0.5), None, 0.5),
        (Tariff(a_picture=0.0), 10.0, 0.0),
    ],
)
def test_what_a_picture_costs(tariff: Tariff, seconds: float | None, cost: float | None) -> None:
    assert tariff.cost(seconds) == pytest.approx(cost)


def test_an_engine_costs_what_its_settings_say() -> None:
    section = engine_section({"name": "gpu", "kind": "sketch", "an_hour": 1.1})
    assert tariff_of(section) == Tariff(1.1, None)
    assert cost_by_settings(section)(3600.0) == pytest.approx(1.1)
    assert cost_by_settings(engine_section({"name": "pencil"}))(3600.0) is None


def test_the_briefs_picture_costs_what_it_says_there() -> None:
    """An A10G at $1.10 an hour, some 45 seconds a picture: $0.0137."""
    assert Tariff(an_hour=1.10).cost(45.0) == pytest.approx(0.0137, abs=1e-4)


def test_engines_draw_beside_each_other_and_cost_what_each_draws() -> None:
    engines = [engine("slow", 3600), engine("quick", 7200)]
    told = estimate([SIZE] * 3, engines, paces(slow=4, quick=2), "EUR")
    # quick draws the second and, from 2 s on, the third
    assert told == Estimate(pictures=3, seconds=4.0, cost=4.0 + 2 * 2 * 2.0, currency="EUR")


def test_what_was_never_measured_is_not_known() -> None:
    told = estimate([SIZE] * 2, [engine("a", 1.0), engine("b", 1.0)], paces(a=1.0), "EUR")
    assert (told.pictures, told.seconds, told.cost) == (2, None, None)


def test_what_costs_the_same_whoever_draws_it_is_known_all_the_same() -> None:
    per_picture = [engine("a", a_picture=0.5), engine("b", a_picture=0.5)]
    assert estimate([SIZE] * 3, per_picture, paces(), "EUR").cost == pytest.approx(1.5)
    free = [engine("a", 0.0), engine("b", 0.0)]
    assert estimate([SIZE] * 3, free, paces(), "EUR").cost == 0.0
    mixed = [engine("a", a_picture=0.5), engine("b", a_picture=0.4)]
    assert estimate([SIZE] * 3, mixed, paces(), "EUR").cost is None


def test_without_engines_nothing_is_known() -> None:
    told = estimate([SIZE], [], paces(), "CHF")
    assert told.document() == {"pictures": 1, "seconds": None, "cost": None, "currency": "CHF"}


@given(
    st.lists(st.floats(0.1, 100), min_size=1, max_size=4),
    st.integers(0, 30),
)
def test_it_takes_no_less_than_the_work_shared_and_no_more_than_one_after_the_other(
    seconds: list[float], pictures: int
) -> None:
    engines = [engine(f"e{n}", 3600.0) for n in range(len(seconds))]
    pace = paces(**{f"e{n}": each for n, each in enumerate(seconds)})
    told = estimate([SIZE] * pictures, engines, pace, "EUR")
    assert told.seconds is not None
    assert told.cost is not None
    assert told.cost <= len(seconds) * told.seconds + 1e-6  # all busy until then, at the most
    assert told.seconds <= pictures * max(seconds) + 1e-6
