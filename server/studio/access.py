"""Who asks the Studio: members by their token, or whoever sits at the machine where none has one.

What a member sees is its own. Which web pages may speak to us, and what a reverse proxy means for
«sits at the machine», is decided as for the show's server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from generator.jobs.members import Member, Members
from server.config.sections import ServerSection, Tokens, is_loopback
from server.network.access import Access
from server.network.reverse_proxy import came_through_a_proxy
from server.studio.links import SealedLinks
from server.studio.refusals import StudioRefused, no_member

_LOOKED_UP_FOR = 2.0
"""Seconds for which it is believed who the members are."""

WANTED = (
    "a token is needed: Authorization: Bearer …, or X-API-Key. "
    "understudy studio member add NAME makes one"
)


@dataclass(eq=False)
class StudioAccess:
    """The rules of one Studio.

    Args:
        server: where it listens, and what it says of proxies and of other pages.
        members: who has which token.
        implicit: who sits at the machine, where nobody has a token.
        links: addresses that open a picture without one.
        now: steady seconds.
    """

    server: ServerSection
    members: Members
    implicit: Member
    links: SealedLinks
    now: Callable[[], float] = time.monotonic
    _origins: Access = field(init=False, repr=False)
    _looked: float | None = field(default=None, init=False)
    _ids: frozenset[str] = field(default=frozenset(), init=False)

    def __post_init__(self) -> None:
        self._origins = Access(Tokens(), self.server)

    async def refuses_to_listen(self) -> str | None:
        """Why it must not listen where it is to; None if it may."""
        if await self._members():
            return None
        if self.server.public_url or self.server.trusted_proxies:
            where = "to be shown by a reverse proxy"
        elif not is_loopback(self.server.host):
            where = f"to listen on {self.server.host}"
        else:
            return None
        return (
            f"refusing {where} while nobody has a token: understudy studio member add NAME "
            "makes one, or listen on 127.0.0.1"
        )

    def check_origin(self, connection: HTTPConnection) -> None:
        """Refuse a web page that is not ours.

        Raises:
            AccessDenied: `forbidden`.
        """
        self._origins.check_origin(connection)

    async def member_of(self, connection: HTTPConnection, token: str | None = None) -> Member:
        """Who is on a connection.

        Args:
            connection: a request, or a socket.
            token: what it brought elsewhere than in its headers; None for nothing.

        Raises:
            AccessDenied: `forbidden`, for a foreign page.
            StudioRefused: `unauthorized`.
            DatabaseError: it cannot be looked up.
        """
        self.check_origin(connection)
        token = token or _token_of(connection)
        if token is not None:
            member = await self.members.by_token(token)
            if member is None:
                raise no_member()
            return member
        if self._at_the_machine(connection) and not await self._members():
            return self.implicit
        raise StudioRefused("unauthorized", WANTED)

    async def viewer_of(self, connection: HTTPConnection, path: str) -> str:
        """Id of the member as whom somebody may see `path`: by token, or by a sealed address.

        An address lets nobody see what its member would not be let see: it is dead once that is
        no member any more. Those of who sits at the machine die with the first token.

        Raises:
            AccessDenied, StudioRefused, DatabaseError: as `member_of`.
        """
        self.check_origin(connection)
        sealed = self.links.member_of(path, connection.query_params)
        if sealed is not None and sealed in (await self._members() or {self.implicit.id}):
            return sealed
        return (await self.member_of(connection)).id

    def _at_the_machine(self, connection: HTTPConnection) -> bool:
        client = connection.client.host if connection.client else None
        behind_proxy = self.server.public_url or self.server.trusted_proxies
        direct = not came_through_a_proxy(connection) and not behind_proxy
        return direct and client is not None and is_loopback(client)

    async def _members(self) -> frozenset[str]:
        """Ids of those who have a token; once there is one, the machine is open to nobody else."""
        if self._looked is None or self.now() - self._looked > _LOOKED_UP_FOR:
            looked = self.now()
            self._ids = frozenset(member.id for member in await self.members.all())
            self._looked = looked
        return self._ids


def _token_of(connection: HTTPConnection) -> str | None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token
    return connection.headers.get("x-api-key") or None
