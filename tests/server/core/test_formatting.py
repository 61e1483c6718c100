from __future__ import annotations

import pytest

from server.core.formatting import bit_rate, count, duration, first_few, rate, size


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.2, "0 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (12_000, "3 h 20 min"),
        (172_000, "47 h 47 min"),
        (187_200, "2 d 4 h"),
        (259_200, "3 d"),
    ],
)
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("count_", "told"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (3.4e8, "340 MB"), (2.55e9, "2.5 GB")],
)
def test_sizes(count_: float, told: str) -> None:
    assert size(count_) == told
    assert size(4.2e15) == "4200.0 TB"


def test_rates_and_counts() -> None:
    assert [rate(value) for value in (3.14, 0.07, 0.001)] == [
        "3.1 a second",
        "4.2 a minute",
        "3.6 an hour",
    ]
    assert [count(number, "set") for number in (0, 1, 2)] == ["0 sets", "1 set", "2 sets"]
    assert [count(number, "cue has", "cues have") for number in (1, 2)] == [
        "1 cue has",
        "2 cues have",
    ]
    assert [bit_rate(value) for value in (800, 64e3, 10e6, 2.5e9)] == [
        "800 bit/s",
        "64 kbit/s",
        "10 Mbit/s",
        "2.5 Gbit/s",
    ]


def test_of_many_names_the_first_few() -> None:
    assert [first_few(range(count_), 2) for count_ in range(4)] == ["", "0", "0, 1", "0, 1, …"]
