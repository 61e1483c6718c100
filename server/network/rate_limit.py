"""How much one client may ask for over HTTP: generous, and no more than the show can spare."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache
from starlette.types import ASGIApp, Receive, Scope, Send

from generator.answers import JsonResponse
from server.network.reverse_proxy import network_of

RATE: Final = 100.0
"""Requests a second, each of the cost 1, that one client may make for long."""

BURST: Final = 1000.0
"""And at once: a room of kiosks behind one address loads its pages in the same second."""

_MOST_CLIENTS: Final = 4096

COSTS: Final = (
    ("/static/", 0.25),
    ("/frames/", 0.25),
    ("/api/asrun", 20.0),
    ("/api/cues", 5.0),
    ("/api/state", 2.0),
    ("/metrics", 2.0),
    ("/rehearsal/", 10.0),
)
"""What is dearer or cheaper than a page; all else costs 1. A wall's page is some thirty files, and
fifty walls behind one address load it in the same second. A command has a budget of its own, so
that whatever else a technician's machine asks for, a panic goes through."""

_COMMANDS: Final = "/api/control/"


@dataclass(slots=True)
class TokenBucket:
    """What may be taken by and by: `burst` at once, and `rate` more a second (pure)."""

    rate: float
    burst: float
    left: float
    at: float

    def wait(self, cost: float, now: float) -> float:
        """Take `cost` out of it; else the seconds until that much is in it."""
        self.left = min(self.burst, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < cost:
            return (cost - self.left) / self.rate
        self.left -= cost
        return 0.0


class RateLimit:
    """Token buckets, one a client; of many clients the newest are remembered.

    Args:
        rate: tokens a second that come back.
        burst: tokens that a bucket holds.
        most: clients that are remembered.
        monotonic: the time, in seconds.
    """

    def __init__(
        self,
        rate: float = RATE,
        burst: float = BURST,
        *,
        most: int = _MOST_CLIENTS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._monotonic = monotonic
        self._buckets: LRUCache[str, TokenBucket] = LRUCache(most)

    def wait(self, client: str, cost: float = 1.0) -> float:
        """Take `cost` out of a client's bucket; else the seconds until that much is in it."""
        now = self._monotonic()
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = TokenBucket(self._rate, self._burst, self._burst, now)
            self._buckets[client] = bucket
        return bucket.wait(cost, now)


def cost_of(path: str) -> float:
    """What a request for `path` takes out of its client's bucket."""
    return next((cost for start, cost in COSTS if path.startswith(start)), 1.0)


class LimitedRequests:
    """Middleware: answers 429 to a client that asks for more than its share."""

    def __init__(self, app: ASGIApp, limit: RateLimit | None = None) -> None:
        self._app = app
        self._limit = limit or RateLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client, path = scope.get("client"), scope["path"]
        key = network_of(client[0]) if client else ""
        if path.startswith(_COMMANDS):
            key = f"{key} commands"
        wait = self._limit.wait(key, cost_of(path))
        if not wait:
            await self._app(scope, receive, send)
            return
        message = f"too many requests from this address; wait {wait:.1f} s"
        answer = JsonResponse(
            {"ok": False, "error": {"code": "too_many", "message": message}},
            status_code=429,
            headers={"retry-after": str(math.ceil(wait))},
        )
        await answer(scope, receive, send)
