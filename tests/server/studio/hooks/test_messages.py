"""What is sent, as a receiver sees it that has only the standard's own library."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from pydantic import SecretStr

from generator.hook_secrets import new_secret
from generator.jobs.model import Item, Job, Problem, take_id
from server.studio.hooks.messages import (
    LONGEST_REST,
    SCHEDULE,
    Happening,
    HookImage,
    body_of,
    headers_of,
    message_id,
    rest_after,
    seconds_to_wait,
)
from tests.server.studio.hooks.receivers import verifies

HOUR = 3600.0
JOB = "0b6ff3e5-6d2e-4fd5-8ae0-5a6d3a2f2a0e"
BODY = '{"type":"job.completed","data":{"text":"Grüße, 絵"}}'


def job(status: Any = "completed") -> Job:
    made = (
        Item(0, "ready", 1000, take_id(JOB, 0)),
        Item(1, "failed", 1001, take_id(JOB, 1), Problem("refused", "too large")),
        Item(2, "ready", 1002, take_id(JOB, 2)),
    )
    return Job(JOB, "draw", "ada", status, 5, {}, made, created_at=0.0)


IMAGES = [
    HookImage(n, take_id(JOB, n), 1000 + n, f"https://studio/takes/{n}", f"{n:064x}")
    for n in (0, 2)
]


def happened(kind: Any, **data: Any) -> Happening:
    return Happening(kind, 1_700_000_000.25, JOB, data)


def test_a_receiver_with_the_secret_knows_our_message() -> None:
    secret = new_secret()
    headers = headers_of("msg_1", BODY, time.time(), [secret])
    assert verifies(secret.get_secret_value(), BODY.encode(), headers)
    assert headers["content-type"] == "application/json"


def test_forged_altered_and_old_messages_are_seen_through() -> None:
    secret, other = new_secret().get_secret_value(), new_secret()
    now = time.time()
    right = headers_of("msg_1", BODY, now, [SecretStr(secret)])
    assert verifies(secret, BODY.encode(), right)
    assert not verifies(secret, BODY.encode(), headers_of("msg_1", BODY, now, [other]))
    assert not verifies(secret, BODY.replace("completed", "failed").encode(), right)
    assert not verifies(secret, BODY.encode(), {**right, "webhook-id": "msg_2"})
    # Replayed later: the time is signed, and one that is put right does not fit the signature.
    old = headers_of("msg_1", BODY, now - 600.0, [SecretStr(secret)])
    assert not verifies(secret, BODY.encode(), old)
    assert not verifies(
        secret, BODY.encode(), {**old, "webhook-timestamp": right["webhook-timestamp"]}
    )


def test_while_a_secret_is_changed_both_receivers_know_our_message() -> None:
    new, old, other = new_secret(), new_secret(), new_secret()
    headers = headers_of("msg_1", BODY, time.time(), [new, old])
    assert headers["webhook-signature"].count("v1,") == 2
    assert verifies(new.get_secret_value(), BODY.encode(), headers)
    assert verifies(old.get_secret_value(), BODY.encode(), headers)
    assert not verifies(other.get_secret_value(), BODY.encode(), headers)


def test_a_job_that_ended_is_told_with_its_pictures_and_what_failed() -> None:
    body = json.loads(body_of(happened("job.completed", partial=True), job(), IMAGES))
    assert body == {
        "type": "job.completed",
        "timestamp": "2023-11-14T22:13:20.250Z",
        "data": {
            "job": JOB,
            "status": "completed",
            "partial": True,
            "images": [
                {
                    "n": n,
                    "take": take_id(JOB, n),
                    "seed": 1000 + n,
                    "url": f"https://studio/takes/{n}",
                    "sha256": f"{n:064x}",
                }
                for n in (0, 2)
            ],
            "errors": [{"n": 1, "code": "refused", "message": "too large"}],
        },
    }


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("job.queued", "queued"),
        ("job.started", "processing"),
        ("job.completed", "completed"),
        ("job.failed", "failed"),
        ("job.cancelled", "cancelled"),
    ],
)
def test_an_event_tells_what_the_job_was_then_and_not_what_it_is(kind: str, status: str) -> None:
    body = json.loads(body_of(happened(kind), job("queued"), []))
    assert body["data"]["status"] == status


def test_an_items_event_tells_of_that_item_alone() -> None:
    ready = json.loads(body_of(happened("item.ready", n=2), job("processing"), IMAGES))["data"]
    assert (ready["item"], ready["status"]) == (2, "processing")
    assert [image["n"] for image in ready["images"]] == [2]
    assert ready["errors"] == []
    failed = json.loads(body_of(happened("item.failed", n=1), job(), IMAGES))["data"]
    assert (failed["images"], [error["n"] for error in failed["errors"]]) == ([], [1])


def test_ten_tries_are_made_over_three_days() -> None:
    rests = [rest_after(tries, 0.5, None) for tries in range(1, 11)]
    assert rests[:-1] == [
        *(5.0, 300.0, 1800.0, 2 * HOUR, 5 * HOUR),
        *(10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
    ]
    assert rests[-1] is None
    assert len(SCHEDULE) == 10
    assert 3 * 24 * HOUR < sum(rest for rest in rests if rest is not None) < 3.5 * 24 * HOUR


def test_what_failed_together_is_not_tried_again_together() -> None:
    rests = {rest_after(4, chance / 10, None) for chance in range(11)}
    assert len(rests) == 11
    assert all(rest is not None and 1.8 * HOUR <= rest <= 2.2 * HOUR for rest in rests)


def test_a_receiver_may_put_off_the_next_try_but_not_for_ever() -> None:
    assert rest_after(1, 0.5, 60.0) == 60.0
    assert rest_after(2, 0.5, 60.0) == 300.0  # nor have it sooner, and so have all of them soon
    assert rest_after(1, 0.5, 1e9) == LONGEST_REST
    assert rest_after(10, 0.5, 60.0) is None


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "120", 120.0),
        (503, " 7 ", 7.0),
        (429, "Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        (429, "Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        (429, "Tue, 14 Nov 2099 22:00:00 GMT", LONGEST_REST),
        (429, "9" * 400, LONGEST_REST),
        (429, "-5", None),
        (429, "soon", None),
        (429, "٣", None),
        (429, "", None),
        (429, None, None),
        (500, "120", None),
        (200, "120", None),
    ],
)
def test_who_is_too_busy_says_for_how_long(
    status: int, header: str | None, seconds: float | None
) -> None:
    assert seconds_to_wait(status, header, 1_700_000_000.0) == seconds


def test_a_message_has_one_id_for_each_hook_and_event() -> None:
    assert message_id("a", 1) == message_id("a", 1)
    assert len({message_id(hook, event) for hook in "ab" for event in range(5)}) == 10
