from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cache.index import load_manifest, reindex, update_manifest
from cache.library import Library
from cache.model.documents import FormatError
from cache.model.formats import dump_meta
from cache.model.keys import MANIFEST, config_key, image_key, meta_key
from cache.model.manifest import ManifestAction
from cache.stores.folder import FolderStore
from cache.stores.memory import MemoryStore
from cache.stores.port import Conflict, StoreFull, StoreUnavailable
from generator.sets.importer import (
    Found,
    Imported,
    NothingToImport,
    Remark,
    import_sets,
    map_folders,
)
from generator.sets.inventory import take_inventory
from generator.sets.recorder import Recorder
from generator.sheet.plan import Action
from generator.sheet.recipe import PipelineKind, Recipe
from tests.cache.samples import meta_of, picture, plain
from tests.contracts.engine_contract import base_image
from tests.generator.sets.test_recorder import four

TEXT = Recipe(model="m", prompt="boats", steps=3, width=64, height=64)
WRITTEN = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


def action(
    action_id: str, at: float, *, cue: int = 0, strength: float | None = None, **changes: Any
) -> Action:
    kind: str = next(
        kind for kind in ("transcript", "prompt", "slider") if action_id.startswith(kind)
    )
    recipe = TEXT
    if strength is not None:
        recipe = Recipe(
            **{
                **TEXT.model_dump(),
                "kind": PipelineKind.IMAGE_TO_IMAGE,
                "strength": strength,
                "base_image": base_image(),
            }
        )
    return Action(
        action_id=action_id,
        type=kind,
        cue_index=cue,
        at=at,
        program="P2",
        prompt="boats",
        override=None,
        recipe=recipe,
        **changes,
    )


def tree(root: Path, variants: Mapping[str, Mapping[str, bytes]]) -> Path:
    """An older layout: files by variant's path below ``cues``."""
    for variant, files in variants.items():
        folder = root / "v3" / "cues" / variant
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
            os.utime(folder / name, (WRITTEN.timestamp(), WRITTEN.timestamp()))
    return root


def images(steps: int = 3, *, final: bool = True, seed: int = 0) -> dict[str, bytes]:
    names = [*(f"{step}.png" for step in range(steps)), *(["final.png"] if final else [])]
    return {name: picture("png", seed + number) for number, name in enumerate(names)}


def timing(**durations: Any) -> dict[str, bytes]:
    named = {name.removeprefix("s"): value for name, value in durations.items()}
    return {"timing.json": json.dumps({"stepDurations": named}).encode()}


PROMPT = "prompt_7_00_44_22"
BOATS = action("prompt_001", 2662.0)


async def meta_in(store: MemoryStore, action_id: str = "prompt_001", set_id: int = 0) -> Any:
    return json.loads(await store.get(meta_key(action_id, set_id)))


