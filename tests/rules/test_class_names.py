"""One word, one idea: no two classes of the product share a name.

Who reads `Outcome` in one module and has met it in another takes it for the same thing. A leading
underscore makes no difference to a reader.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmarks", "cache", "generator", "server")


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    places[node.name.lstrip("_")].append(str(path.relative_to(ROOT)))
    assert len(places) > len(PACKAGES)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
