from __future__ import annotations

from typing import Any

import pytest

from server.control.command import CommandError
from server.control.commands import COMMANDS
from server.rehearsal.request import RehearsalRequest


def read(given: dict[str, Any]) -> RehearsalRequest:
    request = COMMANDS["rehearse"].read(given)
    assert isinstance(request, RehearsalRequest)
    return request


def test_nothing_asked_for_is_the_show_as_it_is() -> None:
    request = read({})
    assert request.arguments() == []
    assert request.plain() == {}


def test_everything_is_said_to_the_command_line() -> None:
    request = read(
        {
            "screenings": 10,
            "bandwidth": "2.5M",
            "latency": 0.08,
            "fail": ["store", "gpu"],
            "seed": 7,
            "from": "00:44:00",
            "to": 3000.5,
            "deep": True,
        }
    )
    assert request.arguments() == [
        *("--screenings", "10", "--bandwidth", "2500000", "--latency", "0.08"),
        *("--seed", "7", "--from", "00:44:00", "--to", "00:50:00.5"),
        *("--fail", "store", "--fail", "gpu", "--deep"),
    ]
    assert request.plain()["from"] == 2640.0


def test_what_comes_by_osc_or_from_a_terminal_is_understood_too() -> None:
    request = read({"screenings": "3", "bandwidth": 10_000_000, "fail": "store, gpu"})
    assert (request.screenings, request.bandwidth) == (3, 10_000_000)
    assert request.fail == ("store", "gpu")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"screenings": 0}, "screenings: "),
        ({"screenings": 101}, "screenings: "),
        ({"screenings": "many"}, "screenings: "),
        ({"bandwidth": "fast"}, "bandwidth: expected bits a second"),
        ({"bandwidth": 0}, "bandwidth: "),
        ({"latency": -1}, "latency: "),
        ({"latency": "nan"}, "latency: "),
        ({"fail": ["--show"]}, "fail: "),
        ({"fail": [1]}, "fail: "),
        ({"seed": -1}, "seed: "),
        ({"from": "44:00"}, "from: expected a time as HH:MM:SS"),
        ({"deep": "perhaps"}, "deep: "),
        ({"html": "/etc/passwd"}, "unknown argument 'html': it takes screenings, bandwidth"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(CommandError) as refused:
        read(given)
    assert str(refused.value).startswith(says)
