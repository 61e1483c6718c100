"""The webhook by which generators answer: whose word it is, and for which drawing.

Signed as Standard Webhooks has it (github.com/standard-webhooks/standard-webhooks): the headers
`webhook-id`, `webhook-timestamp` in Unix seconds, and `webhook-signature`, ``v1,`` and the
HMAC-SHA256 of ``{id}.{timestamp}.{body}`` in base64; several, separated by blanks, while a secret
is replaced. The `standardwebhooks` library makes the signature that is compared; its own `verify`
reads the time itself, and lets a malformed header out as any sort of error.

A generator sends again until it is answered with a 2xx. So whatever is properly signed and has
nobody waiting for it is answered well, and has no effect: it came twice, or too late.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import structlog
from pydantic import SecretStr
from standardwebhooks import Webhook

from cache.threads import offload_large
from cache.untrusted import UNIX_TIME_LIMIT, Unfit, one_line, whole_number
from generator.engines.callback.answer import MAX_BODY, answer_of, read_fields
from generator.engines.callback.settings import CallbackSection
from generator.engines.inbox import Inbox, LateAnswer

_log = structlog.get_logger(__name__)

TOLERANCE: Final = 300.0
"""Seconds by which the sender's clock and the way here may differ from ours."""

MAX_CALLBACK: Final = MAX_BODY
"""Bytes of a webhook's body."""

CallbackCode = Literal["bad_signature", "expired", "too_large", "bad_request"]
"""Why a webhook is not taken: it is answered 401, 401, 413 or 400, and is sent again."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_ID: Final = 200


@dataclass(frozen=True, slots=True)
class CallbackRefusal:
    """Why a webhook is refused.

    Attributes:
        code: for programs.
        message: what was expected, for whoever wrote the generator.
    """

    code: CallbackCode
    message: str


@dataclass(frozen=True, slots=True)
class CallbackReceipt:
    """How a webhook is to be answered.

    Attributes:
        effect: whether a drawing came to its end by it.
        refusal: why it is refused; None where it is answered 200, with an effect or without.
    """

    effect: bool
    refusal: CallbackRefusal | None = None


class _NotTaken(Exception):
    """A webhook that is not taken."""

    def __init__(self, code: CallbackCode, message: str) -> None:
        super().__init__(message)
        self.refusal = CallbackRefusal(code, message)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A webhook whose signature is good.

    Attributes:
        drawing: which it is for.
        answer: what became of it.
        flaw: what is wrong with it; empty for nothing.
    """

    drawing: str
    answer: LateAnswer
    flaw: str = ""


class CallbackInbox(Inbox):
    """An inbox whose answers come by signed webhooks.

    Args:
        secret: what they are signed with, ``whsec_…``; two, with a blank between, while one
            replaces the other.
    """

    def __init__(self, secret: SecretStr) -> None:
        super().__init__()
        self._signers = [Webhook(each) for each in secret.get_secret_value().split()]

    async def deliver(self, headers: Mapping[str, str], body: bytes, now: float) -> CallbackReceipt:
        """Take in a webhook.

        Args:
            headers: of its request, under whatever case of letters.
            body: of its request, as it came: the signature is of its bytes. Whoever reads it
                need read no more than `MAX_CALLBACK` and one byte.
            now: Unix time.
        """
        try:
            lower = {name.lower(): value for name, value in headers.items()}
            opened = await offload_large(len(body), lambda: self._opened(lower, body, now))
        except _NotTaken as error:
            refusal = error.refusal
            _log.warning("callback_refused", code=refusal.code, reason=refusal.message)
            return CallbackReceipt(False, refusal)
        effect = self.hand_in(opened.drawing, opened.answer)
        _log.info("callback_taken", drawing=opened.drawing, effect=effect)
        if effect and opened.flaw:
            return CallbackReceipt(True, CallbackRefusal("bad_request", opened.flaw))
        return CallbackReceipt(effect)

    def _opened(self, headers: Mapping[str, str], body: bytes, now: float) -> _Opened:
        """Check the signature, then read what is signed: nothing else is read.

        Raises:
            _NotTaken: it is not to be taken.
        """
        if len(body) > MAX_CALLBACK:
            raise _NotTaken("too_large", f"expected at most {MAX_CALLBACK} bytes")
        self._check_signature(headers, body, now)
        try:
            fields = read_fields(body)
        except Unfit as error:
            raise _NotTaken("bad_request", str(error)) from None
        drawing = fields.get("job_id")
        if not isinstance(drawing, str) or not drawing:
            raise _NotTaken("bad_request", "job_id: expected the id that the request came with")
        drawing = one_line(drawing, _LONGEST_ID)
        try:
            answer = answer_of(fields)
        except Unfit as error:
            # It would be no better the next time: the drawing is over.
            return _Opened(drawing, LateAnswer(error=str(error)), flaw=str(error))
        if answer is None:
            raise _NotTaken("bad_request", "status: expected 'completed' or 'failed'")
        return _Opened(drawing, answer)

    def _check_signature(self, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """Raises `_NotTaken` for what is unsigned, forged or out of time."""
        message, timestamp, signatures = (
            headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
        )
        at = whole_number(timestamp, 0, int(UNIX_TIME_LIMIT))
        if not message or at is None or not signatures:
            raise _NotTaken(
                "bad_signature",
                "expected the headers webhook-id, webhook-timestamp (Unix seconds) and "
                "webhook-signature (v1,…) of Standard Webhooks",
            )
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise _NotTaken("bad_signature", "expected a body in UTF-8") from None
        when = _EPOCH + timedelta(seconds=at)
        given = [each.encode() for each in signatures.split()]
        expected = [signer.sign(message, when, text).encode() for signer in self._signers]
        if not any(hmac.compare_digest(one, other) for one in given for other in expected):
            variable = CallbackSection.secret_variable
            raise _NotTaken("bad_signature", f"expected a signature by the secret in {variable}")
        if abs(now - at) > TOLERANCE:
            raise _NotTaken(
                "expired", f"expected a webhook-timestamp within {TOLERANCE:g} s of our clock"
            )


def callback_inbox(secrets: Mapping[str, SecretStr]) -> CallbackInbox | None:
    """The inbox for this kind's webhooks; None where no secret is set, and none is taken.

    Args:
        secrets: what engines sign their answers with, by their kind.
    """
    secret = secrets.get(CallbackSection.model_fields["kind"].default)
    return None if secret is None else CallbackInbox(secret)
