"""A real server whose store is a real bucket, watched at a real screen socket: the line is cut."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from server.config.show import load_show
from tests.cache.s3_servers import rclone
from tests.helpers.line import Line, line_to
from tests.helpers.screens import ScreenClient, screen, web
from tests.helpers.servers import (
    ROOT,
    Address,
    ServerProcess,
    plain_environment,
    server_process,
)
from tests.helpers.shows import LOOP, Rhythm, cue, line, store_contents, write_show

RHYTHM = Rhythm(previews=4, step=0.25, size=20_000, sets=1)
CUES = [
    cue(0, "start"),
    line(1, "one", id="one"),
    line(4, "two", id="two"),
    cue(6, "end"),
]


@asynccontextmanager
async def far_show(folder: Path) -> AsyncIterator[tuple[Path, Line, dict[str, str]]]:
    """A show, the line to the bucket where its sets are, and what names it."""
    show = write_show(folder / "show", CUES, LOOP)
    with rclone(folder) as server:
        bucket = server.new_bucket()
        actions = load_show(show, {}, {}).plan({}).actions
        for key, data in store_contents(actions, RHYTHM).items():
            place = folder / "buckets" / bucket / key
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        async with line_to(server.port, latency=0.02) as far:
            environment = {
                "AWS_ACCESS_KEY_ID": server.credentials.access_key_id,
                "AWS_SECRET_ACCESS_KEY": server.credentials.secret_access_key,
                "UNDERSTUDY_STORE_URL": f"s3://{bucket}",
                "UNDERSTUDY_STORE_ENDPOINT_URL": far.url,
            }
            yield show, far, environment


async def started(show: Path, environment: dict[str, str]) -> ServerProcess:
    return await asyncio.to_thread(ServerProcess.start, show, environment=environment)


async def until(
    client: httpx.AsyncClient, path: str, enough: Callable[[httpx.Response], object]
) -> httpx.Response:
    """Ask again and again until the answer is `enough`."""
    answer = await client.get(path)
    for _ in range(300):
        if enough(answer):
            return answer
        await asyncio.sleep(0.1)
        answer = await client.get(path)
    raise AssertionError(f"{path} never came to that; at last {answer.text[:500]}")


async def ready(client: httpx.AsyncClient) -> None:
    """Wait until every coming cue has something to stand on."""
    await until(client, "/readyz", lambda answer: answer.status_code == 200)


async def everything_is_here(client: httpx.AsyncClient) -> None:
    """Wait until each action's one set is here whole: a cue is ready before that."""
    await until(
        client,
        "/api/state",
        lambda a: a.json()["coverage"]["copies"] == {"none": 0, "thin": 0, "one": 0, "all": 2},
    )


def whole(wall: ScreenClient, run: str) -> bool:
    """Whether every frame of a run came."""
    steps = [heard.message["step"] for heard in wall.frames_of(run)]
    return steps == list(range(1, RHYTHM.frames + 1))


async def two_whole_runs(address: Address) -> None:
    async with screen(address) as wall:

        def seen_whole(me: ScreenClient) -> list[str]:
            """The runs that began and ended before our eyes."""
            ended = {heard.message["run"] for heard in me.of("run_end")}
            return [run for run in me.runs if run in ended]

        await wall.until(lambda me: len(seen_whole(me)) >= 2, within=20, why="no two runs")
        assert [run for run in seen_whole(wall) if not whole(wall, run)] == []


async def test_without_a_line_the_show_goes_on_also_after_a_restart(tmp_path: Path) -> None:
    async with far_show(tmp_path) as (show, far, environment):
        server = await started(show, environment)
        try:
            async with web(server.address) as client:
                await ready(client)
                await everything_is_here(client)
                far.cut()
                await two_whole_runs(server.address)
            await asyncio.to_thread(server.kill)

            server = await started(show, environment)
            async with web(server.address) as client:
                await ready(client)
                notes = (await client.get("/readyz")).json()["notes"]
                assert any("playing from the copies on this machine" in note for note in notes)
                health = (await client.get("/api/state")).json()["health"]
                assert health["level"] == "degraded"
                await two_whole_runs(server.address)
                metrics = (await client.get("/metrics")).text
                assert "understudy_store_reachable 0.0" in metrics
                assert 'understudy_copies_bytes{layer="disk"}' in metrics
                far.mend()
                await until(client, "/api/state", lambda a: a.json()["health"]["level"] == "ok")
        finally:
            await asyncio.to_thread(server.close)
        said = server.log.read_text()
        assert environment["AWS_SECRET_ACCESS_KEY"] not in said
        assert not [entry for entry in server.log_lines() if entry["level"] == "error"]


async def test_with_nothing_here_and_no_line_it_says_so_and_waits(tmp_path: Path) -> None:
    async with far_show(tmp_path) as (show, far, environment):
        far.cut()
        with server_process(show, environment=environment) as server:
            async with web(server.address) as client:
                answer = await until(client, "/readyz", lambda a: "the store" in a.text)
                assert answer.status_code == 503
            async with screen(server.address) as wall:
                assert wall.welcome["snapshot"]["screening"]["status"] == "active"
                far.mend()
                await wall.until(
                    lambda me: [heard for heard in me.frames if heard.message["final"]],
                    within=90,
                    why="the show did not come to life",
                )


async def test_a_rehearsal_knows_the_bucket_and_what_is_here(tmp_path: Path) -> None:
    async with far_show(tmp_path) as (show, far, environment):

        async def rehearsed(*arguments: str) -> dict[str, Any]:
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "server", "rehearse", "--show", str(show), "--json"),
                *arguments,
                cwd=ROOT,
                env=plain_environment(**environment),
                stdout=asyncio.subprocess.PIPE,
            )
            said, _ = await program.communicate()
            report: dict[str, Any] = json.loads(said)
            return report

        # Over a line so slow: the final images, and few previews.
        slow = await rehearsed("--bandwidth", "100k", "--seed", "1")
        assert slow["line"]["here_bytes"] == 0
        assert {finding["code"] for finding in slow["findings"]} & {"late", "nothing_to_show"}

        server = await started(show, environment)
        try:
            async with web(server.address) as client:
                await everything_is_here(client)
                # While the show plays, and without any line: from the copies.
                far.cut()
                report = await rehearsed("--bandwidth", "100k", "--seed", "1")
        finally:
            await asyncio.to_thread(server.close)
        assert report["verdict"] == "ready"
        assert report["line"]["here_bytes"] > 2 * RHYTHM.frames * RHYTHM.size
        assert {run["readiness"] for run in report["cues"]} == {"all"}
        assert all(None not in run["due"] for run in report["cues"])
        assert any(finding["code"] == "store_silent" for finding in report["findings"])