class TestASet:
    async def test_is_renumbered_and_kept_byte_for_byte(self, tmp_path: Path) -> None:
        store = MemoryStore()
        source = tree(tmp_path, {f"{PROMPT}/1": images(), f"{PROMPT}/3": images(seed=9)})
        report = await import_sets(source, store, [BOATS])
        assert report.imported == [
            Imported("prompt_001", 0, f"v3/cues/{PROMPT}/1"),
            Imported("prompt_001", 2, f"v3/cues/{PROMPT}/3"),
        ]
        assert (report.present, report.left, report.remarks) == ([], [], [])
        library = Library(store)
        await library.refresh()
        assert library.set_ids("prompt_001") == (0, 2)
        found = await library.open_set("prompt_001", 0)
        assert [step.name for step in found.steps] == ["1.png", "2.png", "3.png", "final.png"]
        shown = [await library.image(step) for step in found.steps]
        assert shown == list(images().values())
        assert found.steps[-1].final

    async def test_that_was_timed_has_its_durations_in_seconds(self, tmp_path: Path) -> None:
        store = MemoryStore()
        files = images() | timing(s0=245, s1=300.5, s2="250", final=156)
        await import_sets(tree(tmp_path, {f"{PROMPT}/1": files}), store, [BOATS])
        document = await meta_in(store)
        assert document["durations"] == {"1": 0.245, "2": 0.3005, "3": 0.25, "final": 0.156}
        assert document["total_duration"] == pytest.approx(0.9515)
        assert "timing" not in document

    async def test_says_no_more_than_is_known(self, tmp_path: Path) -> None:
        store = MemoryStore()
        await import_sets(tree(tmp_path, {f"{PROMPT}/1": images()}), store, [BOATS])
        document = await meta_in(store)
        assert document["durations"] == {}
        for unknown in ("total_duration", "timing", "fingerprint", "seed", "engine"):
            assert unknown not in document
        assert document["generated_at"] == "2024-05-01T12:00:00Z"
        assert document["model_config"] == {"program": "P2", "prompt": "boats"}
        assert document["imported_from"] == f"v3/cues/{PROMPT}/1"
        # A reader takes it, for whatever recipe its action has, and so does a rebuilt index.
        before = await load_manifest(store)
        assert before.actions["prompt_001"].fingerprint is None
        assert before.actions["prompt_001"].time == "00:44:22"
        assert (await reindex(store)).same_content(before)
        library = Library(store)
        await library.refresh()
        found = await library.open_set("prompt_001", 0)
        assert [step.duration for step in found.steps] == [None] * 4
        [holding] = await take_inventory(library, [BOATS])
        assert holding.present == (0,)

    @pytest.mark.parametrize(
        ("extra", "remark"),
        [
            (timing(s0=245, final=156), "milliseconds for '1'"),
            (timing(s0=0, s1=1, s2=1, final=1), "milliseconds for '0'"),
            (timing(s0=1, s1=1, s2=1, final=None), "milliseconds for 'final'"),
            ({"timing.json": b"{}"}, "milliseconds for '0'"),
            ({"timing.json": b"no JSON"}, "expected a JSON object"),
        ],
    )
    async def test_that_was_timed_in_part_is_untimed(
        self, tmp_path: Path, extra: dict[str, bytes], remark: str
    ) -> None:
        store = MemoryStore()
        report = await import_sets(
            tree(tmp_path, {f"{PROMPT}/1": images() | extra}), store, [BOATS]
        )
        assert len(report.imported) == 1
        [found] = report.remarks
        assert "the durations are left out" in found.reason
        assert remark in found.reason
        assert (await meta_in(store))["durations"] == {}

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            (images(2, final=False), ["1.png", "2.png"]),
            (images(0), ["1.png"]),
            (images(12), [*(f"{step}.png" for step in range(1, 13)), "final.png"]),
        ],
        ids=["without a final image", "only a final image", "more than nine"],
    )
    async def test_of_another_shape(
        self, tmp_path: Path, files: dict[str, bytes], expected: list[str]
    ) -> None:
        store = MemoryStore()
        report = await import_sets(tree(tmp_path, {f"{PROMPT}/1": files}), store, [BOATS])
        assert len(report.imported) == 1
        found = await Library(store).open_set("prompt_001", 0)
        assert [step.name for step in found.steps] == expected

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"1.png": None}, "numbered from 0 on, found 0, 2"),
            ({"1.png": picture("png", 1)[:-40]}, "1.png"),
            ({"1.png": picture("jpg", 1)}, "1.png"),
            ({"final.png": plain("png", (0, 0, 0))}, "all one colour"),
            ({"01.png": picture("png", 1)}, "the same step"),
            (dict.fromkeys(images()), "found none"),
        ],
    )
    async def test_that_is_not_whole_is_left(
        self, tmp_path: Path, change: dict[str, bytes | None], reason: str
    ) -> None:
        store = MemoryStore()
        files = {name: data for name, data in (images() | change).items() if data is not None} | {
            "notes.txt": b"mine",
            ".DS_Store": b"",
        }
        report = await import_sets(tree(tmp_path, {f"{PROMPT}/1": files}), store, [BOATS])
        [left] = report.left
        assert left.place == f"v3/cues/{PROMPT}/1"
        assert reason in left.reason
        assert store.contents == {}


