"""A request, read field by field, with everything that is wrong with it at once (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cache.spelling import nearest
from cache.untrusted import Unfit, clean_text, decode_message

_Model = TypeVar("_Model", bound=BaseModel)

_SHOWN: Final = 60
"""Characters of a value in a message."""

_MOST_TOLD: Final = 50
"""Problems of one request: who sends more of them does not read them."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing that is wrong with a request.

    Attributes:
        code: a stable word for programs.
        field: which field it is about, ``hook.url`` for one of an object; empty for the whole.
        message: what was expected there.
    """

    code: str
    field: str
    message: str


class BadJobRequest(Exception):
    """A request that is not accepted; `problems` has everything that is wrong with it."""

    def __init__(self, problems: Iterable[FieldProblem]) -> None:
        self.problems = tuple(problems)
        lines = (f"{each.field}: {each.message}".removeprefix(": ") for each in self.problems)
        super().__init__("\n".join(lines))


def read_fields(model: type[_Model], body: object) -> tuple[_Model, list[FieldProblem]]:
    """Read a request.

    Args:
        model: what may stand in it; each of its fields has a default.
        body: the bytes of the request, or the JSON value that they hold. Bytes are read once,
            a value is written and read again.

    Returns:
        What could be read, what is wrong being left out, and the problems with that.

    Raises:
        BadJobRequest: it is no JSON object at all.
    """
    given = _object(body)
    try:
        return model.model_validate_json(json.dumps(given), strict=True), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = [_problem(model, detail) for detail in details[:_MOST_TOLD]]
    wrong = {str(detail["loc"][0]) for detail in details if detail["loc"]}
    rest = {name: value for name, value in given.items() if name not in wrong}
    try:
        return model.model_validate_json(json.dumps(rest), strict=True), problems
    except ValidationError:  # what is wrong has no place in it: it is nested too deep, say
        raise BadJobRequest(problems) from None


def _object(body: object) -> dict[str, Any]:
    """The fields of a request, as everything that has passed the border: texts are cleaned."""
    try:
        value = decode_message(body if isinstance(body, bytes) else json.dumps(body))
    except (Unfit, RecursionError) as error:
        reason = str(error) if isinstance(error, Unfit) else "it is nested too deeply"
        raise BadJobRequest([_whole(f"expected a JSON object: {reason}")]) from None
    if not isinstance(value, dict):
        raise BadJobRequest([_whole("expected a JSON object")])
    return value


def _whole(message: str) -> FieldProblem:
    return FieldProblem("bad_request", "", message)


def _problem(model: type[BaseModel], detail: ErrorDetails) -> FieldProblem:
    location = [clean_text(str(part))[:_SHOWN] for part in detail["loc"]]
    field = ".".join(location)
    code = "bad_request"
    if detail["type"] == "extra_forbidden":
        known = _known(model, location[:-1])
        near = nearest(location[-1], known)
        message = f"unknown field{near or '; expected one of ' + ', '.join(known)}"
    elif detail["type"] == "json_invalid":
        message = "expected a JSON object of texts in Unicode, not nested too deeply"
    elif detail["type"] == "string_too_long":
        if location[-1] == "prompt":
            code = "too_large"
        most = detail["ctx"]["max_length"]
        message = f"expected at most {most:,} characters, found {len(str(detail['input'])):,}"
    else:
        text = detail["msg"].removeprefix("Value error, ")
        message = text[:1].lower() + text[1:]
        plain = isinstance(detail["input"], str | int | float | bool)
        # A hook's secret that is wrong is one all the same.
        if "not " not in message and plain and location[0] != "hook":
            message += f", not {clean_text(repr(detail['input']))[:_SHOWN]}"
    return FieldProblem(code, field, message)


def _known(model: type[BaseModel], location: Iterable[str]) -> list[str]:
    """The fields that there are in the object that `location` leads to."""
    here = model
    for part in location:
        fields = {field.alias or name: field for name, field in here.model_fields.items()}
        if part in fields:  # else it is a place in a list
            here = _model_in(fields[part].annotation) or here
    return sorted(field.alias or name for name, field in here.model_fields.items())


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model of an object, of one that need not be there, or of those in a list."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None
