"""One test for many rows: it goes through all of them and names every row for which it fails.

For rows of a catalog, a folder or a table, of which there are hundreds: one test for each would say no more, and take
longer to collect than to run. Cases that have a name of their own stay tests of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Test = Callable[..., None]
Name = Callable[[Any], str]


def for_each(
    arguments: str | Sequence[str], rows: Iterable[Any], *, ids: Name | Iterable[str] | None = None
) -> Callable[[Test], Test]:
    """Run a test with each row, as pytest.mark.parametrize does; what fails is listed by row in one message.

    Each row has a temporary folder and patches of its own, and sees only its own output.
    """
    names = [name.strip() for name in arguments.split(",")] if isinstance(arguments, str) else list(arguments)
    table = [_values(names, row) for row in rows]
    labels = _labels(table, ids)

    def decorate(test: Test) -> Test:
        given = inspect.signature(test)

        def run(**fixtures: Any) -> None:
            assert table, "there is no row"
            failed: dict[str, BaseException] = {}
            for number, (label, values) in enumerate(zip(labels, table, strict=True)):
                with _own(fixtures, number) as own:
                    try:
                        test(**own, **dict(zip(names, values, strict=True)))
                    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - told below, with its row
                        failed[label] = error
            if failed:
                first = next(iter(failed.values()))
                told = "\n".join(f"- {label}: {_said(error)}" for label, error in failed.items())
                raise AssertionError(f"{len(failed)} of {len(table)} rows fail:\n{told}") from first

        run.__name__, run.__qualname__, run.__module__ = test.__name__, test.__qualname__, test.__module__
        run.__doc__ = test.__doc__
        run.__wrapped__ = test  # type: ignore[attr-defined] # where pytest says that it is
        parameters = [each for name, each in given.parameters.items() if name not in names]
        run.__signature__ = given.replace(parameters=parameters)  # type: ignore[attr-defined] # pytest reads it
        run.pytestmark = [*getattr(test, "pytestmark", ())]  # type: ignore[attr-defined]
        return run

    return decorate


def _values(names: Sequence[str], row: Any) -> tuple[Any, ...]:
    values = (row,) if len(names) == 1 else tuple(row)
    assert len(values) == len(names), f"{row!r} has not one value for each of {names}"
    return values


def _labels(table: Sequence[tuple[Any, ...]], ids: Name | Iterable[str] | None) -> list[str]:
    if ids is None:
        found = ["-".join(map(str, values)) for values in table]
    elif callable(ids):
        found = ["-".join(ids(value) for value in values) for values in table]
    else:
        found = list(ids)
    return [label if found.count(label) == 1 else f"{label} (row {number})" for number, label in enumerate(found, 1)]


@contextmanager
def _own(fixtures: Mapping[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """Give a row what a test of its own would have."""
    own = dict(fixtures)
    if "tmp_path" in own:
        folder: Path = own["tmp_path"] / f"row{number}"
        folder.mkdir()
        own["tmp_path"] = folder
    if "capsys" in own:
        own["capsys"].readouterr()
    if "monkeypatch" not in own:
        yield own
        return
    with own["monkeypatch"].context() as patches:
        own["monkeypatch"] = patches
        yield own


def _said(error: BaseException) -> str:
    kind = "" if isinstance(error, (AssertionError, pytest.fail.Exception)) else f"{type(error).__name__}: "
    return kind + str(error).strip().replace("\n", "\n    ")
