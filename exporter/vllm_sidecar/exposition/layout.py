"""The content of a metrics body: its series, their order, and the rejected lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


Labels = tuple[tuple[str, str], ...]
"""Label pairs sorted by label name."""


Series = tuple[str, Labels]
"""One time series of an exposition: sample name (with `_total`, `_bucket`, ...) and labels.

A plain tuple, because Python's search for garbage skips tuples of texts: a body can have 100,000 series, and the search
holds the event loop.
"""


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """The series of a body, in the order of the values; the same object until a series appears or disappears.

    `families` maps the names of `# TYPE` lines to their type, `openmetrics` is whether the body ended with `# EOF`.
    """

    series: tuple[Series, ...]
    families: Mapping[str, str]
    openmetrics: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that is not a valid sample: its number in the body (from 1), the error, and the start of its text."""

    line: int
    why: str
    text: str


@dataclass(frozen=True, slots=True)
class Exposition:
    """One parsed body: `values[i]` belongs to `layout.series[i]`; `rejected` lines are left out of both.

    `rejected_count` counts them all, `rejected` describes the first few. `limits` counts what was left out because the
    body exceeds a limit of the parser, by the name of the limit.
    """

    layout: Layout
    values: Sequence[float]
    rejected: tuple[Rejected, ...] = ()
    rejected_count: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
