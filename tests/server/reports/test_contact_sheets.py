"""Contact sheets: what is there is shown small, what is not is said to be missing, and why."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from PIL import Image

from cache.library import Library
from cache.model.keys import Key
from cache.stores.memory import MemoryStore
from cache.stores.port import StoreUnavailable
from server.diagnostics.report import RehearsalOptions, Report, SheetCue
from server.reports.contact_sheets import AWAY, ContactSheet, contact_sheets
from tests.helpers.pictures import difference, pixels
from tests.helpers.reports import run
from tests.helpers.shows import Rhythm, TinyShow, line, make_show, prompt, store_contents

RHYTHM = Rhythm(previews=9, step=0.2, sets=2)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    cues = [line(0, "the sea", id="sea"), prompt(20, "a lamp", id="lamp")]
    return make_show(tmp_path, cues, rhythm=RHYTHM)


@pytest.fixture
async def store(tiny: TinyShow) -> MemoryStore:
    return MemoryStore(store_contents(tiny.actions(), RHYTHM))


async def library(store: MemoryStore) -> Library:
    opened = Library(store)
    await opened.refresh()
    return opened


def report(*action_ids: str, played: int | None = None) -> Report:
    runs = [run(0).model_copy(update={"action_id": each, "set_id": played}) for each in action_ids]
    return Report(
        verdict="ready",
        findings=(),
        show=None,
        asked=RehearsalOptions(seed=1),
        cues=tuple(runs),
        sheet=tuple(
            SheetCue(cue=number, at=20.0 * number, action="prompt", label=each, action_id=each)
            for number, each in enumerate(action_ids)
        ),
    )


def nothing(key: Key) -> bool:
    del key
    return False


async def test_every_set_is_there_by_its_final_image(store: MemoryStore) -> None:
    sheets = await contact_sheets(await library(store), report("sea", "lamp"))

    assert list(sheets) == ["sea", "lamp"]
    contacts = sheets["sea"].contacts
    assert [contact.set_id for contact in contacts] == [0, 1]
    assert [contact.seed for contact in contacts] == [0, 1]
    assert {contact.steps for contact in contacts} == {10}
    small = contacts[1].picture.small
    assert small is not None
    with Image.open(io.BytesIO(small.data)) as image:
        assert image.size == (small.width, small.height)
        shown = image.convert("RGB").resize((160, 96))
    final = store.contents[Key("actions/sea/sets/1/final.jpg")]
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    assert difference(pixels(buffer.getvalue()), pixels(final)) < 12


async def test_the_strip_is_of_the_set_that_was_played_first(store: MemoryStore) -> None:
    first = report("sea", played=1)
    again = first.cues[0].model_copy(update={"screening": 2, "set_id": 0})
    played = first.model_copy(update={"cues": (*first.cues, again)})

    sheets = await contact_sheets(await library(store), played)

    assert sheets["sea"].strip_of == 1
    strip = sheets["sea"].strip
    assert [frame.step for frame in strip] == [1, 3, 5, 6, 8, 10]
    assert [frame.final for frame in strip] == [False] * 5 + [True]


async def test_of_an_action_that_was_drawn_live_the_first_set_is_unrolled(
    store: MemoryStore,
) -> None:
    sheets = await contact_sheets(await library(store), report("sea", played=None))

    assert sheets["sea"].strip_of == 0


async def test_a_short_run_is_unrolled_whole(tiny: TinyShow) -> None:
    store = MemoryStore(store_contents(tiny.actions(), Rhythm(previews=2)))

    sheets = await contact_sheets(await library(store), report("sea"))

    assert [frame.step for frame in sheets["sea"].strip] == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("final.jpg", None, "final.jpg is missing"),
        ("final.jpg", b"\xff\xd8\xff", "expected"),
        ("meta.json", None, "it has no meta.json"),
        ("meta.json", b"{}", "total_steps"),
    ],
)
async def test_what_is_broken_has_a_place_and_a_reason(
    store: MemoryStore, name: str, data: bytes | None, reason: str
) -> None:
    key = Key(f"actions/sea/sets/1/{name}")
    if data is None:
        del store.contents[key]
    else:
        store.contents[key] = data

    sheets = await contact_sheets(await library(store), report("sea", played=1))

    whole, broken = sheets["sea"].contacts
    assert whole.picture.small is not None
    assert broken.picture.small is None
    assert reason in broken.picture.trouble


async def test_bytes_that_pass_for_an_image_and_cannot_be_decoded_are_told_of(
    store: MemoryStore,
) -> None:
    """Its marks and its digest are right, the picture is not."""
    png = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IHDR\0\0\0\0" + b"\0\0\0\0IDAT\0\0\0\0"
    png += b"\0\0\0\0IEND\0\0\0\0"
    prefix = "actions/sea/sets/1/"
    del store.contents[Key(f"{prefix}final.jpg")]
    store.contents[Key(f"{prefix}final.png")] = png
    store.contents[Key(f"{prefix}meta.json")] = b'{"total_steps": 9}'

    sheets = await contact_sheets(await library(store), report("sea"))

    assert "cannot be decoded" in sheets["sea"].contacts[1].picture.trouble


async def test_nothing_is_fetched(store: MemoryStore) -> None:
    opened = await library(store)
    before = store.calls.total()

    sheets = await contact_sheets(opened, report("sea", "lamp"), at_hand=nothing)

    assert store.calls.total() == before
    troubles = {contact.picture.trouble for contact in sheets["sea"].contacts}
    assert troubles == {AWAY}
    assert sheets["sea"].strip == ()


async def test_what_is_half_here_is_shown_as_far_as_it_is(store: MemoryStore) -> None:
    sheets = await contact_sheets(
        await library(store),
        report("sea", played=0),
        at_hand=lambda key: not key.endswith(("/1.jpg", "sets/1/final.jpg")),
    )

    strip = sheets["sea"].strip
    assert strip[0].picture.trouble == AWAY
    assert all(frame.picture.small for frame in strip[1:])
    assert sheets["sea"].contacts[1].picture.trouble == AWAY


async def test_a_store_that_does_not_answer_is_no_exception(store: MemoryStore) -> None:
    opened = await library(store)
    store.fail_next(StoreUnavailable(Key("actions"), "the bucket is closed"))

    sheets = await contact_sheets(opened, report("sea"))

    assert "the bucket is closed" in sheets["sea"].contacts[0].picture.trouble
    assert sheets["sea"].contacts[1].picture.small is not None


async def test_an_action_without_sets_has_an_empty_sheet(store: MemoryStore) -> None:
    sheets = await contact_sheets(await library(store), report("unheard"))

    assert sheets == {"unheard": ContactSheet("unheard")}


async def test_cancelling_leaves_nothing_behind(store: MemoryStore) -> None:
    opened = await library(store)
    store.answering.clear()
    with pytest.raises(TimeoutError):
        # Whenever this comes, something is under way or about to be.
        await asyncio.wait_for(contact_sheets(opened, report("sea", "lamp")), 0.02)
    assert asyncio.all_tasks() == {asyncio.current_task()}
