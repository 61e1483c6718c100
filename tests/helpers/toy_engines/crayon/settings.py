from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from generator.engines.settings import LocalSection


class CrayonSection(LocalSection):
    """A toy that draws here."""

    live_unless_told: ClassVar[bool] = False

    kind: Literal["crayon"] = "crayon"
    wax: Annotated[float, Field(gt=0)] = 1.0
