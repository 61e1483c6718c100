"""Two sheets on one store: tonight's and tomorrow's. Neither takes anything from the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cache.index import load_manifest, rebuild, register, reindex, update_manifest
from cache.library import Library
from cache.model.keys import ACTIONS_PREFIX, MANIFEST, Key, meta_key, parse_key
from cache.model.manifest import Manifest, ManifestAction, dump_manifest, parse_manifest
from cache.pull import pull
from cache.stores.folder import FolderStore
from cache.stores.memory import MemoryStore
from cache.stores.port import Store, StoreUnavailable
from cache.stores.s3.store import S3Store
from generator.sets.batch import run_batch
from generator.sets.inventory import jobs_for, take_inventory
from generator.sets.numbers import Numbers, NumberTaken, claim, claim_key
from generator.sets.prune import remove_sets, unwanted_sets
from generator.sets.quarantine import sweep
from generator.sets.recorder import Recorder
from generator.sets.verify import verify_sets
from generator.sheet.plan import Action, Plan
from server.config.show import load_show
from server.modes.forces import Force
from tests.cache.s3_servers import S3Server, rclone
from tests.generator.sets.test_batch import Pencil, action
from tests.generator.sheet.test_plan import planned, prompt
from tests.helpers.house import house
from tests.helpers.shows import LOOP, Rhythm, cue, store_contents, write_show
from tests.helpers.shows import prompt as prompt_cue

LAMP = "prompt_001"
SHEET = [prompt_cue(0, "new"), prompt_cue(10, "a"), prompt_cue(20, "b"), cue(60, "end")]
TONIGHT, TOMORROW = action(1, "a lamp"), action(1, "a lantern")
OTHER = action(2, "a tree")


async def no_time(_seconds: float) -> None:
    await asyncio.sleep(0)


@pytest.fixture(scope="module")
def bucket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(params=["memory", "folder", "bucket"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store
    if request.param == "bucket":
        server: S3Server = request.getfixturevalue("bucket_server")
        opened = S3Store(
            server.new_bucket(),
            "show",
            endpoint_url=server.endpoint_url,
            region="us-east-1",
            credentials=server.credentials,
        )
    else:
        opened = MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "store")
    async with opened:
        yield opened


async def draw(store: Store, actions: list[Action], wanted: int = 2) -> list[int]:
    """Draw what is missing; the numbers that the first of `actions` got."""
    library = Library(store)
    await library.refresh()
    jobs = jobs_for(await take_inventory(library, actions), wanted)
    outcome = await run_batch(jobs, (Pencil(),), store, sleep=no_time)
    assert outcome.failed == []
    return [job.set_id for job in outcome.drawn if job.action is actions[0]]


async def contents(store: Store) -> dict[str, bytes]:
    return {e.key: await store.get(e.key) async for e in store.list(ACTIONS_PREFIX)}


async def seen_by(store: Store, wanted: Action) -> tuple[int, ...]:
    """The sets that a server with that action plays, every picture of them whole."""
    library = Library(store)
    await library.refresh()
    async with aclosing(verify_sets(library, [wanted])) as findings:
        assert [str(each) async for each in findings] == []
    return library.set_ids(wanted.action_id)


async def test_drawing_tomorrows_prompt_takes_nothing_from_tonight(store: Store) -> None:
    assert await draw(store, [TONIGHT, OTHER]) == [0, 1]
    before = await contents(store)
    assert await draw(store, [TOMORROW, OTHER]) == [2, 3]
    after = await contents(store)
    config = f"actions/{LAMP}/config.json"
    assert {k: v for k, v in after.items() if k in before and k != config} == {
        k: v for k, v in before.items() if k != config
    }
    entry = (await load_manifest(store)).actions[LAMP]
    assert (entry.fingerprint, entry.set_ids) == (TOMORROW.fingerprint, (2, 3))
    assert entry.other_sets == {TONIGHT.fingerprint: (0, 1)}
    assert await seen_by(store, TONIGHT) == (0, 1)
    assert await seen_by(store, TOMORROW) == (2, 3)
    # The older sheet comes back, and so do its sets: there is nothing to draw.
    assert await draw(store, [TONIGHT, OTHER]) == []
    assert await draw(store, [TONIGHT, OTHER], wanted=3) == [4]
    entry = (await load_manifest(store)).actions[LAMP]
    assert (entry.set_ids, entry.other_sets) == ((0, 1, 4), {TOMORROW.fingerprint: (2, 3)})
    # No claim is left behind.
    assert [e.key async for e in store.list("quarantine/")] == []


async def test_two_batches_of_two_sheets_at_once_lose_nothing(store: Store) -> None:
    await asyncio.gather(draw(store, [TONIGHT], 3), draw(store, [TOMORROW], 3))
    tonight, tomorrow = await seen_by(store, TONIGHT), await seen_by(store, TOMORROW)
    assert len(tonight) == len(tomorrow) == 3
    assert not set(tonight) & set(tomorrow)
    manifest = await load_manifest(store)
    rebuilt = await rebuild(store, manifest)
    # The manifest has what was listed last, a rebuilt one what was drawn last: where both end at
    # once, either recipe may be the action's own. The sets of each are the same.
    assert manifest.actions.keys() == rebuilt.actions.keys() == {LAMP}
    assert manifest.actions[LAMP].groups == rebuilt.actions[LAMP].groups
    assert manifest.actions[LAMP].groups == {
        TONIGHT.fingerprint: tonight,
        TOMORROW.fingerprint: tomorrow,
    }


async def test_reindex_finds_every_recipes_sets_and_keeps_what_is_rejected(store: Store) -> None:
    await draw(store, [TONIGHT, OTHER])
    await draw(store, [TOMORROW, OTHER])

    def reject(manifest: Manifest) -> Manifest:
        entry = manifest.actions[LAMP].merged(ManifestAction(rejected=(1, 3)))
        return manifest.with_entry(LAMP, entry)

    rejected = await update_manifest(store, reject)
    assert await seen_by(store, TOMORROW) == (2,)
    assert (await reindex(store)).same_content(rejected)
    # Never drawn again, of whichever recipe; and a writer who knows nothing of it changes nothing.
    assert await draw(store, [TOMORROW, OTHER]) == [4]
    manifest = await register(store, LAMP, ManifestAction(fingerprint=TONIGHT.fingerprint), 1)
    assert manifest.actions[LAMP].rejected == (1, 3)
    assert 1 not in manifest.actions[LAMP].listed
    # From nothing, all but that is there again.
    await store.delete(MANIFEST)
    found = (await reindex(store)).actions[LAMP]
    assert found.set_ids == (2, 3, 4)
    assert found.other_sets == {TONIGHT.fingerprint: (0, 1)}


async def test_a_store_of_an_older_program_is_read_by_its_metas(store: Store) -> None:
    # It drew tomorrow's over two of tonight's three, and its manifest knows one fingerprint.
    await draw(store, [TONIGHT, OTHER], 3)
    for number in (0, 1):
        await store.delete(meta_key(LAMP, number))
        await Recorder(Pencil(), store).record(TOMORROW, number)
    manifest = await load_manifest(store)
    entry = manifest.actions[LAMP].model_copy(
        update={"set_ids": (0, 1, 2), "other_sets": {}, "fingerprint": TOMORROW.fingerprint}
    )
    (data, version) = await store.get_versioned(MANIFEST)
    data = dump_manifest(manifest.with_entry(LAMP, entry))
    await store.replace(MANIFEST, data, expected=version)
    library = Library(store)
    await library.refresh()
    (held,) = await take_inventory(library, [TONIGHT])
    assert (held.present, held.stale) == ((2,), (0, 1))
    assert held.missing(3) == (3, 4), "nothing is drawn over"
    (held,) = await take_inventory(library, [TOMORROW])
    assert (held.present, held.stale) == ((0, 1), (2,))
    # What is drawn next is listed rightly, and so is the rest.
    assert await draw(store, [TONIGHT, OTHER], 2) == [3]
    entry = (await load_manifest(store)).actions[LAMP]
    assert (entry.set_ids, entry.other_sets) == ((2, 3), {TOMORROW.fingerprint: (0, 1)})


async def test_sets_of_no_known_recipe_stay_with_the_action(store: Store) -> None:
    await draw(store, [TONIGHT], 2)
    key = meta_key(LAMP, 0)
    document = json.loads(await store.get(key))
    del document["fingerprint"]
    await store.put(key, json.dumps(document).encode())
    assert await draw(store, [TOMORROW], 2) == [2], "it fits any recipe, so one is there"
    entry = (await load_manifest(store)).actions[LAMP]
    assert (entry.set_ids, entry.other_sets) == ((0, 2), {TONIGHT.fingerprint: (1,)})


async def test_prune_removes_what_no_named_sheet_wants_and_nothing_else(store: Store) -> None:
    gone = action(3, "a boat")
    await draw(store, [TONIGHT, OTHER, gone])
    await draw(store, [TOMORROW, OTHER])
    await update_manifest(
        store,
        lambda m: m.with_entry(
            OTHER.action_id, m.actions[OTHER.action_id].merged(ManifestAction(rejected=(1,)))
        ),
    )

    def both(_known: Manifest) -> list[Plan]:
        return [Plan((TONIGHT, OTHER)), Plan((TOMORROW, OTHER))]

    def late(_known: Manifest) -> list[Plan]:
        return [Plan((TONIGHT, OTHER))]

    found = await unwanted_sets(store, both)
    assert [(each.action_id, each.set_id, each.why) for each in found] == [
        ("prompt_002", 1, "rejected"),
        ("prompt_003", 0, "other recipe"),
        ("prompt_003", 1, "other recipe"),
    ]
    assert all(each.size > 0 for each in found)
    before = await contents(store)
    assert await unwanted_sets(store, both) == found, "looking removes nothing"
    await remove_sets(store, found, both)
    left = await contents(store)
    assert left == {
        key: data
        for key, data in before.items()
        if "/prompt_003/" not in key and "/prompt_002/sets/1/" not in key
    }
    manifest = await load_manifest(store)
    assert "prompt_003" not in manifest.actions
    assert manifest.actions["prompt_002"].rejected == (1,), "the number stays burnt"
    assert await seen_by(store, TONIGHT) == (0, 1)
    assert await seen_by(store, TOMORROW) == (2, 3)
    # Tomorrow is over: the entry speaks for tonight's again.
    await remove_sets(store, await unwanted_sets(store, late), late)
    entry = (await load_manifest(store)).actions[LAMP]
    assert (entry.fingerprint, entry.set_ids) == (TONIGHT.fingerprint, (0, 1))
    assert (entry.prompt, entry.other_sets) == (TONIGHT.prompt, {})
    assert await unwanted_sets(store, late) == []


class Failing(MemoryStore):
    """A store that falls silent after some more removals."""

    left = 0

    async def delete(self, key: Key) -> None:
        if self.left == 0:
            raise StoreUnavailable(key, "silent")
        self.left -= 1
        await super().delete(key)


async def test_a_prune_that_is_stopped_goes_on_with_the_same_command() -> None:
    store = Failing()
    store.left = 100
    await draw(store, [TONIGHT])
    tonights = {key for key in await contents(store) if "/sets/" in key}
    await draw(store, [TOMORROW])
    damaged = min(key for key in (await contents(store)).keys() - tonights if "/sets/2/" in key)
    await store.delete(parse_key(damaged))  # what nobody wants need not be whole to be removed

    def tonight(_known: Manifest) -> list[Plan]:
        return [Plan((TONIGHT,))]

    tries = 0
    while found := await unwanted_sets(store, tonight):
        assert {each.set_id for each in found} <= {2, 3}
        store.left, tries = 1, tries + 1
        with suppress(StoreUnavailable):
            await remove_sets(store, found, tonight)
        assert await seen_by(store, TONIGHT) == (0, 1)
        assert tries < 100
    assert tries > 3, "it was not stopped in the middle of a set"
    assert {key for key in await contents(store) if "/sets/" in key} == tonights


async def test_a_pull_brings_every_sheets_sets_or_those_of_one(
    store: Store, tmp_path: Path
) -> None:
    await draw(store, [TONIGHT])
    await draw(store, [TOMORROW])
    async with FolderStore(tmp_path / "one") as one, FolderStore(tmp_path / "all") as whole:
        await pull(store, one, only={LAMP: TONIGHT.fingerprint})
        assert await seen_by(one, TONIGHT) == (0, 1)
        assert (await load_manifest(one)).actions[LAMP].set_ids == ()
        assert f"actions/{LAMP}/sets/2/meta.json" not in await contents(one)
        await pull(store, one, only={LAMP: TOMORROW.fingerprint})
        assert (await load_manifest(one)).actions[LAMP].listed == (0, 1, 2, 3)
        await pull(store, whole)
        assert await contents(whole) == await contents(store)
        assert (await load_manifest(whole)).same_content(await load_manifest(store))


async def test_a_number_is_one_recipes_while_it_is_drawn() -> None:
    store = MemoryStore()
    assert await claim(store, LAMP, 0, TONIGHT.fingerprint)
    assert await claim(store, LAMP, 0, TONIGHT.fingerprint), "two who draw the same share it"
    assert not await claim(store, LAMP, 0, TOMORROW.fingerprint)
    with pytest.raises(NumberTaken, match="drawn from another recipe"):
        await Recorder(Pencil(), store).record(TOMORROW, 0)
    assert await Numbers(store).grant(LAMP, 0, TOMORROW.fingerprint) == 1
    # Whoever was killed keeps a number for a day, and no longer.
    now = datetime.now(UTC)
    assert await sweep(store, now) == 0
    assert claim_key(LAMP, 0) in store.contents
    assert await sweep(store, now + timedelta(days=2)) == 2


def test_an_older_reader_sees_what_it_knows_and_an_older_writer_loses_nothing() -> None:
    entry = ManifestAction(
        fingerprint=TOMORROW.fingerprint,
        set_ids=(2, 3),
        other_sets={TONIGHT.fingerprint: (0, 1)},
        rejected=(4,),
    )
    when = datetime(2026, 1, 1, tzinfo=UTC)
    document = json.loads(dump_manifest(Manifest(actions={LAMP: entry}, generated_at=when)))
    fields = document["actions"][LAMP]
    assert (fields["sets"], fields["set_ids"]) == (2, [2, 3])
    fields["set_ids"] = [1, 2, 3, 4]  # as somebody has it who knows of neither field
    fields["sets"] = 4
    again = parse_manifest(json.dumps(document).encode()).actions[LAMP]
    assert (again.set_ids, again.other_sets, again.rejected) == (
        (1, 2, 3),
        {TONIGHT.fingerprint: (0,)},
        (4,),
    )
    plain = ManifestAction(fingerprint=TONIGHT.fingerprint, set_ids=(0,))
    written = dump_manifest(Manifest(actions={LAMP: plain}, generated_at=when))
    assert b"other_sets" not in written
    assert b"rejected" not in written


def sheet(*prompts: str) -> Plan:
    return planned(*(prompt(text) for text in prompts))


def test_the_plan_takes_over_the_ids_of_a_store_that_comes_later() -> None:
    a, b = (each.fingerprint for each in sheet("a", "b").actions)
    plan = sheet("new", "a", "b")
    assert [each.action_id for each in plan.actions] == ["prompt_001", "prompt_002", "prompt_003"]
    renamed = plan.follow({"prompt_001": [a], "prompt_002": [b]})
    assert [each.action_id for each in plan.actions] == ["prompt_004", "prompt_001", "prompt_002"]
    assert renamed == {
        "prompt_001": "prompt_004",
        "prompt_002": "prompt_001",
        "prompt_003": "prompt_002",
    }
    assert plan.follow({"prompt_001": [a], "prompt_002": [b]}) == {}
    # A newer sheet is drawn under the same ids; the older keeps them.
    c, d = (each.fingerprint for each in sheet("c", "d").actions)
    assert plan.follow({"prompt_001": [c, a], "prompt_002": [d, b]}) == {}


def test_who_has_the_recipe_now_goes_before_who_had_it_once() -> None:
    a, b = (each.fingerprint for each in sheet("a", "b").actions)
    plan = sheet("new", "a")
    plan.follow({"prompt_007": [b, a], "prompt_009": [a]})
    assert [each.action_id for each in plan.actions] == ["prompt_001", "prompt_009"]


async def test_a_running_show_takes_over_a_store_that_comes_later(tmp_path: Path) -> None:
    # Drawn for a sheet that lacked the first cue: its ids are not those of the places.
    older = load_show(write_show(tmp_path / "older", SHEET[1:], LOOP), {}, {}).plan({}).actions
    sets = store_contents(older, Rhythm(previews=2, step=0.2, sets=2))
    async with house(
        tmp_path / "show", SHEET, rhythm=Rhythm(sets=0), toml=LOOP, play=False
    ) as opened:
        await opened.readiness.look()
        assert opened.readiness.without_sets() == ["prompt_001", "prompt_002", "prompt_003"]
        opened.modes.impose(Force(mode="static", by="foh", cue="prompt_003", until="released"))
        opened.store.contents = {parse_key(key): data for key, data in sets.items()}
        await opened.readiness.look()
        ids = [each.action_id for each in opened.actions]
        assert ids == ["prompt_004", "prompt_001", "prompt_002"]
        assert opened.readiness.without_sets() == ["prompt_004"]
        assert opened.static.faults == {}
        (force,) = opened.modes.forces
        assert force.cue == "prompt_002", "it is the same cue's"
        assert opened.view.cue(1)["cue"] == "prompt_001"
        assert [each.action_id for each in opened.runtime.lookahead.plan.actions] == ids
