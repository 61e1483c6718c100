"""The base image that comes with us, for image-to-image programs that bring none of their own."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def default_base_image() -> bytes:
    """A quiet room in the light of a window: JPEG, 960 by 800 pixels, painted by the sketch engine.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    return files("generator").joinpath("assets", "base.jpg").read_bytes()
