"""A picture in a style, asked for in the words of the project's brief, as a job (pure)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from generator.jobs.drawing import NO_ACTION
from generator.jobs.fields import BadJobRequest, FieldProblem, read_fields
from generator.jobs.model import USUAL_PRIORITY
from generator.jobs.request import (
    Catalogue,
    Drawing,
    JobRequest,
    Name,
    Prompt,
    RequestReading,
    Seed,
    new_job,
)
from generator.jobs.store import NewJob
from generator.sheet.recipe import SEED_LIMIT
from generator.styles import matching_style

_STEP: Final = 8
"""Pixels: what the decoders of all our models make of one cell of what they draw in."""


def _drawable(pixels: int) -> int:
    if pixels % _STEP:
        near = max(_STEP, round(pixels / _STEP) * _STEP)
        raise ValueError(f"expected a multiple of {_STEP} such as {near}, not {pixels}")
    return pixels


_Pixels = Annotated[int, Field(ge=64, le=8192), AfterValidator(_drawable)]


class StyledPictureRequest(BaseModel):
    """The body of `POST /api/generate`.

    Attributes:
        prompt: what is drawn.
        style: laid over it; where none is named, one that has a word of the prompt to match.
        franchise: what world it is of; a style that has it to match is laid over as well.
        width, height: pixels; those of the program where nothing is said.
        seed: drawn by lot where none is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Prompt | None = None
    style: Name | None = None
    franchise: Name | None = None
    width: _Pixels | None = None
    height: _Pixels | None = None
    seed: Seed | None = None


def generate_request(
    body: object,
    catalogue: Catalogue,
    *,
    owner: str,
    new_seed: Callable[[], int],
    key: str | None = None,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> NewJob:
    """Check a request, and make a job of one picture of it.

    Args:
        body: of `POST /api/generate`: its bytes, or the JSON value that they hold.
        catalogue: what there is to be asked for.
        owner: id of the member who asks.
        new_seed: gives any number, for who names no seed.
        key: the idempotency key.
        new_id: gives a new UUID.

    Raises:
        BadJobRequest: with everything that is wrong.
    """
    asked, problems = read_fields(StyledPictureRequest, body)
    unread = {each.field for each in problems}
    native = JobRequest(prompt=asked.prompt, style=asked.style)
    if asked.prompt is None and "prompt" not in unread:
        problems.append(FieldProblem("bad_request", "prompt", "expected a prompt"))
        unread.add("prompt")
    reading = RequestReading(native, catalogue, unread=unread)
    drawings = reading.drawings()
    problems += reading.problems
    if problems:
        raise BadJobRequest(problems)
    document = asked.model_dump(mode="json", exclude_none=True)
    return new_job(
        [_of_its_size(each, asked, catalogue) for each in drawings],
        action_id=NO_ACTION,
        n=1,
        seed=new_seed() % SEED_LIMIT if asked.seed is None else asked.seed,
        job_id=new_id(),
        owner=owner,
        request={"kind": native.kind, **document},
        metadata=document,
        priority=USUAL_PRIORITY,
        key=key,
    )


def _of_its_size(drawing: Drawing, asked: StyledPictureRequest, catalogue: Catalogue) -> Drawing:
    recipe = drawing.recipe
    size = {"width": asked.width or recipe.width, "height": asked.height or recipe.height}
    recipe = recipe.model_copy(update=size)
    matching = matching_style(asked.franchise or "", catalogue.styles)
    # One that is asked for by its own name as well is laid over once.
    if matching is not None and matching != drawing.style:
        recipe = catalogue.styles[matching].over(recipe)
    return Drawing(recipe, drawing.description, drawing.style)
