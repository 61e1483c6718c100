"""A kind of cue is added by its model and what screens are told of it, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from generator.sheet.cues import KINDS, Cue, CueSheetError, parse_cues
from generator.sheet.drawing import CueDrawing, InputState
from server.diagnostics.report import RehearsalOptions
from server.performance.cue_messages import CueFired, cue_messages
from server.rehearsal.rehearsal import rehearse
from server.stage.messages import Moment, StageMessage
from tests.helpers.house import house
from tests.helpers.screens import screen, web
from tests.helpers.servers import serving
from tests.helpers.shows import LOOP, Rhythm, TinyShow, cue, line, make_show

RHYTHM = Rhythm(previews=2, step=0.2, sets=2)
CUES = [
    cue(0, "start"),
    line(1, "boats on the sea", id="boats"),
    cue(4, "ring", tone="a flat", program="P4"),
    cue(9, "end"),
]


class RingCue(Cue):
    """A bell rings, and is drawn."""

    action: Literal["ring"]
    tone: str

    @property
    def generates(self) -> bool:
        return True

    def drawing(self, inputs: InputState) -> CueDrawing:
        return CueDrawing("ring", self.program or inputs.program, f"a bell in {self.tone}")

    @property
    def text(self) -> str:
        return f"it rings in {self.tone}"


class Bell(StageMessage):
    """A bell that rings from `at` on."""

    type: Literal["bell"] = "bell"
    tone: str
    at: Moment


@cue_messages.register
def bell(cue: RingCue, fired: CueFired) -> Iterator[StageMessage]:
    yield Bell(tone=cue.tone, at=fired.at)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "ring", RingCue)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path, CUES, toml=LOOP, rhythm=RHYTHM)


def test_a_sheet_may_have_it_and_is_told_where_it_is_wrong() -> None:
    sheet = b'[{"time": "00:00:00", "action": "ring"}, {"time": "00:00:01", "action": "sing"}]'
    with pytest.raises(CueSheetError) as refused:
        parse_cues(sheet, "cues.json", [])
    missing, unknown = refused.value.problems
    assert missing.message == "tone is missing"
    assert unknown.message.endswith("end, ring")


def test_it_is_planned_under_its_own_name(tiny: TinyShow) -> None:
    _, action = tiny.load().plan({}).actions
    assert (action.action_id, action.type, action.program) == ("ring_001", "ring", "P4")
    assert (action.prompt, action.recipe.prompt) == (
        "a bell in a flat",
        "a bell in a flat, photorealistic",
    )


async def test_it_is_told_and_drawn_at_its_time_and_told_again_where_the_show_comes_after_it(
    tmp_path: Path,
) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=LOOP) as opened:
        await opened.play_to(6)
        assert [told.at for told in opened.of("bell")] == [4.0]
        assert opened.runs() == [(1.0, "boats"), (4.0, "ring_001")]
        for position, times in ((5.0, 2), (2.0, 2)):
            opened.playback.seek(position)
            await opened.rest()
            rung = opened.of("bell")
            assert len(rung) == times
            assert rung[-1].message["at"] == pytest.approx(opened.clock.now() + 4 - 5)


async def test_a_screen_sees_it_and_the_technician_reads_of_it(tiny: TinyShow) -> None:
    async with serving(tiny.load()) as address, web(address) as client, asyncio.timeout(30):
        async with screen(address) as wall:
            await wall.until(lambda wall: wall.of("bell"))
            assert wall.of("bell")[0].message["tone"] == "a flat"
        (told,) = [
            each for each in (await client.get("/api/cues")).json()["cues"] if each["index"] == 2
        ]
        assert (told["cue"], told["text"]) == ("ring_001", "it rings in a flat")
        assert told["sets"] == 2


def test_a_rehearsal_plays_it_and_tells_of_it(tiny: TinyShow) -> None:
    report = rehearse(tiny.load(), RehearsalOptions(seed=1), wall=1_800_000_000.0)
    assert report.verdict == "ready"
    played = {run.action_id: run.cue for run in report.cues}
    assert played["ring_001"] == 2
    assert report.sheet[2].label == "it rings in a flat"
