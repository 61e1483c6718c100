"""What a worker and those who ask it have in common: for whom, and a set drawn into a store."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from generator.engines.port import EngineError
from generator.sheet.cues import Identifier
from generator.sheet.description import Description
from generator.sheet.recipe import Recipe

PRIORITY_HEADER: Final = "Understudy-Priority"
"""Of a request: for whom it is (`Priority`). Without it, or with another word, for anybody."""


class SetRequest(BaseModel):
    """The body of `POST /action-sets`: one set to draw and keep.

    Attributes:
        recipe: what; the set's number decides its seed.
        action_id: whose set.
        set_id: which.
        description: what the manifest will say of the action, as far as the sender knows.
        store: where the sender expects the set to be kept (`SharedStore.address`). A worker with
            another store refuses; None leaves it to the worker.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    recipe: Recipe
    action_id: Identifier
    set_id: Annotated[int, Field(ge=0, le=9_999_999)]
    description: Description = Description()
    store: str | None = None


class NotKeptThere(EngineError):
    """The worker does not keep sets where they were to be: they have to be fetched from it."""
