from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generator.templates import (
    MAX_ALTERNATIVES,
    MAX_NESTED,
    BadTemplate,
    TooManyPrompts,
    expand,
)


@pytest.mark.parametrize(
    ("template", "prompts"),
    [
        ("a lighthouse", ("a lighthouse",)),
        ("a {red|blue} lighthouse", ("a red lighthouse", "a blue lighthouse")),
        ("{red|{pale|deep} blue}", ("red", "pale blue", "deep blue")),
        ("sea {in fog|}", ("sea in fog", "sea")),
        ("sea{ in fog | }", ("seain fog", "sea")),
        ("{a|b} {c|d}", ("a c", "a d", "b c", "b d")),
        ("{2$$a|b|c}", ("a,b", "a,c", "b,a", "b,c", "c,a", "c,b")),
        ("{2$$ and $$a|b}", ("a and b", "b and a")),
        ("{1-2$$, $$a|b}", ("a", "b", "a, b", "b, a")),
        ("{9$$a|b}", ("a,b", "b,a")),
        ("{a}", ("a",)),
        ("{}", ("",)),
        ("", ("",)),
        ("{a|a}", ("a",)),
        ("{a |a}  b", ("a b",)),
        ("{2::a|0.5::b}", ("a", "b")),
    ],
)
def test_all_prompts_of_a_template(template: str, prompts: tuple[str, ...]) -> None:
    assert expand(template, 100) == prompts


@pytest.mark.parametrize(
    "text",
    [
        "the #1 of them",
        "https://venue.example // a note /* here */",
        "50% of $5, ${x}",
        "a_b __init__ __colors__",
        "~soft @home !now",
        "(red:1.2) [blue] <lora:x:1>",
        "a|b",
        "16:9 $$ 4::3",
        "C:\\dir",
    ],
)
def test_what_the_library_would_take_for_more_is_text(text: str) -> None:
    text = text.replace("${x}", "$x")  # braces are alternatives everywhere
    assert expand(text, 10) == (text,)
    if "|" not in text:
        assert expand(f"{{{text}|b}}", 10) == (text, "b")


@pytest.mark.parametrize("sign", list("~@!#$%/"))
def test_an_alternative_may_begin_with_any_sign(sign: str) -> None:
    assert expand(f"{{{sign}a|{sign}b}}", 10) == (f"{sign}a", f"{sign}b")


def test_a_brace_or_a_bar_may_be_meant_as_it_stands() -> None:
    assert expand(r"\{ {a\|b|c\\} \}", 10) == ("{ a|b }", "{ c\\ }")


def test_a_wildcard_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.txt").write_text("hunter2\n")
    monkeypatch.chdir(tmp_path)
    for template in ("__secret__", "{__secret__|a}", "{2$$__secret__}", f"__{tmp_path}/secret__"):
        assert "hunter2" not in "".join(expand(template, 10))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a {b|c", "expected } for { at character 3"),
        ("a b} {c|d}", "expected { before } at character 4"),
        ("{a|{b}", "expected } for { at character 1"),
        ("{" * (MAX_NESTED + 1) + "}" * (MAX_NESTED + 1), "within one another"),
        ("{" + "|" * MAX_ALTERNATIVES + "}", "alternatives, all together, found 501"),
        ("{12$$" + "|".join(["{a|b}"] * 13) + "}", "as many different alternatives"),
        ("{2$${a}|a}", "as many different alternatives"),
        ("{2$$ # $$a|b}", "plain signs between two $$"),
        ("{2$$ — $$a|b}", "plain signs between two $$"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(template: str, message: str) -> None:
    with pytest.raises(BadTemplate) as caught:
        expand(template, 10)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "count"),
    [
        ("{a|b}" * 11, 2048),
        ("{a|b}" * 200, None),
        ("{20$$" + "|".join("abcdefghijklmnopqrstuvwxyz") + "}", None),
        ("{5$$" + "|".join(f"{{a|b{n}}}" for n in range(20)) + "}", 59_535_360),
    ],
)
def test_a_template_is_counted_before_anything_is_made_of_it(
    template: str, count: int | None
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TooManyPrompts) as caught:
            expand(template, 1000)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    assert caught.value.count == count


def test_as_many_as_are_wanted_are_not_too_many() -> None:
    assert len(expand("{a|b}" * 10, 1024)) == 1024
    with pytest.raises(TooManyPrompts, match=r"at most 1,023 prompts, found 1,024"):
        expand("{a|b}" * 10, 1023)


def test_prompts_that_are_too_long_together_are_too_many() -> None:
    with pytest.raises(TooManyPrompts):
        expand("x" * 9900 + "{a|b}" * 12, 10_000)


Tree = str | list["Tree"] | tuple["Tree", ...]
"""Text, one after the other, or alternatives."""

trees: st.SearchStrategy[Tree] = st.recursive(
    st.text("ab #/_~@", max_size=4).map(str.strip),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, min_size=1, max_size=3).map(tuple),
    max_leaves=8,
)


def written(tree: Tree) -> str:
    match tree:
        case str():
            return tree
        case list():
            return "".join(written(each) for each in tree)
        case _:
            return "{" + "|".join(written(each) for each in tree) + "}"


def meant(tree: Tree) -> list[str]:
    match tree:
        case str():
            return [tree]
        case list():
            return ["".join(parts) for parts in itertools.product(*map(meant, tree))]
        case _:
            return [text for each in tree for text in meant(each)]


@settings(deadline=None)
@given(trees)
def test_it_is_expanded_as_it_is_read(tree: Tree) -> None:
    wanted = {" ".join(text.split()) for text in meant(tree)}
    try:
        found = expand(written(tree), 500)
    except TooManyPrompts:
        assert len(meant(tree)) > 500
        return
    assert set(found) == wanted
    assert len(found) == len(wanted)


@settings(deadline=None)
@given(st.text(st.sampled_from("{}|$\\0123-:#/_~@!%ab\n\x00\ud800"), max_size=40))
def test_any_text_makes_prompts_or_says_why_not(text: str) -> None:
    try:
        prompts = expand(text, 200)
    except (BadTemplate, TooManyPrompts):
        return
    assert 1 <= len(prompts) <= 200
    assert expand(text, 200) == prompts
    assert all(prompt.isprintable() for prompt in prompts)
