"""The real piece, 74 minutes of it, played from start to end on a virtual clock."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from generator.sheet.cues import parse_time
from tests.helpers.house import house
from tests.helpers.servers import ROOT
from tests.helpers.shows import LOOP, Rhythm

SHEET = ROOT.parent / "shared" / "data" / "cues.json"
"""Beside the checkout, not in it: it is somebody's piece."""

TOML = f'{LOOP}[playback]\ndraw = "enter"\nlead = 0.5\n'


@pytest.mark.skipif(not SHEET.exists(), reason="the real sheet is not beside this checkout")
async def test_every_cue_of_the_real_sheet_fires_once_and_on_time(tmp_path: Path) -> None:
    cues = json.loads(SHEET.read_bytes())
    async with house(tmp_path, cues, rhythm=Rhythm(previews=2, step=1.0), toml=TOML) as home:
        length = home.show.duration
        await home.play_to(length - 0.5, step=2.0)

        fired = {
            sample.labels["action"]: int(sample.value)
            for metric in home.metrics.cues.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }
        expected = Counter(cue["action"] for cue in cues)
        del expected["end"]
        assert fired == dict(expected)

        spoken = [cue for cue in cues if cue["action"] == "transcript"]
        captions = home.of("caption")
        assert [told.message["text"] for told in captions] == [cue["transcript"] for cue in spoken]
        for told, cue in zip(captions, spoken, strict=True):
            assert told.at == pytest.approx(parse_time(cue["time"]), abs=0.05)

        first_runs: dict[str, float] = {}
        for at, cue_id in home.runs():
            first_runs.setdefault(cue_id, at)
        assert len(first_runs) == 123
        for action in home.actions:
            begins = action.at + home.runtime.beginnings.after(action.cue_index)
            assert first_runs[action.action_id] == pytest.approx(begins, abs=0.05)
            if action.type == "transcript":
                assert begins == action.at
            else:  # once its text is typed, or its slider has moved
                assert action.at + 0.9 < begins < action.at + 4.5
        rows = await home.asrun.rows(limit=None)
        assert {row["outcome"] for row in rows if row["ended_at"] is not None} <= {
            "completed",
            "cut",
        }
        # A run of three seconds is cut by nobody: the tightest two cues are four seconds apart.
        assert sum(row["outcome"] == "cut" for row in rows) == 0
        # The last two prompts regenerate until the end, each cycle with another set.
        again = [cue_id for _, cue_id in home.runs() if cue_id == "prompt_005"]
        assert len(again) > 10
        assert home.metrics.jumps._value.get() == 0
