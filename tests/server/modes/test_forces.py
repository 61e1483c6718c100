from __future__ import annotations

from typing import Any

import pytest

from server.modes.forces import (
    Force,
    Forces,
    after_absence,
    at_cue,
    at_end,
    at_start,
    in_force,
    read_back,
    unexpired,
    with_force,
    without,
    written_down,
)

NOW = 1_700_000_000.0


def force(mode: Any = "static", **fields: Any) -> Force:
    return Force(mode=mode, by="foh", **fields)


def test_a_cues_own_force_beats_the_one_upon_all() -> None:
    everything, own = force("static"), force("live", cue="one")
    assert in_force((everything, own), "one", NOW) == own
    assert in_force((own, everything), "one", NOW) == own
    assert in_force((everything, own), "two", NOW) == everything
    assert in_force((everything, own), None, NOW) == everything
    assert in_force((own,), "two", NOW) is None


def test_the_last_word_upon_the_same_counts() -> None:
    forces = with_force((force("static"), force("live", cue="one")), force("hybrid"))
    assert in_force(forces, "two", NOW) == force("hybrid")
    assert in_force(forces, "one", NOW) == force("live", cue="one")
    assert without(forces, None) == (force("live", cue="one"),)
    assert without(forces, "one") == (force("hybrid"),)
    assert without(forces, "two") == forces


def test_a_number_of_seconds_is_over_exactly_then() -> None:
    timed = force(until="time", deadline=NOW)
    assert in_force((timed,), "one", NOW - 0.001) == timed
    assert in_force((timed,), "one", NOW) is None
    assert unexpired((timed,), NOW) == ()


def test_what_is_until_the_next_cue_lasts_for_one_cue() -> None:
    forces = at_cue((force(until="next_cue"),), "one")
    assert forces == (force(until="next_cue", took_effect=True),)
    assert at_cue(forces, "two") == ()


def test_switched_at_once_the_next_cue_is_the_one_that_ends_it() -> None:
    assert at_cue((force(until="next_cue", took_effect=True),), "two") == ()


def test_upon_a_cue_it_waits_for_that_cue() -> None:
    forces: Forces = (force(cue="two", until="next_cue"),)
    assert at_cue(forces, "one") == forces
    forces = at_cue(forces, "two")
    assert forces[0].took_effect
    assert at_cue(forces, "three") == ()


def test_until_the_end_of_the_screening_that_is_on_or_comes() -> None:
    waiting = (force(until="end_of_screening"),)
    assert at_end(waiting) == waiting, "forced in the lobby, it is for the screening to come"
    begun = at_start(waiting, NOW + 100)
    assert begun == (force(until="end_of_screening", took_effect=True, deadline=NOW + 100),)
    assert unexpired(begun, NOW + 1000) == begun, "a paused screening may last longer"
    assert at_end(begun) == ()
    assert at_start(begun, NOW + 300) == (), "another screening: the one before has ended"


@pytest.mark.parametrize(
    ("away", "left"),
    [
        (0.0, 20.0),
        (5.0, 15.0),
        (-3600.0, 20.0),  # set back while nobody looked: no more is left than there was
        (3600.0, None),
        (-86_400.0 * 3650, 20.0),
    ],
)
def test_what_is_left_of_some_seconds_after_a_restart(away: float, left: float | None) -> None:
    offset = 7200.0
    forced = force(until="time", deadline=NOW + 20, lasts=20)
    (kept,) = written_down((forced,), offset)
    assert kept.deadline == NOW + offset + 20, "Unix time: the next start has another steady clock"
    # Another clock, anchored to the time of day as it is then.
    now = NOW + offset + away
    back = after_absence(read_back((kept,), 0.0, now), now)
    assert [each.deadline for each in back] == ([] if left is None else [now + left])


def test_what_an_older_server_wrote_down_is_read() -> None:
    kept = Force.model_validate({"mode": "static", "by": "foh", "until": "time", "deadline": NOW})
    assert read_back((kept, force()), 60.0, 0.0) == (
        kept.model_copy(update={"deadline": NOW - 60}),
        force(),
    )


def test_what_a_server_that_comes_back_still_finds() -> None:
    kept = (force(), force(cue="one", until="time", deadline=NOW + 1))
    gone = (
        force(cue="two", until="time", deadline=NOW - 1),
        force(cue="three", until="end_of_screening", took_effect=True, deadline=NOW - 1),
    )
    assert after_absence((*kept, *gone), NOW) == kept


def test_in_words() -> None:
    assert force(reason="GPU host noisy").words == "forced static by foh: GPU host noisy"
    assert force().words == "forced static by foh"
