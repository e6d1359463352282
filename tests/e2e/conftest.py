"""The order of the end-to-end tests: in a parallel run the longest files begin first, whatever the shuffle."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("incidents")

FIRST = (
    *("test_alerts", "test_newer_alerts", "test_dashboards", "test_demo", "test_wheel"),
    *("test_gpu_simulated", "test_compose"),
)
"""One long file for each of the five workers of `make e2e`; each gets a second file at once, which waits until its
first one has ended, so that the longest two are followed by short ones."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay in their order."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    name = item.path.stem
    return FIRST.index(name) if name in FIRST else len(FIRST)
