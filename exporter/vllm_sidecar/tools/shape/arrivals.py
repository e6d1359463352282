"""When requests arrived, from the requests that are open and those that ended, and how bursty that was."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, pvariance
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from vllm_sidecar.tools.shape.traffic import Interval, Traffic

LEAST_BINS, STEPS = 10, 10
"""Bins that must have room, and positions of a bin within its width."""
BURST_SECONDS = (1.0, 10.0)
"""Lengths of the bins over which burstiness is measured."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The arrivals of a window."""

    at: list[float]
    """Seconds since the start, ascending."""
    open_at_start: int
    open_at_end: int
    left: int
    """Requests that at least ended without a result: their clients left."""
    measured: bool
    """False if the server does not expose its open requests: then these are the times at which requests ended."""


def arrivals(traffic: Traffic, draw: random.Random) -> Arrivals:
    """Return the arrivals: in each interval, requests that ended and the change of those that are open.

    The sum is exact for requests that end with a result. A client that leaves ends an open request without a result,
    so its interval may show one arrival less; only falls below 0 are noticed.
    """
    at: list[float] = []
    left = 0.0
    measured = True
    for each in traffic.intervals:
        count = each.ended_requests
        if each.open_before is None or each.open_after is None:
            measured = False
        else:
            count += each.open_after - each.open_before
        left += max(0.0, -count)
        at += [draw.uniform(each.began, each.ended) for _ in range(round(max(0.0, count)))]
    ends = _ends(traffic.intervals)
    return Arrivals(
        sorted(at),
        round(sum(first.open_before or 0.0 for first, _ in ends)),
        round(sum(last.open_after or 0.0 for _, last in ends)),
        round(left),
        measured,
    )


def _ends(intervals: Sequence[Interval]) -> list[tuple[Interval, Interval]]:
    """Return the first and the last interval of each engine."""
    first: dict[tuple[int, str], Interval] = {}
    last: dict[tuple[int, str], Interval] = {}
    for each in intervals:
        first.setdefault(each.engine, each)
        last[each.engine] = each
    return [(first[engine], last[engine]) for engine in first]


def dispersion(at: Sequence[float], width: float) -> float | None:
    """Return the index of dispersion of counts: variance over mean of the arrivals within `width` seconds.

    1 for a Poisson process, more for bursts, less for regular arrivals. Taken over all positions of the bin between
    the first and the last arrival, so that neither the start of the bins nor idle time around a load test counts; None
    without room for ten bins.
    """
    if not at or at[-1] - at[0] < LEAST_BINS * width:
        return None
    fine = counts_of([each - at[0] for each in at], at[-1] - at[0], width / STEPS)[:-1]
    below = list(accumulate(fine, initial=0))
    counts = [high - low for low, high in zip(below, below[STEPS:], strict=False)]
    return pvariance(counts) / fmean(counts)


def counts_of(at: Sequence[float], seconds: float, width: float) -> list[int]:
    """Return the arrivals in successive bins of `width` seconds."""
    counts = [0] * max(1, -int(-seconds // width))
    for each in at:
        counts[min(len(counts) - 1, int(each / width))] += 1
    return counts