class TestWhatIsThere:
    async def test_a_set_of_ours_is_never_touched(self, tmp_path: Path) -> None:
        store = MemoryStore()
        await Recorder(four(), store).record(BOATS, 0)
        before = dict(store.contents)
        source = tree(tmp_path, {f"{PROMPT}/1": images(), f"{PROMPT}/2": images()})
        report = await import_sets(source, store, [BOATS])
        assert [left.place for left in report.left] == [f"v3/cues/{PROMPT}/1"]
        assert "there already" in report.left[0].reason
        assert [each.set_id for each in report.imported] == [1]
        kept = {key: data for key, data in store.contents.items() if key in before}
        assert {k: v for k, v in kept.items() if k != MANIFEST} == {
            k: v for k, v in before.items() if k != MANIFEST
        }
        entry = (await load_manifest(store)).actions["prompt_001"]
        assert entry.fingerprint == BOATS.fingerprint
        assert entry.set_ids == (0, 1)

    async def test_a_number_that_was_rejected_stays_so(self, tmp_path: Path) -> None:
        store = MemoryStore()
        entry = ManifestAction(rejected=(0,))
        await update_manifest(store, lambda known: known.with_entry(BOATS.action_id, entry))
        report = await import_sets(tree(tmp_path, {f"{PROMPT}/1": images()}), store, [BOATS])
        assert (report.imported, len(report.left)) == ([], 1)
        assert "set 0 of" in str(report.left[0])
        assert "was rejected" in str(report.left[0])
        assert not any("/sets/" in key for key in store.contents)

    async def test_a_set_drawn_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        store = MemoryStore()
        store.fail_next(Conflict("actions/prompt_001/sets/0/meta.json"), on="replace")
        report = await import_sets(tree(tmp_path, {f"{PROMPT}/1": images()}), store, [BOATS])
        assert report.imported == []
        assert "there already" in report.left[0].reason
        assert MANIFEST not in store.contents

    async def test_again_it_does_nothing(self, tmp_path: Path) -> None:
        store = MemoryStore()
        source = tree(tmp_path, {f"{PROMPT}/1": images()})
        await import_sets(source, store, [BOATS])
        before = dict(store.contents)
        puts = store.calls["put"]
        report = await import_sets(source / "v3" / "cues", store, [BOATS])
        assert report.present == [Imported("prompt_001", 0, f"v3/cues/{PROMPT}/1")]
        assert (report.imported, report.left) == ([], [])
        assert store.contents == before
        assert store.calls["put"] == puts

    @pytest.mark.parametrize("operation", ["put", "replace"])
    @pytest.mark.parametrize("after", range(0, 12, 3))
    async def test_it_goes_on_where_it_was_stopped(
        self, tmp_path: Path, operation: Any, after: int
    ) -> None:
        store = MemoryStore()
        source = tree(tmp_path, {f"{PROMPT}/{variant}": images() for variant in (1, 2, 3)})
        done = 0

        def stop(so_far: int, _total: int, _place: str) -> None:
            nonlocal done
            done = so_far
            if 3 * so_far >= after:
                store.fail_next(StoreFull("", "no room"), on=operation)

        if after == 0:
            store.fail_next(StoreFull("", "no room"), on=operation)
        try:
            await import_sets(source, store, [BOATS], stop)
        except StoreFull:
            assert done < 3
        report = await import_sets(source, store, [BOATS])
        assert len(report.imported) + len(report.present) == 3
        assert (await load_manifest(store)).set_ids("prompt_001") == (0, 1, 2)
        for set_id in range(3):
            await Library(store).open_set("prompt_001", set_id)

    async def test_cancelled_it_leaves_whole_sets_only(self, tmp_path: Path) -> None:
        store = MemoryStore(latency=0.01)
        source = tree(tmp_path, {f"{PROMPT}/{variant}": images() for variant in (1, 2, 3)})
        first = asyncio.Event()
        task = asyncio.create_task(import_sets(source, store, [BOATS], lambda *_: first.set()))
        await first.wait()
        await asyncio.sleep(0.03)
        before = asyncio.all_tasks()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() <= before - {task}
        for set_id in (await load_manifest(store)).set_ids("prompt_001"):
            await Library(store).open_set("prompt_001", set_id)

    async def test_a_store_that_is_gone_is_told(self, tmp_path: Path) -> None:
        store = MemoryStore()
        store.fail_next(StoreUnavailable("", "gone"))
        with pytest.raises(StoreUnavailable):
            await import_sets(tree(tmp_path, {f"{PROMPT}/1": images()}), store, [BOATS])

    async def test_into_a_folder(self, tmp_path: Path) -> None:
        source = tree(tmp_path / "old", {f"{PROMPT}/1": images()})
        async with FolderStore(tmp_path / "new") as store:
            assert len((await import_sets(source, store, [BOATS])).imported) == 1
        assert (tmp_path / "new" / image_key("prompt_001", 0, "final.png")).is_file()
        assert (tmp_path / "new" / config_key("prompt_001")).is_file()


