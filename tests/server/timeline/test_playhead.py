from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from server.timeline.playhead import (
    BURST,
    CLOCK_STEP,
    Ended,
    Event,
    Fired,
    Jumped,
    Playhead,
    PlayheadError,
    Started,
)
from server.timeline.schedule import EndlessLoop, Schedule, ScreeningSlot

S = 1_764_000_000.0
TIMES = (0.0, 5.0, 10.0, 10.0, 10.0, 30.0, 60.0, 100.0)
GENERATING = (1, 3, 5, 6)
DURATION = 100.0


@dataclass(frozen=True)
class Slots(Schedule):
    """A schedule that is written out."""

    slots: tuple[ScreeningSlot, ...] = ()
    closed_from: float = math.inf

    def slot_at(self, unix: float) -> ScreeningSlot | None:
        return next((slot for slot in self.slots if unix in slot), None)

    def next_after(self, unix: float) -> ScreeningSlot | None:
        return next((slot for slot in self.slots if slot.start > unix), None)

    def closed(self, unix: float) -> bool:
        return unix >= self.closed_from


def slots(*starts: float, length: float = DURATION) -> Slots:
    return Slots(tuple(ScreeningSlot(S + start, S + start + length) for start in starts))


@dataclass
class House:
    """A playhead and the two clocks it is told of. `at` is steady, `S` being noon, so to speak."""

    schedule: Schedule
    times: Sequence[float] = TIMES
    generating: Sequence[int] = GENERATING
    duration: float = DURATION
    now: float = S
    offset: float = 0.0
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.head = Playhead(self.times, self.generating, self.duration, self.schedule)

    @property
    def wall(self) -> float:
        return self.now + self.offset

    def tick(self) -> list[Event]:
        events = self.head.tick(self.now, self.wall)
        self.events += events
        return events

    def jump_to(self, at: float) -> list[Event]:
        """One look at this time, and none before it."""
        self.now = S + at
        return self.tick()

    def play_to(self, at: float, step: float = 0.25) -> list[Event]:
        """Look often until this time."""
        events: list[Event] = []
        while self.now < S + at - 1e-9:
            self.now = min(self.now + step, S + at)
            events += self.tick()
        return events

    def do(self, move: Callable[[float], list[Event]]) -> list[Event]:
        events = move(self.now)
        self.events += events
        return events

    @property
    def position(self) -> float | None:
        return self.head.position(self.now)


def fired(events: Sequence[Event]) -> list[int]:
    return [event.index for event in events if isinstance(event, Fired)]


