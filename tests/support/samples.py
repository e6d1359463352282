"""Chooses what of many like cases the quick run plays; `make test-all` plays the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Case = TypeVar("Case")


def others_slow(cases: Iterable[Case], *quick: object, key: Callable[[Case], object] = lambda case: case) -> list[Case]:
    """Return the cases for parametrize, marked slow but for those that are named."""
    found = list(cases)
    assert set(quick) <= {key(case) for case in found}, "a case that is named does not exist"
    return [case if key(case) in quick else _slow(case) for case in found]


def _slow(case: Case) -> Case:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)  # type: ignore[return-value] # parametrize takes both
