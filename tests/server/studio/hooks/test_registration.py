"""What a webhook may be."""

from __future__ import annotations

from typing import Any

import pytest

from generator.guarded_outgoing import reach_of
from generator.hook_secrets import new_secret
from server.studio.hooks.messages import USUAL_EVENTS
from server.studio.hooks.registration import BadHook, checked_hook

URL = "https://hook.example/told"


def test_an_address_alone_is_a_hook() -> None:
    hook = checked_hook({"url": URL})
    assert (hook.url, hook.host, hook.events) == (URL, "hook.example:443", USUAL_EVENTS)
    assert hook.secret != checked_hook({"url": URL}).secret


def test_a_secret_of_the_members_own_is_taken() -> None:
    secret = new_secret().get_secret_value()
    hook = checked_hook({"url": URL, "secret": secret, "events": ["item.ready", "item.ready"]})
    assert hook.secret.get_secret_value() == secret
    assert secret not in repr(hook)
    assert hook.events == ("item.ready",)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (None, None),
        ([], None),
        ("https://hook.example", None),
        ({}, "url"),
        ({"url": 5}, "url"),
        ({"url": "http://hook.example/"}, "url"),
        ({"url": "https://127.0.0.1/"}, "url"),
        ({"url": "https://me:hunter2@hook.example/"}, "url"),
        ({"url": "https://hook.example/" + "x" * 2048}, "url"),
        ({"url": URL, "secret": "hunter2"}, "secret"),
        ({"url": URL, "secret": 5}, "secret"),
        ({"url": URL, "events": []}, "events"),
        ({"url": URL, "events": "job.completed"}, "events"),
        ({"url": URL, "events": ["job.finished"]}, "events"),
        ({"url": URL, "events": [["job.completed"]]}, "events"),
        ({"url": URL, "events": {"job.completed": True}}, "events"),
        ({"url": URL, "name": "x"}, "name"),
    ],
)
def test_what_cannot_be_a_hook_is_told_by_its_field(document: Any, field: str | None) -> None:
    with pytest.raises(BadHook) as found:
        checked_hook(document)
    assert found.value.field == field
    assert "expected" in str(found.value)
    assert "hunter2" not in str(found.value)


def test_what_the_settings_let_it_reach_may_be_told() -> None:
    url = "http://127.0.0.1:8080/"
    assert checked_hook({"url": url}, reach_of(["127.0.0.0/8"])).host == "127.0.0.1:8080"
    with pytest.raises(BadHook):
        checked_hook({"url": url}, reach_of(["10.0.0.0/8"]))
