"""What every test may rely on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs_as_they_come() -> Iterator[None]:
    """Whoever sets up logging in this process, as our commands do, does it for one test."""
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the machine's pace is run again up to twice, and counted in the last line."""
    for item in items:
        if item.get_closest_marker("pace") is not None:
            item.add_marker(pytest.mark.flaky(reruns=2))
