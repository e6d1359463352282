"""A test of many rows fails with all that are wrong, and with nothing of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rows import for_each

if TYPE_CHECKING:
    from pathlib import Path


def test_every_row_that_fails_is_named_with_what_it_said() -> None:
    @for_each("number", [1, 2, 3, 4], ids=lambda number: f"number {number}")
    def odd(number: int) -> None:
        if number == 4:
            raise KeyError("four")
        assert number % 2, f"{number} is even"

    with pytest.raises(AssertionError) as caught:
        odd()
    message = str(caught.value)
    assert message.startswith("2 of 4 rows fail:\n- number 2: 2 is even")
    assert "- number 4: KeyError: 'four'" in message
    assert "number 1" not in message


def test_what_pytest_itself_fails_is_a_row_that_fails() -> None:
    @for_each(("name", "error"), [("a", ValueError), ("b", TypeError)])
    def refused(name: str, error: type[Exception]) -> None:
        with pytest.raises(error):
            raise ValueError(name)

    with pytest.raises(AssertionError, match="1 of 2 rows fail"):
        refused()

    @for_each("name", ["a"])
    def nothing_raised(name: str) -> None:
        with pytest.raises(ValueError, match=name):
            pass

    with pytest.raises(AssertionError, match="DID NOT RAISE"):
        nothing_raised()


def test_a_test_without_rows_fails() -> None:
    @for_each("name", [])
    def anything(name: str) -> None:
        raise NotImplementedError(name)

    with pytest.raises(AssertionError, match="there is no row"):
        anything()


seen: list[Path] = []


@for_each("row", ["a", "b"])
@for_each("column", [1, 2])
def test_rows_and_columns_have_a_folder_of_their_own(row: str, column: int, tmp_path: Path) -> None:
    """The folders of rows that went before are somewhere else."""
    assert list(tmp_path.iterdir()) == []
    (tmp_path / f"{row}{column}").touch()
    assert tmp_path not in seen
    seen.append(tmp_path)
