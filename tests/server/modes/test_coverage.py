from __future__ import annotations

from pathlib import Path

from server.config.show import load_show
from server.modes.coverage import UncoveredCue, uncovered
from tests.helpers.house import house
from tests.helpers.pictures import picture
from tests.helpers.shows import LOOP, Rhythm, cue, prompt, write_show

CUES = [*(prompt(10 * k, f"nr {k}", id=f"nr{k}") for k in range(8)), cue(120, "end")]


def test_what_ends_in_nothing_sure_is_named(tmp_path: Path) -> None:
    actions = load_show(write_show(tmp_path, CUES), {}, {}).plan({}).actions
    sets = {f"nr{k}": k % 2 for k in range(8)}
    found = uncovered(actions, sets=lambda action_id: sets[action_id], still=False)
    assert [each.action_id for each in found] == ["nr0", "nr2", "nr4", "nr6"]
    assert [each.cue_index for each in found] == [0, 2, 4, 6]
    assert found[0] == UncoveredCue("nr0", 0, "and will hold the picture before")


def test_engines_prove_nothing_and_a_still_image_only_beneath_them(tmp_path: Path) -> None:
    actions = load_show(write_show(tmp_path, CUES), {}, {}).plan({}).actions
    found = uncovered(actions, sets=lambda _: 0, still=False, engines=["gpu", "cloud"])
    assert {each.reason for each in found} == {"only engines, which may fail (gpu, cloud)"}
    assert [each.action_id for each in found] == [each.action_id for each in actions]
    assert uncovered(actions, sets=lambda _: 0, still=True, engines=["gpu"]) == ()
    nothing_else = uncovered(actions, sets=lambda _: 0, still=True)
    assert [each.action_id for each in nothing_else] == [each.action_id for each in actions]
    assert "nothing but the still image" in nothing_else[0].reason
    shut = uncovered(
        actions, sets=lambda _: 0, still=True, engines=["gpu"], may_draw=lambda _: False
    )
    assert shut == nothing_else
    assert uncovered(actions, sets=lambda _: 1, still=False) == ()


async def test_it_is_in_the_state(tmp_path: Path) -> None:
    rhythms = {"nr3": Rhythm(sets=0)}
    async with house(tmp_path / "bare", CUES, rhythms=rhythms, toml=LOOP) as opened:
        await opened.readiness.look()
        (problem,) = opened.wrong_now("error")
        assert problem == "nr3: there is no set to play, and will hold the picture before"
        coverage = opened.view.state()["coverage"]
        assert [each["action_id"] for each in coverage["unproven"]] == ["nr3"]
    (tmp_path / "still").mkdir()
    (tmp_path / "still" / "still.jpg").write_bytes(picture("still"))
    toml = 'still = "still.jpg"\n' + LOOP
    async with house(tmp_path / "still", CUES, rhythms=rhythms, toml=toml) as opened:
        await opened.readiness.look()
        (problem,) = opened.wrong_now("error")
        assert "nothing but the still image" in problem
        coverage = opened.view.state()["coverage"]
        assert coverage["without_sets"] == ["nr3"]
        assert [each["action_id"] for each in coverage["unproven"]] == ["nr3"]
