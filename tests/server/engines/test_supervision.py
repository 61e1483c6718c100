from __future__ import annotations

import pytest

from server.engines.supervision import (
    Kill,
    Life,
    Move,
    Pause,
    Prove,
    Recycle,
    RestartPolicy,
    Supervision,
    Wait,
    next_move,
    pause_after,
)

POLICY = Supervision(
    hang_after=30,
    recycle_after=3,
    memory_growth=100,
    idle=5,
    doubt=1,
    proof_every=300,
    look_every=60,
)
OPENED = 1000.0


def life(**known: object) -> Life:
    return Life(OPENED, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "after", "expected"),
    [
        # between drawings
        ({}, 0, Wait(OPENED + 60)),
        ({}, 290, Wait(OPENED + 300)),
        ({}, 300, Prove()),
        ({"lost": "it fell silent"}, 0, Kill("it fell silent")),
        # it draws
        ({"drawing": 1, "owes_since": OPENED}, 10, Wait(OPENED + 30)),
        ({"drawing": 1, "owes_since": OPENED + 9}, 10, Wait(OPENED + 39)),
        ({"drawing": 1, "owes_since": OPENED}, 30, Kill("it hangs: no step for 30 s")),
        # a drawing was left, and it may hang in it
        ({"doubted": OPENED + 8, "owes_since": OPENED}, 8, Wait(OPENED + 9)),
        ({"doubted": OPENED + 8, "owes_since": OPENED}, 9, Prove()),
        ({"doubted": OPENED + 8, "owes_since": OPENED}, 30, Kill("it hangs: no step for 30 s")),
        # old, or fat; never in the middle of a drawing
        ({"runs": 3, "idle_since": OPENED + 10}, 12, Wait(OPENED + 15)),
        ({"runs": 3, "idle_since": OPENED + 10}, 15, Recycle("it has drawn 3 times")),
        ({"runs": 9, "drawing": 1, "owes_since": OPENED + 15}, 15, Wait(OPENED + 45)),
        ({"had": 50, "now_has": 150}, 0, Wait(OPENED + 60)),
        ({"had": 0, "now_has": 200 * 2**20}, 0, Recycle("it grew by 210 MB")),
        (
            {"had": 0, "now_has": 200, "drawing": 1, "owes_since": OPENED},
            0,
            Wait(OPENED + 30),
        ),
        ({"had": None, "now_has": None}, 0, Wait(OPENED + 60)),
    ],
)
def test_what_is_to_be_done(known: dict[str, object], after: float, expected: Move) -> None:
    assert next_move(life(**known), OPENED + after, POLICY) == expected


def test_nothing_is_replaced_where_that_is_switched_off() -> None:
    policy = Supervision(recycle_after=0, memory_growth=0)
    old = life(runs=10_000, had=0, now_has=2**40)
    assert isinstance(next_move(old, OPENED, policy), Wait)


def test_the_first_picture_of_a_drawing_may_take_as_long_as_models_take_to_load() -> None:
    policy = Supervision(hang_after=30, first_within=600, look_every=1000)
    alive = life()
    alive.begins(OPENED)
    assert next_move(alive, OPENED + 599, policy) == Wait(OPENED + 600)
    assert next_move(alive, OPENED + 600, policy) == Kill("it hangs: no step for 600 s")
    alive.gives(OPENED + 599)
    assert next_move(alive, OPENED + 628, policy) == Wait(OPENED + 629)
    assert next_move(alive, OPENED + 629, policy) == Kill("it hangs: no step for 30 s")
    alive.left(OPENED + 628, well=False)
    alive.begins(OPENED + 628)  # asking again gives no more time
    assert next_move(alive, OPENED + 629, policy) == Kill("it hangs: no step for 30 s")


class TestLife:
    def test_a_drawing_owes_a_step_after_each_step_until_it_is_over(self) -> None:
        alive = life()
        alive.begins(10)
        assert (alive.drawing, alive.runs, alive.owes_since) == (1, 1, 10)
        alive.gives(12)
        assert (alive.proven, alive.owes_since) == (12, 12)
        alive.left(13, well=True)
        assert (alive.drawing, alive.owes_since, alive.doubted) == (0, None, None)

    def test_what_was_left_before_its_end_is_in_doubt_until_a_picture_comes(self) -> None:
        alive = life()
        alive.begins(10)
        alive.left(18, well=False)
        assert (alive.doubted, alive.owes_since) == (18, 10)
        alive.begins(19, proof=True)
        assert (alive.runs, alive.owes_since) == (1, 10)
        alive.gives(20)
        alive.left(21, well=True)
        assert (alive.doubted, alive.owes_since) == (None, None)

    def test_asking_again_is_no_sign_of_life(self) -> None:
        alive = life()
        for start in (0, 8, 16, 24):
            alive.begins(start)
            alive.left(start + 8, well=False)
        assert next_move(alive, 32, POLICY) == Kill("it hangs: no step for 30 s")

    def test_a_drawing_that_waits_for_another_owes_nothing_of_its_own(self) -> None:
        alive = life()
        alive.begins(0)
        alive.begins(1)
        alive.gives(25)
        assert next_move(alive, 40, POLICY) == Wait(55)
        alive.left(41, well=True)
        assert alive.owes_since == 25


class TestPauses:
    policy = RestartPolicy(first_pause=1, longest_pause=10, cap=6, within=100, rest=900)

    @pytest.mark.parametrize(
        ("failures", "expected"),
        [
            ([50], Pause(1)),
            ([40, 50], Pause(2)),
            ([30, 40, 50], Pause(4)),
            ([10, 20, 30, 40, 50], Pause(10)),
            ([0, 10, 20, 30, 40, 50], Pause(900, rest=True)),
            # what was long ago is forgiven
            ([-60, -50, 40, 50], Pause(2)),
        ],
    )
    def test_longer_each_time_and_at_last_for_long(
        self, failures: list[float], expected: Pause
    ) -> None:
        assert pause_after(failures, 50, self.policy) == expected