def kinds(events: Sequence[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def on_air(at: float = 20.0, schedule: Schedule | None = None) -> House:
    """A house in which a screening has played from its start up to here."""
    house = House(schedule or slots(0.0, 1000.0))
    house.tick()
    house.play_to(at)
    house.events.clear()
    return house


# ---------------------------------------------------------------- a screening


def test_it_waits_starts_fires_and_ends() -> None:
    house = House(slots(10.0, 500.0), now=S)
    assert house.tick() == []
    assert [house.head.started_at, house.position] == [None, None]
    assert [house.head.status, house.head.next_at] == ["waiting", S + 10]
    house.play_to(9.75)
    assert house.events == []
    assert house.play_to(10.0) == [Started(S + 10, scheduled=True), Fired(0, S + 10)]
    assert (house.head.status, house.head.started_at) == ("active", S + 10)
    house.play_to(109.75)
    assert house.position == 99.75
    assert house.play_to(110.0) == [Fired(7, S + 110), Ended("waiting", S + 500)]
    assert [house.head.status, house.position] == ["waiting", None]
    house.play_to(200.0)
    assert kinds(house.events) == ["Started", *["Fired"] * 8, "Ended"]


@given(
    st.lists(st.floats(0.05, BURST - 0.001), min_size=1, max_size=100),
    st.lists(st.sampled_from([0.0, 1.0, 7.0, 7.5, 30.0, 99.9, 100.0]), min_size=1, max_size=12),
    st.floats(-1e6, 1e6),
)
@settings(deadline=None, max_examples=150)
def test_every_cue_fires_once_in_order_whatever_the_jitter(
    steps: list[float], times: list[float], offset: float
) -> None:
    times.sort()
    house = House(slots(0.0), times=times, generating=(), now=S - 5 - offset, offset=offset)
    number = 0
    while house.wall < S + DURATION + 5:
        house.now += steps[number % len(steps)]
        number += 1
        house.tick()
    assert kinds(house.events) == ["Started", *["Fired"] * len(times), "Ended"]
    assert fired(house.events) == list(range(len(times)))
    for event in house.events:
        if isinstance(event, Started):
            assert event.at == pytest.approx(S - offset, abs=1e-5)
        if isinstance(event, Fired):
            assert event.at == pytest.approx(S - offset + times[event.index], abs=1e-5)


def test_cues_that_share_a_second_all_fire_in_their_order() -> None:
    house = on_air(9.75)
    events = house.play_to(10.0)
    assert events == [Fired(index, S + 10) for index in (2, 3, 4)]


def test_a_late_look_tells_when_the_cue_was_due() -> None:
    house = on_air(9.5)
    assert house.jump_to(11.2) == [Fired(index, S + 10) for index in (2, 3, 4)]


def test_a_screening_that_is_on_already_is_joined_in_the_middle() -> None:
    house = House(slots(0.0), now=S + 12)
    assert house.tick() == [Started(S, scheduled=True), Jumped(5, 12.0, S)]
    assert fired(house.play_to(30.0)) == [5]


def test_one_that_has_just_begun_is_played_from_its_start() -> None:
    house = House(slots(0.0), now=S + 1.5)
    assert house.tick() == [Started(S, scheduled=True), Fired(0, S)]


def test_a_slot_shorter_than_the_piece_cuts_it_off() -> None:
    house = House(slots(0.0, length=40.0))
    house.tick()
    house.play_to(60.0)
    assert fired(house.events) == [0, 1, 2, 3, 4, 5]
    assert kinds(house.events)[-1] == "Ended"
    assert house.head.status == "waiting"


def test_the_next_screening_follows() -> None:
    house = House(slots(0.0, 150.0))
    house.tick()
    house.play_to(300.0)
    assert fired(house.events) == list(range(8)) * 2
    assert [event for event in house.events if isinstance(event, Started)] == [
        Started(S, scheduled=True),
        Started(S + 150, scheduled=True),
    ]


def test_an_overlapping_screening_takes_over() -> None:
    house = House(Slots((ScreeningSlot(S + 50, S + 150), ScreeningSlot(S, S + 100))))
    house.tick()
    house.play_to(160.0)
    assert fired(house.events) == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7]


# ---------------------------------------------------------------- a loop


@pytest.mark.parametrize("gap", [0.0, 0.3, 6.0])
@pytest.mark.parametrize("step", [0.25, 0.7, 1.9])
def test_a_loop_plays_every_round_whole(gap: float, step: float) -> None:
    house = House(EndlessLoop(S, DURATION, gap))
    house.tick()
    house.play_to(5 * (DURATION + gap) - gap + 0.2, step)
    rounds = ["Started", *["Fired"] * 8, "Ended"] * 5
    assert kinds(house.events)[: len(rounds)] == rounds
    assert fired(house.events)[:40] == list(range(8)) * 5


@pytest.mark.parametrize("late", [0.0, 0.4])
def test_a_round_that_ends_tells_when_the_next_one_starts(late: float) -> None:
    house = House(EndlessLoop(S, DURATION))
    house.tick()
    house.play_to(99.5)
    events = house.jump_to(100.0 + late)
    assert kinds(events) == ["Fired", "Ended", "Started", "Fired"]
    assert events[1] == Ended("waiting", S + 100)


def test_the_last_round_but_one_ends_in_no_closing_time() -> None:
    house = House(
        Slots((ScreeningSlot(S, S + 100), ScreeningSlot(S + 100, S + 200)), closed_from=S + 100)
    )
    house.tick()
    house.play_to(200.0)
    assert [event for event in house.events if isinstance(event, Ended)] == [
        Ended("waiting", S + 100),
        Ended("closed", None),
    ]


@given(
    st.floats(1.6e9, 2e9),
    st.floats(-1e5, 1e5),
    st.sampled_from([0.0, 0.0, 1 / 3, 6.0]),
    st.sampled_from([7.0, 30.1, 182.0, 1000 / 3]),
)
@settings(deadline=None, max_examples=150)
def test_driven_by_its_own_wake_up_times_a_loop_is_punctual_and_never_spins(
    anchor: float, offset: float, gap: float, duration: float
) -> None:
    # As playback drives it on a virtual clock: it wakes at the very moment it asked for.
    times = (0.0, 1 / 3, duration / 3, duration)
    loop = EndlessLoop(anchor, duration, gap)
    house = House(
        loop, times=times, generating=(1,), duration=duration, now=anchor - offset, offset=offset
    )
    end = house.now + 6 * (duration + gap)
    looks = 0
    while house.now < end:
        looks += 1
        assert looks < 6 * 12 + 60 + 6 * duration / 0.5
        for event in house.tick():
            if isinstance(event, Fired):
                assert event.at == pytest.approx(house.now, abs=1e-5)
        house.now = min(house.head.wake_at(house.now), house.now + 0.5)
    rounds = ["Started", *["Fired"] * 4, "Ended"] * 5
    assert kinds(house.events)[: len(rounds)] == rounds
    assert fired(house.events)[:20] == [0, 1, 2, 3] * 5


def test_a_wall_clock_a_hair_ahead_does_not_cut_off_the_end() -> None:
    house = House(EndlessLoop(S, DURATION))
    house.tick()
    while house.now < S + 99.5:
        house.now += 0.25
        house.offset += 0.002  # 0.8 s over the screening: a slew, no step
        house.tick()
    house.play_to(110.0)
    assert fired(house.events)[:10] == [*range(8), 0, 1]
    assert kinds(house.events).count("Jumped") == 0
    assert kinds(house.events).count("Ended") == 1


def test_a_wall_clock_a_hair_behind_starts_nothing_twice() -> None:
    house = House(slots(0.0, 100.0))
    house.tick()
    while house.now < S + 105:
        house.now += 0.25
        house.offset -= 0.002
        house.tick()
    assert fired(house.events) == [*range(8), 0]
    assert kinds(house.events).count("Started") == 2


# ---------------------------------------------------------------- lost time


def test_after_a_stall_it_is_where_it_should_be_without_a_burst() -> None:
    house = on_air(4.0)
    assert house.jump_to(45.0) == [Jumped(6, 45.0, S)]
    assert fired(house.play_to(100.0)) == [6, 7]


def test_a_short_stall_fires_late_what_is_hardly_late() -> None:
    house = on_air(4.0)
    assert house.jump_to(6.9) == [Fired(1, S + 5)]


def test_a_stall_in_which_nothing_was_missed_is_nothing() -> None:
    house = on_air(31.0)
    assert house.jump_to(59.0) == []
    assert house.jump_to(61.0) == [Fired(6, S + 60)]


def test_a_stall_past_the_end_ends_it_without_a_burst() -> None:
    house = on_air(4.0)
    events = house.jump_to(250.0)
    events += house.play_to(251.0)
    assert fired(events) == []
    assert kinds(events)[-1] == "Ended"
    assert house.head.status == "waiting"
    assert fired(house.play_to(1000.0)) == [0]


def test_a_stall_into_the_next_screening_joins_that_one() -> None:
    house = on_air(4.0, slots(0.0, 150.0))
    events = house.jump_to(200.0)
    assert fired(events) == []
    assert kinds(events)[-2:] == ["Started", "Jumped"]
    assert house.position == 50.0
    assert fired(house.play_to(210.0)) == [6]


def test_a_stall_into_the_next_screenings_first_second_plays_it_from_its_start() -> None:
    house = on_air(4.0, slots(0.0, 150.0))
    events = house.jump_to(151.0)
    assert fired(events) == [0]
    assert house.position == 1.0


def test_a_stall_off_the_schedule_goes_on_where_the_position_is() -> None:
    house = on_air(4.0)
    house.do(lambda now: house.head.seek(4.0, now))
    assert house.jump_to(45.0) == [Jumped(6, 45.0, S)]
    assert not house.head.on_schedule
    assert fired(house.play_to(100.0)) == [6, 7]


def test_a_stall_past_the_end_off_the_schedule_ends_it() -> None:
    house = on_air(4.0)
    house.do(lambda now: house.head.seek(4.0, now))
    assert house.jump_to(250.0) == [Ended("waiting", S + 1000)]
    assert not house.head.on_schedule
    assert house.play_to(260.0) == []


def test_a_stall_over_the_end_of_a_loops_round_plays_no_old_cues() -> None:
    house = on_air(95.0, EndlessLoop(S, DURATION))
    events = house.jump_to(104.0)
    events += house.play_to(106.0)
    assert kinds(events) == ["Started", "Jumped", "Fired"]
    assert fired(events) == [1]


def test_a_stall_while_paused_loses_nothing() -> None:
    house = on_air(4.0)
    house.head.pause(house.now)
    assert house.jump_to(300.0) == []
    house.head.resume(house.now)
    assert house.play_to(301.0) == [Fired(1, S + 301)]


# ---------------------------------------------------------------- a clock that is set


@pytest.mark.parametrize(
    ("step", "cursor"), [(30.0, 6), (-10.0, 5), (-15.0, 2), (1.5, 5), (-1.5, 5), (70.0, 7)]
)
def test_a_clock_that_is_set_moves_the_show_to_where_it_should_be(step: float, cursor: int) -> None:
    house = on_air(20.0)
    house.offset += step
    assert house.jump_to(20.25) == [Jumped(cursor, 20.25 + step, S - step)]
    assert house.head.on_schedule
    assert fired(house.play_to(99.0 - step))[:1] == ([cursor] if cursor < 7 else [])
    assert house.head.started_at == S - step


@pytest.mark.parametrize("step", [0.9, -0.9, 0.3])
def test_a_small_step_is_ignored(step: float) -> None:
    house = on_air(20.0)
    house.offset += step
    assert house.jump_to(20.25) == []
    assert house.position == 20.25


def test_many_small_slews_add_up_to_one_step() -> None:
    house = on_air(20.0)
    for _ in range(10):
        house.offset += 0.3
        house.play_to(house.now - S + 0.25)
    assert kinds(house.events) == ["Jumped"] * 2
    assert house.position == pytest.approx(house.wall - S, abs=CLOCK_STEP)


@pytest.mark.parametrize("step", [37.0, -37.0, 86_400.0 * 365, -86_400.0 * 3650, 100.0, 1.5])
@pytest.mark.parametrize("gap", [0.0, 7.7])
def test_a_loop_from_its_own_beginning_goes_on_whatever_the_clock_is_set_to(
    step: float, gap: float
) -> None:
    looped = EndlessLoop(S - 0.3, DURATION, gap)
    house, alike = House(looped), House(looped)
    for each in (house, alike):
        each.tick()
        each.play_to(20)
    house.offset += step
    for at in (20.5, 50.0, 99.9, 105.0, 250.0):
        house.play_to(at)
        alike.play_to(at)
        assert house.position == pytest.approx(alike.position, abs=1e-3)
    assert kinds(house.events) == kinds(alike.events)
    assert "Jumped" not in kinds(house.events)
    schedule = house.head.schedule
    assert isinstance(schedule, EndlessLoop)
    assert schedule.anchor == pytest.approx(S - 0.3 + step), "so that a restart finds it there"


def test_what_is_printed_is_the_schedules_own_time_and_not_a_difference_of_clocks() -> None:
    house = House(slots(600.0))
    house.offset = 3600.0 - 7e-6  # two clocks, read in turn
    house.now = S - 3600.0
    house.tick()
    assert house.head.next_start == S + 600.0
    assert house.head.next_at == pytest.approx(S + 600.0 - house.offset)
    house.offset -= 120.0
    house.now += 0.5
    house.tick()
    assert house.head.next_start == S + 600.0
    assert house.head.next_at == pytest.approx(S + 600.0 - house.offset)


def test_set_past_the_end_it_ends() -> None:
    house = on_air(20.0)
    house.offset += 500
    assert house.jump_to(20.25) == [Ended("waiting", S + 500)]


def test_set_back_before_the_start_it_ends_and_starts_again_when_it_is_time() -> None:
    house = on_air(20.0)
    house.offset -= 60
    assert house.jump_to(20.25) == [Ended("waiting", S + 60)]
    assert house.play_to(59.75) == []
    events = house.play_to(160.0)
    assert kinds(events) == ["Started", *["Fired"] * 8, "Ended"]
    assert events[0] == Started(S + 60, scheduled=True)


def test_set_back_after_the_end_it_is_shown_again() -> None:
    house = on_air(110.0)
    house.offset -= 60
    assert kinds(house.jump_to(110.25)) == ["Started", "Jumped"]
    assert house.position == 50.25


def test_set_into_another_screening_it_joins_that_one() -> None:
    house = on_air(20.0, slots(0.0, 150.0))
    house.offset += 190
    events = house.jump_to(20.25)
    assert kinds(events) == ["Started", "Jumped"]
    assert house.position == 60.25


def test_off_the_schedule_a_clock_that_is_set_moves_nothing() -> None:
    house = on_air(20.0)
    house.do(lambda now: house.head.seek(40.0, now))
    house.offset += 30
    assert house.jump_to(20.25) == []
    assert house.position == 40.25


def test_while_nothing_is_on_a_clock_that_is_set_moves_the_start() -> None:
    house = House(slots(100.0))
    house.tick()
    house.offset += 40
    house.jump_to(1.0)
    assert house.head.next_at == S + 60
    assert kinds(house.play_to(60.0)) == ["Started", "Fired"]


# ---------------------------------------------------------------- somebody decides


def test_pause_and_resume_keep_the_position() -> None:
    house = on_air(20.0)
    house.head.pause(house.now)
    assert (house.head.paused, house.head.on_schedule) == (True, False)
    assert house.play_to(60.0) == []
    assert house.position == 20.0
    house.head.pause(house.now)  # again: nothing
    assert house.position == 20.0
    house.head.resume(house.now)
    assert (house.head.paused, house.head.on_schedule) == (False, False)
    assert house.play_to(70.0) == [Fired(5, S + 70)]
    assert house.position == 30.0


def test_paused_it_is_taken_over_by_the_next_screening() -> None:
    house = on_air(20.0, slots(0.0, 150.0))
    house.head.pause(house.now)
    events = house.play_to(150.0)
    assert events == [Started(S + 150, scheduled=True), Fired(0, S + 150)]
    assert (house.head.paused, house.head.on_schedule) == (False, True)


def test_seek_goes_there_and_plays_on_off_the_schedule() -> None:
    house = on_air(20.0)
    assert house.do(lambda now: house.head.seek(58.0, now)) == [Jumped(6, 58.0, S - 38)]
    assert not house.head.on_schedule
    assert house.play_to(22.0) == [Fired(6, S + 22)]
    assert house.play_to(62.0)[-2:] == [Fired(7, S + 62), Ended("waiting", S + 1000)]
    assert not house.head.on_schedule


def test_seek_to_a_cues_very_time_stands_behind_it() -> None:
    house = on_air(20.0)
    assert house.do(lambda now: house.head.seek(10.0, now)) == [Jumped(5, 10.0, S + 10)]
    assert house.jump_to(20.25) == []


def test_seek_works_with_nothing_on() -> None:
    house = House(slots(500.0))
    house.tick()
    assert house.do(lambda now: house.head.seek(50.0, now)) == [
        Started(S - 50, scheduled=False),
        Jumped(6, 50.0, S - 50),
    ]


@pytest.mark.parametrize("position", [-0.001, DURATION, 1e9, math.nan, math.inf])
def test_seek_beyond_the_show_is_refused(position: float) -> None:
    house = on_air(20.0)
    with pytest.raises(PlayheadError) as caught:
        house.head.seek(position, house.now)
    assert caught.value.code == "out_of_range"
    assert house.head.on_schedule
    assert house.position == 20.0


def test_go_fires_the_next_cue_that_draws_and_goes_on_from_there() -> None:
    house = on_air(20.0)
    assert house.head.standby == 5
    assert house.do(house.head.go) == [
        Jumped(5, 30.0, S - 10, keep_picture=True),
        Fired(5, S + 20),
    ]
    assert (house.position, house.head.cursor, house.head.on_schedule) == (30.0, 6, False)
    assert house.play_to(50.0) == [Fired(6, S + 50)]


def test_go_may_name_a_cue_also_one_that_draws_nothing() -> None:
    house = on_air(20.0)
    assert house.do(lambda now: house.head.go(now, 2)) == [
        Jumped(2, 10.0, S + 10, keep_picture=False),
        Fired(2, S + 20),
    ]
    # those that share its second follow
    assert house.jump_to(20.25) == [Fired(3, S + 20), Fired(4, S + 20)]


def test_go_with_nothing_on_starts_the_show() -> None:
    house = House(Schedule())
    assert house.tick() == []
    assert house.do(house.head.go) == [Started(S, scheduled=False)]
    assert fired(house.play_to(100.0)) == list(range(8))
    assert kinds(house.events)[-1] == "Ended"
    assert house.head.status == "waiting"
    # and again
    assert house.do(house.head.go) == [Started(S + 100, scheduled=False)]
    assert fired(house.play_to(200.0)) == list(range(8))


def test_go_at_the_end_says_that_nothing_is_left() -> None:
    house = on_air(70.0)
    with pytest.raises(PlayheadError) as caught:
        house.head.go(house.now)
    assert caught.value.code == "no_standby"
    assert house.head.on_schedule
    assert house.position == 70.0


@pytest.mark.parametrize("index", [-1, 8, 10**9])
def test_a_cue_that_does_not_exist_is_refused(index: int) -> None:
    house = on_air(20.0)
    for move in (lambda: house.head.go(house.now, index), lambda: house.head.stand_by(index)):
        with pytest.raises(PlayheadError) as caught:
            move()
        assert caught.value.code == "unknown_cue"
    assert house.head.on_schedule


def test_next_and_previous_move_between_cues_that_draw() -> None:
    house = on_air(20.0)
    assert fired(house.do(house.head.next)) == [5]
    assert fired(house.do(house.head.next)) == [6]
    with pytest.raises(PlayheadError) as caught:
        house.head.next(house.now)
    assert caught.value.code == "no_such_cue"
    # within three seconds of its start it goes before it, later back to it
    assert fired(house.do(house.head.previous)) == [5]
    house.play_to(24.0)
    assert fired(house.do(house.head.previous)) == [5]
    house.play_to(26.0)
    assert fired(house.do(house.head.previous)) == [3]


def test_previous_has_somewhere_to_go_only_after_the_first() -> None:
    house = on_air(4.0)
    with pytest.raises(PlayheadError) as caught:
        house.head.previous(house.now)
    assert caught.value.code == "no_such_cue"
    house.play_to(6.0)
    assert fired(house.do(house.head.previous)) == [1]  # the first is all there is
    idle = House(slots(500.0))
    idle.tick()
    with pytest.raises(PlayheadError) as caught:
        idle.head.previous(idle.now)
    assert caught.value.code == "no_such_cue"


def test_next_with_nothing_on_begins_with_the_first_cue_that_draws() -> None:
    house = House(slots(500.0))
    house.tick()
    assert house.do(house.head.next) == [
        Started(S - 5, scheduled=False),
        Jumped(1, 5.0, S - 5, keep_picture=True),
        Fired(1, S),
    ]


def test_standby_says_what_go_fires() -> None:
    house = on_air(20.0)
    house.head.stand_by(6)
    assert house.head.standby == 6
    assert house.head.on_schedule
    assert fired(house.do(house.head.go)) == [6]
    assert house.head.standby is None


def test_standby_may_be_a_cue_that_has_been() -> None:
    house = on_air(20.0)
    house.head.stand_by(1)
    house.play_to(31.0)
    assert house.head.standby == 1
    assert fired(house.do(house.head.go)) == [1]


def test_standby_is_over_once_the_show_itself_fires_it() -> None:
    house = on_air(20.0)
    house.head.stand_by(5)
    house.play_to(31.0)
    assert house.head.standby == 6


def test_rejoin_goes_back_to_where_the_schedule_is() -> None:
    house = on_air(20.0)
    house.do(house.head.go)
    house.play_to(40.0)
    events = house.do(lambda now: house.head.rejoin(now, house.wall))
    assert events == [Jumped(6, 40.0, S)]
    assert (house.head.on_schedule, house.position) == (True, 40.0)
    assert fired(house.play_to(100.0)) == [6, 7]


def test_rejoin_ends_a_pause() -> None:
    house = on_air(20.0)
    house.head.pause(house.now)
    house.play_to(40.0)
    house.do(lambda now: house.head.rejoin(now, house.wall))
    assert (house.head.paused, house.position) == (False, 40.0)


def test_rejoin_with_nothing_scheduled_ends_what_was_started_by_hand() -> None:
    house = House(slots(500.0))
    house.tick()
    house.do(house.head.go)
    house.play_to(20.0)
    events = house.do(lambda now: house.head.rejoin(now, house.wall))
    assert events == [Ended("waiting", S + 500)]
    assert house.head.on_schedule
    assert house.do(lambda now: house.head.rejoin(now, house.wall)) == []
    assert kinds(house.play_to(500.0)) == ["Started", "Fired"]


def test_rejoin_begins_a_screening_again_that_was_played_to_its_end_by_hand() -> None:
    house = on_air(20.0)
    house.do(lambda now: house.head.seek(99.0, now))
    house.play_to(30.0)
    assert house.head.status == "waiting"
    events = house.do(lambda now: house.head.rejoin(now, house.wall))
    assert kinds(events) == ["Started", "Jumped"]
    assert house.position == 30.0


def test_off_the_schedule_it_stays_until_the_next_screening() -> None:
    house = on_air(20.0, slots(0.0, 150.0))
    house.do(lambda now: house.head.seek(0.0, now))
    events = house.play_to(119.0)
    assert not house.head.on_schedule
    assert fired(events) == [1, 2, 3, 4, 5, 6]
    events = house.play_to(150.0)
    assert kinds(events) == ["Fired", "Ended", "Started", "Fired"]
    assert house.head.on_schedule


@pytest.mark.parametrize("move", ["pause", "resume"])
def test_there_is_nothing_to_pause_or_resume(move: str) -> None:
    house = House(slots(500.0))
    house.tick()
    with pytest.raises(PlayheadError) as caught:
        getattr(house.head, move)(house.now)
    assert caught.value.code == ("not_active" if move == "pause" else "not_paused")
    assert house.head.on_schedule


def test_by_hand_nothing_happens_by_itself() -> None:
    house = House(Schedule())
    house.tick()
    assert house.play_to(500.0, 1.0) == []
    assert house.head.wake_at(house.now) == math.inf
    assert (house.head.status, house.head.next_at) == ("waiting", None)


# ---------------------------------------------------------------- closing


def test_closing_time_is_told_once() -> None:
    schedule = Slots(
        (ScreeningSlot(S, S + 100), ScreeningSlot(S + 5000, S + 5100)), closed_from=S + 200
    )
    house = House(schedule)
    house.tick()
    house.play_to(199.0)
    assert house.events[-1] == Ended("waiting", S + 5000)
    assert house.play_to(300.0) == [Ended("closed", S + 5000)]
    assert house.head.status == "closed"


def test_the_last_screening_ends_in_closing_time() -> None:
    house = House(Slots((ScreeningSlot(S, S + 100),), closed_from=S + 100))
    house.tick()
    assert house.play_to(101.0)[-1] == Ended("closed", None)
    assert house.head.next_at is None


def test_started_by_hand_at_night_it_is_not_closed() -> None:
    house = House(Slots((), closed_from=0.0))
    assert house.tick() == [Ended("closed", None)]
    house.do(house.head.go)
    assert house.head.status == "active"
    assert house.play_to(1.0) == [Fired(0, S)]
    assert house.play_to(100.0)[-1] == Ended("closed", None)


def test_it_wakes_for_the_next_cue_the_end_and_the_next_screening() -> None:
    house = House(slots(10.0, 500.0))
    house.tick()
    wakes = []
    while house.now < S + 111:
        house.now = house.head.wake_at(house.now)
        wakes.append(house.now - S)
        house.tick()
    assert wakes == [10.0, 15.0, 20.0, 40.0, 70.0, 110.0, 500.0]


# ---------------------------------------------------------------- anything at any time


class Anything(RuleBasedStateMachine):
    """Clocks and people do what they like; what holds, holds all the same."""

    house: House
    expected: int | None
    """The cue that must fire next, as the events have told; None where nothing plays."""

    @initialize(
        schedule=st.sampled_from(
            [
                slots(10.0, 150.0, 400.0),
                slots(0.0, 100.0, 200.0, length=70.0),
                EndlessLoop(S, DURATION),
                EndlessLoop(S + 33.3, DURATION, 7.7),
                Schedule(),
            ]
        )
    )
    def begin(self, schedule: Schedule) -> None:
        self.house = House(schedule)
        self.expected = None
        self.note(self.house.tick())

    def note(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Started(at=at):
                    assert at <= self.house.now + 1e-6
                    self.expected = 0
                case Fired(index=index, at=at):
                    assert index == self.expected
                    assert at <= self.house.now + 1e-6
                    assert self.house.now - at <= BURST + 1e-6, "a burst"
                    self.expected = index + 1
                case Jumped(index=index, position=position):
                    assert self.expected is not None
                    assert 0 <= position <= DURATION + 1e-6
                    self.expected = index
                case Ended(status=status):
                    assert status != "active"
                    self.expected = None
        assert (self.expected is not None) == (self.house.head.status == "active")
        if self.expected is not None:
            assert self.house.head.cursor == self.expected

    def look(self) -> None:
        wake = self.house.head.wake_at(self.house.now)
        assert wake >= self.house.now
        self.note(self.house.tick())
        # on schedule it stands where the schedule says
        head = self.house.head
        slot = head.schedule.slot_at(self.house.wall)
        if head.on_schedule and slot is not None and head.started_at is not None:
            position = self.house.position
            assert position is not None
            should = self.house.wall - slot.start
            # ... but for a round that is just ending by the steady clock
            assert (
                abs(position - should) <= CLOCK_STEP + 0.01
                or abs(position - DURATION) <= CLOCK_STEP
            )
        if head.on_schedule and slot is not None and head.started_at is None:
            assert slot.end - self.house.wall <= CLOCK_STEP + 0.01, "dark in a screening"
        if head.on_schedule and slot is None:
            started = head.started_at
            since = None if started is None else self.house.now - started
            # ... but for one that has just begun, before whose start the clock was slewed back.
            just_begun = since is not None and since <= CLOCK_STEP + 0.01
            assert since is None or just_begun or since >= 70.0 - CLOCK_STEP - 0.01

    @rule(seconds=st.floats(0.01, BURST - 0.01))
    def time_passes(self, seconds: float) -> None:
        wake = self.house.head.wake_at(self.house.now)
        before = len(self.house.events)
        self.house.now += seconds
        quiet = self.house.now < wake - CLOCK_STEP  # slews move the next start by no more
        self.look()
        if quiet:
            assert len(self.house.events) == before, "something happened before it woke"

    @rule(steps=st.integers(1, 120))
    def much_time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.house.now += 0.7
            self.look()

    @rule()
    def it_wakes(self) -> None:
        wake = self.house.head.wake_at(self.house.now)
        if wake - self.house.now < BURST:
            self.house.now = wake
            self.look()

    @rule(seconds=st.floats(BURST + 0.01, 500.0))
    def nobody_looks_for_a_while(self, seconds: float) -> None:
        self.house.now += seconds
        self.look()
        for _ in range(3):
            self.house.now += 0.1
            self.look()

    @rule(seconds=st.floats(CLOCK_STEP + 0.5, 300.0), forward=st.booleans())
    def the_clock_is_set(self, seconds: float, forward: bool) -> None:
        self.house.offset += seconds if forward else -seconds
        self.house.now += 0.1
        self.look()

    @rule(seconds=st.floats(-0.2, 0.2))
    def the_clock_is_slewed(self, seconds: float) -> None:
        self.house.offset += seconds
        self.house.now += 0.1
        self.look()

    def try_to(self, move: Callable[[float], list[Event] | None]) -> None:
        position, on_schedule = self.house.position, self.house.head.on_schedule
        try:
            events = move(self.house.now) or []
        except PlayheadError:
            assert self.house.position == position
            assert self.house.head.on_schedule == on_schedule
            return
        self.house.events += events
        self.note(events)

    @rule(index=st.none() | st.integers(-1, 8))
    def go(self, index: int | None) -> None:
        self.try_to(lambda now: self.house.head.go(now, index))

    @rule(position=st.floats(-1, DURATION + 1))
    def seek(self, position: float) -> None:
        self.try_to(lambda now: self.house.head.seek(position, now))

    @rule(index=st.integers(-1, 8))
    def stand_by(self, index: int) -> None:
        self.try_to(lambda _now: self.house.head.stand_by(index))

    @rule()
    def next(self) -> None:
        self.try_to(self.house.head.next)

    @rule()
    def previous(self) -> None:
        self.try_to(self.house.head.previous)

    @rule(seconds=st.floats(0.1, 20))
    def pause_and_wait(self, seconds: float) -> None:
        self.try_to(self.house.head.pause)
        if self.house.head.paused:
            at = self.house.position
            self.house.now += seconds
            self.look()
            assert self.house.position == at or not self.house.head.paused

    @precondition(lambda self: self.house.head.paused)
    @rule()
    def resume(self) -> None:
        at = self.house.position
        self.try_to(self.house.head.resume)
        assert self.house.position == pytest.approx(at, abs=1e-6)

    @rule()
    def rejoin(self) -> None:
        self.try_to(lambda now: self.house.head.rejoin(now, self.house.wall))
        assert self.house.head.on_schedule

    @invariant()
    def standby_is_a_cue(self) -> None:
        standby = self.house.head.standby
        assert standby is None or 0 <= standby < len(TIMES)


def test_whatever_clocks_and_people_do() -> None:
    run_state_machine_as_test(
        Anything, settings=settings(deadline=None, max_examples=120, stateful_step_count=30)
    )


# ------------------------------------------------- entered in its middle, and in other haste


def entered(at: float) -> House:
    """A screening of which what is before `at` is left out."""
    slot = ScreeningSlot(S - at, S - at + DURATION, enters=at)
    return House(Slots((slot,)))


def test_entered_between_two_cues_the_stage_is_set_there_and_nothing_is_fired() -> None:
    events = entered(15.0).tick()
    assert events == [Started(S - 15, scheduled=True), Jumped(5, 15.0, S - 15)]


def test_a_cue_that_is_due_where_it_is_entered_is_fired_there() -> None:
    started, jumped, *events = entered(10.0).tick()
    assert started == Started(S - 10, scheduled=True)
    # One of them draws: the picture before it is not drawn first.
    assert jumped == Jumped(2, 10.0, S - 10, keep_picture=True)
    assert events == [Fired(2, S), Fired(3, S), Fired(4, S)]


def test_entered_late_it_is_where_it_should_be_by_now() -> None:
    house = entered(15.0)
    house.now = S + 7.0
    (_, jumped) = house.tick()[:2]
    assert isinstance(jumped, Jumped)
    assert jumped.position == 22.0


def test_in_haste_a_little_lost_time_is_more_of_the_show() -> None:
    house = House(slots(0.0, 1000.0))
    house.head = Playhead(TIMES, GENERATING, DURATION, house.schedule, burst=120.0)
    house.tick()
    events = house.jump_to(31.0)  # half a second, at sixty times the speed
    assert "Jumped" not in kinds(events)
    assert fired(events) == [index for index, at in enumerate(TIMES) if 0 < at <= 31]
