from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from server.modes.breaker import GRACE, LONGEST_REST, REST, Breaker
from server.providers.budget import HOUR, Budget


def test_it_rests_is_due_has_its_grace_and_is_trusted() -> None:
    breaker = Breaker()
    assert breaker.health(0).state == "untried"
    assert breaker.health(0).usable
    breaker.failed(0, "no frame in time")
    resting = breaker.health(REST - 0.1)
    assert (resting.state, resting.until, resting.usable) == ("resting", REST, False)
    assert (resting.failures, resting.reason) == (1, "no frame in time")
    assert breaker.health(REST).state == "due"
    assert not breaker.health(1e6).usable, "never without a probe"
    breaker.probe_ok(100)
    grace = breaker.health(100)
    assert (grace.state, grace.until, grace.usable) == ("grace", 100 + GRACE, False)
    trusted = breaker.health(100 + GRACE)
    assert (trusted.state, trusted.usable) == ("trusted", True)


def test_each_failure_in_a_row_rests_it_twice_as_long_up_to_a_limit() -> None:
    breaker = Breaker()
    rests: list[float] = []
    for _ in range(9):
        breaker.failed(0, "why")
        rests.append(breaker.health(0).until or 0)
    assert rests[:4] == [REST, 2 * REST, 4 * REST, 8 * REST]
    assert rests[-1] == LONGEST_REST


def test_only_a_picture_for_the_stage_makes_its_failures_forgotten() -> None:
    breaker = Breaker()
    breaker.failed(0, "why")
    breaker.probe_ok(20)
    breaker.failed(60, "again")
    assert breaker.health(60).until == 60 + 2 * REST
    breaker.probe_ok(100)
    assert breaker.health(200).failures == 2
    breaker.succeeded()
    assert breaker.health(200).failures == 0
    breaker.failed(300, "later")
    assert breaker.health(300).until == 300 + REST


def test_a_picture_that_comes_while_it_rests_does_not_end_its_rest() -> None:
    breaker = Breaker()
    breaker.failed(0, "why")
    breaker.succeeded()
    assert breaker.health(1).state == "resting"


def test_a_hand_resets_it() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0, "why")
    breaker.reset()
    health = breaker.health(0)
    assert (health.state, health.failures, health.reason) == ("untried", 0, "")


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(["failed", "proved", "gave", "wait"]), st.floats(0, 900)))
)
def test_whatever_happens_it_is_never_trusted_without_a_proof_since_it_failed(
    events: list[tuple[str, float]],
) -> None:
    breaker, now, failed_at, proved_at = Breaker(), 0.0, -1.0, -1.0
    for what, seconds in events:
        now += seconds
        match what:
            case "failed":
                breaker.failed(now, "why")
                failed_at = now
            case "proved":
                if breaker.health(now).state in {"due", "untried"}:
                    breaker.probe_ok(now)
                    proved_at = now
            case "gave":
                if breaker.health(now).usable:
                    breaker.succeeded()
        health = breaker.health(now)
        assert (health.until is None) == (health.state not in {"resting", "grace"})
        if health.until is not None:
            assert now < health.until <= now + LONGEST_REST
        if failed_at >= 0 and health.usable:
            assert proved_at > failed_at or (proved_at == failed_at and seconds == 0)
            assert now >= proved_at + GRACE or seconds == 0


def test_a_budget_without_caps_refuses_nothing() -> None:
    budget = Budget()
    with budget.run(0), budget.run(0), budget.run(0):
        assert budget.refusal(0) is None


def test_runs_of_the_last_hour_count_and_no_longer() -> None:
    budget = Budget(per_hour=2)
    for at in (0.0, 600.0):
        assert budget.refusal(at) is None
        with budget.run(at):
            pass
    assert budget.refusal(700) == "the 2 live runs of this hour are spent"
    assert budget.refusal(HOUR - 1) is not None
    assert budget.refusal(HOUR) is None


def test_runs_at_once_count_while_they_last() -> None:
    budget = Budget(at_once=1)
    with budget.run(0):
        assert "at once" in str(budget.refusal(0))
    assert budget.refusal(0) is None
