"""The Studio's word to the server that plays the show: that there is something new in the store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import httpx
import structlog
from pydantic import SecretStr

from cache.outgoing import reason_of, redacted
from cache.untrusted import Unfit, decode_answer, one_line
from generator.outgoing import Client, ask, bearer

_log = structlog.get_logger(__name__)

_WITHIN: Final = 5.0
_LONGEST: Final = 64 * 1024
_MOST_SAID: Final = 200


@dataclass(frozen=True, slots=True)
class ShowLink:
    """A server's control API, as a client of it.

    Nothing depends on its answer: a server that hears nothing looks at the store each minute.

    Attributes:
        url: of the server.
        token: an operator's; None where it wants none.
        client: see `outgoing_client`.
    """

    url: str
    token: SecretStr | None
    client: Client

    async def refresh_sets(self) -> str | None:
        """Have the server look at the store now; why it did not, in a line, None where it did."""
        url = f"{self.url.rstrip('/')}/api/control/sets.refresh"
        try:
            answer = await ask(
                self.client,
                "POST",
                url,
                within=_WITHIN,
                limit=_LONGEST,
                json={},
                headers=bearer(self.token),
            )
        except httpx.HTTPError as error:
            why_not: str | None = reason_of(error, url)
        else:
            why_not = None if answer.is_success else _refusal(answer)
        if why_not is not None:
            _log.info("show_not_told", url=redacted(url), reason=why_not)
        return why_not


def _refusal(answer: httpx.Response) -> str:
    """What a server says where it does not do what it was asked."""
    try:
        message = decode_answer(answer.content)["error"]["message"]
    except (Unfit, KeyError, TypeError):
        message = f"it answered {answer.status_code}"
    return one_line(message if isinstance(message, str) else json.dumps(message), _MOST_SAID)
