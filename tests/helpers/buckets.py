"""Shows whose sets are in a bucket of a real S3 server, and what is in it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cache.index import rebuild
from cache.library import Library
from cache.model.manifest import Manifest
from cache.stores.port import Store
from cache.stores.s3.store import S3Store
from generator.sets.verify import verify_sets
from server.config.show import load_show
from tests.cache.s3_servers import S3Server, moto, rclone
from tests.helpers.programs import Program, start
from tests.helpers.shows import MANUAL, cue, line, write_show

_PATIENCE = 60.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass(frozen=True)
class Servers:
    """S3 servers, and what moto says of each request."""

    moto: S3Server
    rclone: S3Server
    log: Path

    def named(self, name: str) -> S3Server:
        server: S3Server = getattr(self, name)
        return server


@contextmanager
def s3_servers(factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Both servers, until it is left."""
    folder = factory.mktemp("moto")
    with moto(folder) as one, rclone(factory.mktemp("rclone")) as other:
        yield Servers(one, other, folder / "log")


@dataclass(frozen=True)
class Place:
    """A show whose sets are in a bucket."""

    folder: Path
    server: S3Server
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """What the program has to know of the bucket."""
        keys = self.server.credentials
        return {
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """Its store, to look into."""
        server = self.server
        async with S3Store(
            self.bucket,
            "show",
            endpoint_url=server.endpoint_url,
            region="us-east-1",
            credentials=server.credentials,
        ) as store:
            yield store

    def start(self, *arguments: object, output: str = "output", **environment: str) -> Program:
        """Run `understudy generate` for it."""
        words = ["generate", *arguments, "--show", self.folder]
        return start(words, self.folder / output, {**self.environment, **environment})

    def run(self, *arguments: object) -> str:
        """The same to its end, which has to be good."""
        program = self.start(*arguments, output="last")
        assert program.wait() == 0, program.said()
        said = program.said()
        (self.folder / "last").unlink()
        return said


def in_a_bucket(folder: Path, server: S3Server, cues: list[dict[str, Any]], toml: str) -> Place:
    """A show of these cues, whose store is a new bucket."""
    bucket = server.new_bucket()
    where = f'[store]\nurl = "s3://{bucket}/show"\nendpoint_url = "{server.endpoint_url}"\n'
    return Place(write_show(folder, cues, MANUAL + where + toml), server, bucket)


SMALL = "".join(f"[programs.{name}]\nsteps = 2\nwidth = 64\nheight = 64\n" for name in ("P0", "P4"))


def sheet(count: int) -> list[dict[str, Any]]:
    """A sheet with so many lines that are drawn, `line_1` and so on."""
    lines = [line(k, f"picture {k}", id=f"line_{k}") for k in range(1, count + 1)]
    return [cue(0, "start"), *lines, cue(60, "end")]


async def whole(place: Place) -> Manifest:
    """The manifest of a store in which everything is as it should be."""
    show = load_show(place.folder, {}, {})
    async with place.store() as store:
        library = Library(store)
        manifest = await library.refresh()
        plan = show.plan(manifest.fingerprints)
        async with aclosing(verify_sets(library, plan.actions)) as findings:
            assert [str(finding) async for finding in findings] == []
        found = await rebuild(store)
    assert found.remarks == ()
    assert dict(found.actions) == dict(manifest.actions)
    return manifest
