"""The order of the end-to-end tests: in a parallel run what waits for minutes begins first, whatever the shuffle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

FIRST = (
    "test_each_incident_pages_for_what_it_is_and_resolves",
    "test_rules_of_every_format_hold_the_same_groups",  # builds and installs the wheel
    "test_every_panel_has_data_where_every_feature_is_on",
    "test_an_incident_pages",
)
"""Names of tests: with both incidents of the first one, and all of the wheel in one group, one for each of the five
workers of `make e2e`; each gets a second test at once, which waits until its first one has ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first; the others stay in their order."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    name = item.name.partition("[")[0]
    return FIRST.index(name) if name in FIRST else len(FIRST)
