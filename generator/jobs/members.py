"""Who may ask: people and programs, each with a token.

A token is 256 random bits and is told once, when it is made. What is kept is its SHA-256, so that
neither the database nor a copy of it lets anybody in.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
import unicodedata
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import sqlalchemy as sa
from cachetools import TTLCache

from generator.jobs.database import Database
from generator.jobs.schema import members

Role = Literal["artist", "client"]

TOKEN_PREFIX: Final = "ust_"  # noqa: S105 - what each begins with, so that scanners know one
_TOKEN: Final = re.compile(rf"{TOKEN_PREFIX}[A-Za-z0-9_-]{{43}}", re.ASCII)
_TOKEN_BYTES: Final = 32
_LONGEST_NAME: Final = 64

IMPLICIT_ID: Final = "artist"
"""The id of the artist who needs no token on this machine, as long as nobody has one."""

_IMPLICIT_NAME: Final = "artist on this machine"
_KNOWN_FOR: Final = 5.0
"""Seconds for which a token that another process has ended may still let somebody in."""

_KNOWN_MOST: Final = 1024


class BadMemberName(ValueError):
    """A name that nobody could read, or type."""


class MemberExists(Exception):
    """There is a member of that name."""


@dataclass(frozen=True, slots=True)
class Member:
    """A person or a program that may ask.

    Attributes:
        id: never given twice.
        name: of its own, as long as it is a member.
        role: an artist may also pause and order the queue, and see the statistics.
        pictures_a_day: how many it may ask for in 24 hours; None for as many as it likes.
    """

    id: str
    name: str
    role: Role
    pictures_a_day: int | None = None


@dataclass(eq=False)
class Members:
    """The members of a Studio.

    Args:
        database: where they are.
        wall: Unix time.
        now: steady seconds.
    """

    database: Database
    wall: Callable[[], float] = time.time
    now: Callable[[], float] = time.monotonic
    _known: TTLCache[str, Member] = field(init=False)
    _changes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._known = TTLCache(_KNOWN_MOST, _KNOWN_FOR, timer=self.now)

    async def add(
        self, name: str, role: Role, pictures_a_day: int | None = None
    ) -> tuple[Member, str]:
        """Make somebody a member.

        Args:
            name: 1 to 64 characters that can be printed; spaces around them are taken off.
            role: what else than asking it may do.
            pictures_a_day: how many it may ask for in 24 hours, at least 1; None for no limit.

        Returns:
            The member, and its token, which nobody can look up later.

        Raises:
            BadMemberName: the name is none.
            MemberExists: there is one of that name.
            DatabaseError: it was not kept.
        """
        if pictures_a_day is not None and pictures_a_day < 1:
            raise ValueError("pictures_a_day: expected 1 or more, or none for no limit")
        member = Member(str(uuid.uuid4()), member_name(name), role, pictures_a_day)
        token = _new_token()

        def put(connection: sa.Connection) -> None:
            if connection.execute(sa.select(members.c.id).where(_of_name(member.name))).first():
                raise MemberExists(f"there is a member {member.name!r} already")
            connection.execute(
                sa.insert(members).values(
                    id=member.id,
                    name=member.name,
                    role=role,
                    pictures_a_day=pictures_a_day,
                    token_hash=_hash(token),
                    created_at=self.wall(),
                )
            )

        await self.database.write(put)
        return member, token

    async def all(self) -> list[Member]:
        """All who have a token, by name; not the artist who needs none."""
        query = (
            sa.select(members)
            .where(members.c.removed_at.is_(None), members.c.token_hash.is_not(None))
            .order_by(members.c.name)
        )
        return await self.database.read(
            lambda connection: [_member(row) for row in connection.execute(query)]
        )

    async def remove(self, name: str) -> None:
        """End a membership: its token lets nobody in any more, its jobs stay.

        In this process that is so when this returns, in others within seconds.

        Raises:
            LookupError: there is no such member.
            DatabaseError: it is a member still.
        """
        await self._change(name, {"removed_at": self.wall(), "token_hash": None})

    async def renew_token(self, name: str) -> str:
        """Give a member another token; the one before lets nobody in any more.

        Raises:
            LookupError: there is no such member.
            DatabaseError: it has its old one still.
        """
        token = _new_token()
        await self._change(name, {"token_hash": _hash(token)})
        return token

    async def by_token(self, token: str) -> Member | None:
        """Whose token this is; None for nobody's.

        It is looked up by its hash, so that how long that takes says nothing of any token.

        Raises:
            DatabaseError: it could not be looked up.
        """
        if not _TOKEN.fullmatch(token):
            return None
        digest = _hash(token)
        known: Member | None = self._known.get(digest)
        if known is not None:
            return known
        changes = self._changes
        query = sa.select(members).where(
            members.c.token_hash == digest, members.c.removed_at.is_(None)
        )
        row = await self.database.read(lambda connection: connection.execute(query).first())
        if row is None or not hmac.compare_digest(row.token_hash, digest):
            return None
        member = _member(row)
        if changes == self._changes:  # else it may have been removed after it was looked up
            self._known[digest] = member
        return member

    async def ensure_implicit(self, now: float) -> Member:
        """The artist who needs no token on this machine; made where there is none yet.

        Args:
            now: Unix time.
        """

        def put(connection: sa.Connection) -> None:
            known = sa.select(members.c.id).where(members.c.id == IMPLICIT_ID)
            if connection.execute(known).first() is None:
                connection.execute(
                    sa.insert(members).values(
                        id=IMPLICIT_ID, name=_IMPLICIT_NAME, role="artist", created_at=now
                    )
                )

        await self.database.write(put)
        return Member(IMPLICIT_ID, _IMPLICIT_NAME, "artist")

    async def _change(self, name: str, values: dict[str, Any]) -> None:
        where = _of_name(unicodedata.normalize("NFC", name.strip()))

        def put(connection: sa.Connection) -> None:
            has_token = members.c.token_hash.is_not(None)
            done = connection.execute(sa.update(members).where(where, has_token).values(values))
            if not done.rowcount:
                raise LookupError(f"there is no member {name!r:.80}")

        try:
            await self.database.write(put)
        finally:
            # Cancelled or not: what is kept here must not outlive what it was read from.
            self._changes += 1
            self._known.clear()


def member_name(text: str) -> str:
    """A name as it is kept.

    Raises:
        BadMemberName: it is empty, too long, or holds what cannot be printed.
    """
    name = unicodedata.normalize("NFC", text.strip())
    if not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise BadMemberName(
            f"{text!r:.80} is no name: expected 1 to {_LONGEST_NAME} characters that can be printed"
        )
    return name


def _of_name(name: str) -> sa.ColumnElement[bool]:
    return (members.c.name == name) & members.c.removed_at.is_(None)


def _new_token() -> str:
    return TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _member(row: sa.Row[*tuple[Any, ...]]) -> Member:
    return Member(row.id, row.name, cast("Role", row.role), row.pictures_a_day)
