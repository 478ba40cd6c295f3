"""Tests marked `untraced` run without coverage's trace function."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tests.untraced import untraced


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """The test with its fixtures. pytest-cov's own `no_cover` traces on where pytest-xdist spreads the tests."""
    if item.get_closest_marker("untraced") is None:
        return (yield)
    with untraced():
        return (yield)
