"""The types of the state for the technician's page; `python -m tests.helpers.jsdoc` writes them."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from server.control import contract

TYPES_JS = Path(__file__).parents[2] / "server" / "web" / "static" / "control" / "types.js"
_PLAIN: dict[Any, str] = {
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
    Any: "any",
}


def types_js() -> str:
    """What of the contract is a JSON object, each as a JSDoc type."""
    lines = [
        "// @ts-check",
        "/** The state as the server promises it, written by tests/helpers/jsdoc.py. */",
        "",
    ]
    for name, shape in vars(contract).items():
        if is_typeddict(shape) and shape.__module__ == contract.__name__:
            fields = ", ".join(
                f"{field}{'' if field in shape.__required_keys__ else '?'}: {_type(hint)}"
                for field, hint in get_type_hints(shape).items()
            )
            said = " ".join((shape.__doc__ or "").split())
            lines.append(f"/** {said} @typedef {{{{{fields}}}}} {name} */")
    return "\n".join([*lines, "export {};", ""])


def _type(hint: Any) -> str:
    """A type of Python's as JSDoc has it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(f'"{each}"' for each in inner)
    if origin in {Union, types.UnionType}:
        return " | ".join(_type(each) for each in inner)
    if origin in {list, Mapping}:
        name = "Array" if origin is list else "Record"
        return f"{name}<{', '.join(_type(each) for each in inner)}>"
    return hint.__name__ if is_typeddict(hint) else _PLAIN[hint]


if __name__ == "__main__":
    TYPES_JS.write_text(types_js(), "utf-8")
