"""What is left to chance: streams of numbers that all follow from one seed (pure).

Each has a name, so what is drawn from one does not change what comes from another: the sets
of a cue stay the same whoever looks ahead, and a rehearsal with the show's seed draws what
the show will draw.
"""

from __future__ import annotations

import secrets
from random import Random

_SEED_BITS = 53
"""So that a seed survives as a number in JSON, whoever reads it."""


def new_seed() -> int:
    """A seed that nobody could have guessed."""
    return secrets.randbits(_SEED_BITS)


class RandomStreams:
    """Streams of numbers by name.

    Args:
        seed: what they follow from.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def stream(self, *name: str | int) -> Random:
        """The numbers of one name, from their beginning: asked again, the same again."""
        # Seeding with a text hashes it with SHA-512: the same on every machine and Python.
        return Random("/".join((str(self._seed), *map(str, name))))
