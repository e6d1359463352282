"""Cases of the accuracy suite: the values of a shape at a rate, as the polls of a window see them, and the truth."""

from __future__ import annotations

import gzip
import json
from bisect import bisect_left
from math import ceil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from shapes import SHAPES, WINDOW, Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

QS = (0.5, 0.9, 0.95, 0.99)
RATES = (0.2, 1.0, 5.0, 20.0, 100.0, 500.0)
REAL = Path(__file__).parents[2] / "captures" / "series" / "0.32.0-rate3.truth.json.gz"
"""Values of a real vLLM 0.32 at 3 requests a second, per poll."""


class Case(NamedTuple):
    """One window: what the sidecar sees of it, and the quantiles of what was observed."""

    shape: str
    family: str
    rate: float
    bounds: tuple[float, ...]
    polls: list[tuple[list[float], float | None]]
    truth: list[float]


def exact(values: Sequence[float]) -> list[float]:
    """Return the quantiles of sorted values: the value of rank q N, rounded up, as `histogram_quantile` counts ranks.

    The other usual conventions interpolate between this value and a neighbour.
    """
    return [values[max(0, ceil(q * len(values)) - 1)] for q in QS]


def observe(bounds: Sequence[float], values: Sequence[float]) -> tuple[list[float], float | None]:
    """Return what one poll sees of the values since the one before: counts per bucket and the sum."""
    counts = [0.0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1.0
    return counts, sum(values)


def synthetic(shape: str, family: Family, rate: float, seed: int) -> Case:
    """Draw a window of Poisson arrivals; one in which nothing arrived is drawn again."""
    rng = Random(f"{shape}/{family.name}/{rate}/{seed}")
    draw = SHAPES[shape](rng, family)
    polls: list[list[float]] = [[] for _ in range(int(WINDOW))]
    while not any(polls):
        at = rng.expovariate(rate)
        while at < WINDOW:
            polls[int(at)].append(draw(at))
            at += rng.expovariate(rate)
    values = sorted([value for poll in polls for value in poll])
    seen = [observe(family.bounds, poll) for poll in polls]
    return Case(shape, family.name, rate, family.bounds, seen, exact(values))


def real(every: int = 6) -> Iterator[tuple[Case, list[float]]]:
    """Yield windows of the recorded server, one each few seconds, each with all that was observed, sorted."""
    with gzip.open(REAL, "rt") as file:
        recorded = json.load(file)
    for name, family in recorded.items():
        bounds = tuple(family["bounds"])
        polls = family["polls"]
        for end in range(int(WINDOW), len(polls) + 1, every):
            window = polls[end - int(WINDOW) : end]
            values = sorted([value for poll in window for value in poll])
            if len(values) >= 5:
                seen = [observe(bounds, poll) for poll in window]
                yield Case(f"real {name}", name, len(values) / WINDOW, bounds, seen, exact(values)), values
