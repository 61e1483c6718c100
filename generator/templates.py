r"""Templates: prompts with alternatives, `{a|b}`, and all that can be made of one (pure).

    a {red|blue} lighthouse        two prompts
    a {red|{pale|deep} blue} sea   three: alternatives may be nested
    sea {in fog|}                  an alternative may be nothing; blanks before one are dropped
    {2$$ and $$cats|dogs|owls}     two of them in every order, with « and » between
    {1-2$$cats|dogs}               one or two of them, with a comma between
    50\{                            a brace, a bar or a backslash that is meant as it stands

`dynamicprompts` reads and expands them; of its language, this is what is spoken here. Its
wildcards would read files, its variables and wrappers multiply text, its random samplers never
draw the same again, and its comments lose half of ``#1``: to us, all of those are plain text. A
template is counted before anything is made of it.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Final

from dynamicprompts.commands import Command, LiteralCommand, SequenceCommand, VariantCommand
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.parser.config import ParserConfig
from dynamicprompts.parser.parse import get_cached_parser, parse
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.wildcards import WildcardManager
from pyparsing import ParseBaseException

from cache.untrusted import clean_text

MAX_NESTED: Final = 12
"""Alternatives within one another."""

MAX_ALTERNATIVES: Final = 500
"""Alternatives in a template, all together: reading them takes a millisecond each."""

MAX_TEXT: Final = 2**25
"""Characters of all prompts of one template, together."""

# A cleaned text has no control characters: none of these can be in one.
_SHIELDS: Final = {
    sign: chr(place)
    for place, sign in zip(itertools.chain(range(1, 9), (0x0B, 0x0C)), "{}|\\#$/~@!", strict=True)
}
_SHIELDED: Final = str.maketrans({shield: sign for sign, shield in _SHIELDS.items()})
_CONFIG: Final = ParserConfig(
    wildcard_wrap="\x0e\x0e",
    variable_start="\x0f",
    variable_end="\x10",
    wrap_start="\x11",
    wrap_end="\x12",
)
_CONTEXT: Final = SamplingContext(
    default_sampling_method=SamplingMethod.COMBINATORIAL,
    wildcard_manager=WildcardManager(),  # of no folder
    parser_config=_CONFIG,
)
with warnings.catch_warnings():
    # The grammar is made of what pyparsing 3.3 calls by other names. Made here, it is kept for
    # as long as its configuration.
    warnings.simplefilter("ignore", DeprecationWarning)
    get_cached_parser(_CONFIG)
_READING: Final = threading.Lock()
"""The grammar is shared, and nowhere is it said that two threads may read by it at once."""

_TOKEN: Final = re.compile(
    r"\\(?P<escaped>[{}|\\])|(?P<open>\{)(?P<bound>\s*(?:\d{1,4}(?:-\d{0,4})?|-\d{1,4})"
    r"\$\$(?:[^${}|\n]*\$\$|\|\$\$)?)?|(?P<other>[}|\#$/~@!])"
)


class BadTemplate(ValueError):
    """A template that cannot be read; the message says where, and what was expected."""


class TooManyPrompts(ValueError):
    """A template of which more can be made than anybody wants.

    Attributes:
        count: how many prompts, at most; None where that is beyond counting.
    """

    def __init__(self, count: int | None, limit: int) -> None:
        self.count = count
        many = "more than can be counted" if count is None else f"{count:,}"
        super().__init__(f"expected a template of at most {limit:,} prompts, found {many}")


def expand(template: str, limit: int) -> tuple[str, ...]:
    """All prompts that can be made of a template, each once, the last alternatives changing first.

    Args:
        template: as it was written.
        limit: how many prompts are wanted at most.

    Raises:
        BadTemplate: it cannot be read.
        TooManyPrompts: there are more, or they are too long together.
    """
    command = _read(_shielded(clean_text(template)))
    count = _count(command)
    if count > limit:
        raise TooManyPrompts(None if count >= _BEYOND else count, limit)
    if count * len(template) > MAX_TEXT:
        raise TooManyPrompts(count, MAX_TEXT // len(template))
    made = (str(each) for each in _CONTEXT.sample_prompts(command, count))
    prompts = (" ".join(prompt.translate(_SHIELDED).split()) for prompt in made)
    if not (different := tuple(dict.fromkeys(prompts))):
        raise BadTemplate("expected as many different alternatives as are to be chosen of them")
    return different


# ---------------------------------------------------------------- reading


def _shielded(template: str) -> str:
    """The template with all that the library would take for something else in disguise.

    Raises:
        BadTemplate: braces that do not match, or too many of them.
    """
    opened: list[int] = []
    alternatives = 0

    def shielded(found: re.Match[str]) -> str:
        nonlocal alternatives
        if found["escaped"]:
            return _SHIELDS[found["escaped"]]
        if found["open"]:
            opened.append(found.start())
            alternatives += 1
            if len(opened) > MAX_NESTED:
                raise BadTemplate(f"expected at most {MAX_NESTED} alternatives within one another")
            return found[0]
        sign = found["other"]
        if sign == "}" and opened:
            opened.pop()
            return sign
        if sign == "}":
            place = found.start() + 1
            raise BadTemplate(f"expected {{ before }} at character {place}; as it stands: \\}}")
        if sign == "|" and opened:
            alternatives += 1
            return sign
        return _SHIELDS[sign]

    text = _TOKEN.sub(shielded, template)
    if opened:
        raise BadTemplate(f"expected }} for {{ at character {opened[-1] + 1}; as it stands: \\{{")
    if alternatives > MAX_ALTERNATIVES:
        raise BadTemplate(
            f"expected at most {MAX_ALTERNATIVES} alternatives, all together, found {alternatives}"
        )
    return text


def _read(shielded: str) -> Command:
    try:
        with _READING:
            return parse(shielded, _CONFIG) if shielded else LiteralCommand("")
    except (ParseBaseException, RecursionError, ValueError):
        expected = "expected alternatives such as {a|b} or {2$$ and $$a|b|c}"
        raise BadTemplate(f"{expected}, with plain signs between two $$") from None


# ---------------------------------------------------------------- counting

_BEYOND: Final = 10**12
"""What is more than that is not told apart any more, so that counting stays cheap."""

_MANY_OF: Final = 15
"""So many of different alternatives, in every order: that is beyond, for 15! > `_BEYOND`."""


def _count(command: Command) -> int:
    """How many prompts it makes at most: two that happen to be the same are counted twice."""
    match command:
        case SequenceCommand():
            return _product(_count(each) for each in command.tokens)
        case VariantCommand():
            # The library leaves out equal alternatives before it puts any together.
            different: list[Command] = []
            for value in command.values:
                if value not in different:
                    different.append(value)
            counts = [_count(value) for value in different]
            low = min(command.min_bound, len(command.values))
            high = min(command.max_bound, len(different))
            return _arrangements(counts, low, high)
        case LiteralCommand():
            return 1
        case _:
            raise BadTemplate("expected text and alternatives such as {a|b}, nothing else")


def _product(counts: Iterator[int]) -> int:
    product = 1
    for count in counts:
        product = min(product * count, _BEYOND)
    return product


def _arrangements(counts: list[int], low: int, high: int) -> int:
    """In how many ways `low` to `high` of the alternatives can stand in a row."""
    if (low, high) == (1, 1):
        return min(sum(counts), _BEYOND)
    if high >= _MANY_OF:
        return _BEYOND
    chosen = [1] + [0] * high  # in how many ways so many are chosen, in the order they stand in
    for count in counts:
        for size in range(high, 0, -1):
            chosen[size] = min(chosen[size] + chosen[size - 1] * count, _BEYOND)
    rows = sum(math.factorial(size) * chosen[size] for size in range(low, high + 1))
    return min(rows, _BEYOND)
