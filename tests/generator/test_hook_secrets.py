"""Secrets that webhooks are signed with, as the standard's own library takes them."""

from __future__ import annotations

import base64

import pytest
from standardwebhooks import Webhook

from generator.hook_secrets import is_secret, new_secret


def test_each_new_secret_is_one_and_nobody_elses() -> None:
    made = {new_secret().get_secret_value() for _ in range(20)}
    assert len(made) == 20
    for secret in made:
        assert is_secret(secret)
        Webhook(secret)


@pytest.mark.parametrize(("size", "right"), [(23, False), (24, True), (64, True), (65, False)])
def test_a_secret_is_as_long_as_the_standard_says(size: int, right: bool) -> None:
    assert is_secret("whsec_" + base64.b64encode(b"x" * size).decode()) is right


@pytest.mark.parametrize(
    "text", ["", "whsec_", "x" * 40, "whsec_" + "?" * 40, "whsec_ü" + "a" * 40]
)
def test_what_is_no_secret(text: str) -> None:
    assert not is_secret(text)
