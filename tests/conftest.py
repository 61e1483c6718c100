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
