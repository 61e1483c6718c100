from __future__ import annotations

import json

import pytest

from cache.library import BrokenSet, Library
from cache.model.documents import FormatError
from cache.model.keys import MANIFEST, BadKey, image_key, meta_key
from cache.stores.memory import MemoryStore
from cache.stores.port import StoreUnavailable
from tests.cache.samples import add_set, images_of, original_meta, picture, plain, small_store

META = meta_key("prompt_001", 0)
FIRST = image_key("prompt_001", 0, "1.jpg")


@pytest.fixture
def store() -> MemoryStore:
    return small_store()


@pytest.fixture
def library(store: MemoryStore) -> Library:
    return Library(store)


async def test_a_set_is_found_and_its_images_are_read(library: Library) -> None:
    assert library.set_ids("prompt_001") == ()
    assert await library.refresh() is library.manifest
    assert library.set_ids("prompt_001") == (0, 1)
    assert library.set_ids("nobody") == ()
    found = await library.open_set("prompt_001", 1)
    assert (found.action_id, found.set_id) == ("prompt_001", 1)
    images = [await library.image(step) for step in found.steps]
    assert images == list(images_of(3).values())


async def test_a_meta_that_names_its_files_needs_no_listing(
    library: Library, store: MemoryStore
) -> None:
    await library.open_set("prompt_001", 0)
    assert store.calls == {"get": 1}


async def test_a_set_of_the_original_generator_is_listed(
    library: Library, store: MemoryStore
) -> None:
    store.contents[META] = original_meta(3)
    found = await library.open_set("prompt_001", 0)
    assert [step.name for step in found.steps] == ["1.jpg", "2.jpg", "3.jpg", "final.jpg"]
    assert [step.duration for step in found.steps] == [0.5, 0.5, 0.5, None]
    assert store.calls == {"get": 1, "list": 1}
    assert await library.image(found.steps[-1]) == images_of(3)["final.jpg"]


async def test_metas_are_remembered_until_the_next_refresh(store: MemoryStore) -> None:
    library = Library(store, sets_remembered=2)
    for _ in range(3):
        await library.open_set("prompt_001", 0)
        await library.open_set("prompt_001", 1)
    assert store.calls["get"] == 2
    await library.open_set("prompt_002", 0)
    await library.open_set("prompt_001", 0)
    assert store.calls["get"] == 4
    await library.refresh()
    await library.open_set("prompt_001", 0)
    assert store.calls["get"] == 6


async def test_a_store_without_a_manifest_is_empty() -> None:
    library = Library(MemoryStore())
    assert (await library.refresh()).actions == {}


@pytest.mark.parametrize("fault", ["gone", "down", "damaged"])
async def test_the_last_good_manifest_stays_whatever_happens(
    library: Library, store: MemoryStore, fault: str
) -> None:
    good = await library.refresh()
    if fault == "gone":
        del store.contents[MANIFEST]
    elif fault == "down":
        store.fail_next(StoreUnavailable(MANIFEST, "down"))
    else:
        store.contents[MANIFEST] = b"half"
    with pytest.raises((StoreUnavailable, FormatError), match=MANIFEST):
        await library.refresh()
    assert library.manifest is good