class TestMapping:
    def mapped(self, names: list[str], *actions: Action) -> tuple[dict[str, str], list[Remark]]:
        left: list[Remark] = []
        folders = []
        for name in names:
            kind, index, hours, minutes, seconds, *value = name.split("_")
            folders.append(
                Found(
                    Path("v3/cues") / name,
                    kind,
                    int(index),
                    int(hours) * 3600 + int(minutes) * 60 + int(seconds),
                    float(value[0].removeprefix("val")) if value else None,
                )
            )
        found = map_folders(folders, actions, left)
        return {folder.path.name: action.action_id for folder, action in found}, left

    def test_by_kind_and_time_whatever_the_number(self) -> None:
        found, left = self.mapped(
            ["prompt_99_00_00_10", "slider_4_00_00_10", "transcript_0_00_00_12"],
            action("prompt_001", 10.9),
            action("slider_001", 10.0),
            action("transcript_001", 11.7),
        )
        assert left == []
        assert found == {
            "prompt_99_00_00_10": "prompt_001",
            "slider_4_00_00_10": "slider_001",
            "transcript_0_00_00_12": "transcript_001",
        }

    def test_as_many_folders_as_actions_go_by_order(self) -> None:
        found, left = self.mapped(
            ["prompt_31_00_00_10", "prompt_8_00_00_10"],
            action("prompt_001", 10.0, cue=5),
            action("prompt_002", 10.5, cue=6),
        )
        assert left == []
        assert found == {"prompt_8_00_00_10": "prompt_001", "prompt_31_00_00_10": "prompt_002"}

    @pytest.mark.parametrize(
        ("index", "expected"), [(6, None), (5, "prompt_001"), (7, "prompt_002"), (40, None)]
    )
    def test_one_folder_for_two_actions_goes_by_its_number(
        self, index: int, expected: str | None
    ) -> None:
        name = f"prompt_{index}_00_00_10"
        found, left = self.mapped(
            [name], action("prompt_001", 10.0, cue=5), action("prompt_002", 10.0, cue=6)
        )
        assert found.get(name) == expected
        assert (left == []) == (expected is not None)

    def test_more_folders_than_actions_are_left(self) -> None:
        found, left = self.mapped(
            ["prompt_0_00_00_10", "prompt_1_00_00_10"], action("prompt_001", 10.0)
        )
        assert found == {}
        assert len(left) == 2
        assert "it cannot be told whose it is: 2 such folders, and prompt_001" in left[0].reason

    def test_a_sliders_value_has_to_be_the_cues(self) -> None:
        found, left = self.mapped(
            ["slider_0_00_00_10_val40", "slider_1_00_00_10_val60", "slider_2_00_00_20_val55"],
            action("slider_001", 10.0, cue=1, strength=0.6),
            action("slider_002", 10.0, cue=2, strength=0.4),
            action("slider_003", 20.0, cue=3, strength=0.5),
        )
        assert found == {
            "slider_0_00_00_10_val40": "slider_002",
            "slider_1_00_00_10_val60": "slider_001",
        }
        assert "has the value 50, expected 55" in left[0].reason

    def test_a_time_without_a_cue(self) -> None:
        _, left = self.mapped(["prompt_0_00_00_11"], action("prompt_001", 10.0))
        assert left == [Remark("v3/cues/prompt_0_00_00_11", "there is no prompt cue at 00:00:11")]

    async def test_names_of_the_layout(self, tmp_path: Path) -> None:
        store = MemoryStore()
        source = tree(
            tmp_path,
            {
                "Move-Slider_3_00_00_10_val40/1": images(),
                "move_slider_4_00_00_20_val0.4/1": images(),
                "navigate_3_00_00_10/1": images(),
                "prompt_1_00_61_00/1": images(),
                f"{PROMPT}/0": images(),
                f"{PROMPT}/copy of 1": images(),
            },
        )
        (source / "v3" / "cues" / "README.txt").write_text("not a cue")
        (source / "v3" / "cues" / ".DS_Store").write_text("")
        seen: list[tuple[int, int]] = []
        report = await import_sets(
            source,
            store,
            [action("slider_001", 10.0, strength=0.4), action("slider_002", 20.0), BOATS],
            lambda done, total, _place: seen.append((done, total)),
        )
        assert [each.action_id for each in report.imported] == ["slider_001", "slider_002"]
        assert seen == [(1, 2), (2, 2)]
        assert {left.place for left in report.left} == {
            "v3/cues/README.txt",
            "v3/cues/navigate_3_00_00_10",
            "v3/cues/prompt_1_00_61_00",
            f"v3/cues/{PROMPT}/0",
            f"v3/cues/{PROMPT}/copy of 1",
        }

    async def test_no_layout_or_several_versions(self, tmp_path: Path) -> None:
        with pytest.raises(NothingToImport, match="found no such folder"):
            await import_sets(tmp_path, MemoryStore(), [BOATS])
        tree(tmp_path, {f"{PROMPT}/1": images()})
        (tmp_path / "v4" / "cues").mkdir(parents=True)
        with pytest.raises(NothingToImport, match=r"several versions \(v3, v4\)"):
            await import_sets(tmp_path, MemoryStore(), [BOATS])
        report = await import_sets(tmp_path / "v3", MemoryStore(), [BOATS])
        assert len(report.imported) == 1


def test_only_what_is_told_to_be_untimed_may_lack_durations() -> None:
    files = {name: picture("png", number) for number, name in enumerate(("1.png", "final.png"))}
    meta = meta_of(files).model_copy(
        update={"durations": {}, "total_duration": None, "timing": None}
    )
    with pytest.raises(FormatError, match="total_duration: missing; durations: expected steps"):
        dump_meta(meta)
    document = json.loads(dump_meta(meta, untimed=True))
    assert document["durations"] == {}
    assert "total_duration" not in document
    for wrong in ({"timing": "measured"}, {"total_duration": 1.0}):
        with pytest.raises(FormatError, match="durations: missing, though"):
            dump_meta(meta.model_copy(update=wrong), untimed=True)
    half = meta.model_copy(update={"durations": {"1": 0.5}})
    with pytest.raises(FormatError, match="total_duration: missing"):
        dump_meta(half, untimed=True)
    lost = meta.model_copy(update={"total_steps": 2})
    with pytest.raises(FormatError, match="files: expected one image for each"):
        dump_meta(lost, untimed=True)
    timed = meta_of(files)
    assert dump_meta(timed, untimed=True) == dump_meta(timed)