async def test_a_set_without_a_meta_does_not_exist(library: Library, store: MemoryStore) -> None:
    del store.contents[META]
    with pytest.raises(BrokenSet, match=r"set 0 of prompt_001 is broken: it has no meta.json"):
        await library.open_set("prompt_001", 0)


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        (b"{", "expected a JSON object"),
        (b"{}", "total_steps"),
        (original_meta(2), "found 3.jpg, expected steps 1 to 2"),
        (original_meta(5), "step 4 is missing"),
    ],
)
async def test_a_set_with_a_bad_meta_is_broken(
    library: Library, store: MemoryStore, meta: bytes, reason: str
) -> None:
    store.contents[META] = meta
    with pytest.raises(BrokenSet, match=reason) as caught:
        await library.open_set("prompt_001", 0)
    assert (caught.value.action_id, caught.value.set_id) == ("prompt_001", 0)
    assert "actions/prompt_001/sets/0/" in caught.value.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "1.jpg is missing"),
        (b"", r"expected \d+ bytes \(meta.json\), found 0"),
        (images_of(3)["1.jpg"][:-100], r"expected \d+ bytes"),
        (images_of(3)["1.jpg"][:-100] + bytes(100), "cut short"),
        (images_of(3)["1.jpg"].replace(b"\xff\xd9", b"\xff\xd8"), "end marker is missing"),
    ],
)
async def test_an_image_that_is_not_the_right_one_is_broken(
    library: Library, store: MemoryStore, data: bytes | None, reason: str
) -> None:
    found = await library.open_set("prompt_001", 0)
    if data is None:
        del store.contents[FIRST]
    else:
        store.contents[FIRST] = data
    with pytest.raises(BrokenSet, match=reason):
        await library.image(found.steps[0])
    assert await library.image(found.steps[1])


async def test_a_changed_image_of_the_same_size_is_broken(
    library: Library, store: MemoryStore
) -> None:
    found = await library.open_set("prompt_001", 0)
    changed = bytearray(store.contents[FIRST])
    changed[-20] ^= 1
    store.contents[FIRST] = bytes(changed)
    with pytest.raises(BrokenSet, match="SHA-256"):
        await library.image(found.steps[0])


async def test_an_image_that_the_meta_says_nothing_of_must_still_be_whole(
    library: Library, store: MemoryStore
) -> None:
    store.contents[META] = original_meta(3)
    found = await library.open_set("prompt_001", 0)
    store.contents[FIRST] = picture("png")
    with pytest.raises(BrokenSet, match="the name says image/jpeg"):
        await library.image(found.steps[0])


async def test_a_set_drawn_again_is_read_anew_after_it_broke(
    library: Library, store: MemoryStore
) -> None:
    found = await library.open_set("prompt_001", 0)
    contents: dict[str, bytes] = {}
    add_set(contents, "prompt_001", 0, {"1.jpg": plain("jpg", (9, 9, 9))})
    store.contents.update(MemoryStore(contents).contents)
    with pytest.raises(BrokenSet):
        await library.image(found.steps[0])
    again = await library.open_set("prompt_001", 0)
    assert await library.image(again.steps[0]) == plain("jpg", (9, 9, 9))


async def test_a_large_image_is_checked_beside_the_loop(
    library: Library, store: MemoryStore
) -> None:
    large = picture("png", size=800, compress_level=0)
    assert len(large) > 1024 * 1024
    contents: dict[str, bytes] = {}
    add_set(contents, "large", 0, {"1.png": large})
    store.contents.update(MemoryStore(contents).contents)
    found = await library.open_set("large", 0)
    assert await library.image(found.steps[0]) == large


async def test_a_store_that_does_not_answer_is_not_the_fault_of_the_set(
    library: Library, store: MemoryStore
) -> None:
    store.fail_next(StoreUnavailable(META, "down"))
    with pytest.raises(StoreUnavailable):
        await library.open_set("prompt_001", 0)
    found = await library.open_set("prompt_001", 0)
    store.fail_next(StoreUnavailable(FIRST, "down"))
    with pytest.raises(StoreUnavailable):
        await library.image(found.steps[0])
    assert await library.image(found.steps[0])


async def test_an_id_that_is_none_is_the_callers_mistake(library: Library) -> None:
    with pytest.raises(BadKey):
        await library.open_set("../prompt_001", 0)


async def test_a_manifest_of_many_sets_is_read_beside_the_loop() -> None:
    actions = {f"prompt_{n}": {"prompt": "x" * 100, "sets": 5} for n in range(3000)}
    data = json.dumps({"version": "1.0.0", "actions": actions}).encode()
    assert len(data) > 256 * 1024
    library = Library(MemoryStore({MANIFEST: data}))
    assert (await library.refresh()).total_sets == 15_000
