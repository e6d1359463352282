"""Measures over the polls of one side: what was counted in each, and their values in blocks of polls."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.buckets import bucket_ending_at
from vllm_sidecar.tools.compare import resampling
from vllm_sidecar.tools.compare.measures import ADAPTER_POLLS, REQUEST_TIME, TAIL, Form

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.tools.compare.measures import Measure
    from vllm_sidecar.tools.compare.observation import Interval, Observation
    from vllm_sidecar.tools.compare.resampling import Estimate, Floats

Pair = tuple[float, float]
"""The amounts that a poll adds to the numerator and to the denominator of a measure."""


class Side(NamedTuple):
    """A measure on one side: its value (None without observations), and an estimate if the polls allow one.

    `observations` is the denominator, and `independent` so many of them that know nothing of each other are worth as
    much.
    """

    value: float | None
    observations: float
    independent: float
    estimate: Estimate | None


def measured(observation: Observation, measure: Measure, bound: float | None) -> Side:
    """Return a measure of one observation; `bound` is the bucket bound of a tail."""
    pairs = [pair_of(each, measure, bound) for each in observation.intervals]
    used = [(each.at, pair) for each, pair in zip(observation.intervals, pairs, strict=True) if pair is not None]
    top, bottom = sum(pair[0] for _, pair in used), sum(pair[1] for _, pair in used)
    if bottom <= 0.0:
        return Side(None, 0.0, 0.0, None)
    estimate = None
    if len(used) >= resampling.LEAST_POLLS:
        estimate = _estimate([at for at, _ in used], [pair for _, pair in used], measure)
    return Side(top / bottom, bottom, bottom / _resembling(observation, measure), estimate)


def _resembling(observation: Observation, measure: Measure) -> float:
    """Return how many observations in a row are worth one.

    A poll sees the requests of the polls before as long as these last: where requests come by chance and the times they
    take are exponential, polls resemble each other at least as little as exp(-distance / mean time).
    """
    if measure.of != ADAPTER_POLLS or not observation.seconds:
        return 1.0
    lasting = measured(observation, REQUEST_TIME, None).value or 0.0
    return 1.0 + 2.0 * lasting * len(observation.intervals) / observation.seconds


def _estimate(times: Sequence[float], pairs: Sequence[Pair], measure: Measure) -> Estimate | None:
    sums = np.asarray(pairs, dtype=float)
    tops: list[Floats] = []
    bottoms: list[Floats] = []
    for count in resampling.lengths(len(pairs)):
        block = resampling.blocks(times, count)
        tops.append(np.bincount(block, sums[:, 0], count).astype(float))
        bottoms.append(np.bincount(block, sums[:, 1], count).astype(float))
    return resampling.estimate(tops, bottoms, logarithmic=is_ratio(measure))


def is_ratio(measure: Measure) -> bool:
    """Return whether two values of a measure are compared by their ratio."""
    return measure.form in (Form.MEAN, Form.RATE)


def pair_of(interval: Interval, measure: Measure, bound: float | None) -> Pair | None:
    """Return what one poll adds to a measure; None if that is unknown."""
    if measure.form in (Form.MEAN, Form.TAIL):
        return _of_histogram(interval, measure, bound)
    if measure.form is Form.RATE:
        return (_counted(interval, measure.of), interval.seconds) if interval.seconds is not None else None
    of = measure.of
    top = interval.counters.get((of, measure.label), 0.0) if measure.label else _counted(interval, of)
    return top, _counted(interval, measure.per)


def _of_histogram(interval: Interval, measure: Measure, bound: float | None) -> Pair | None:
    grown = interval.histograms.get(measure.of)
    if grown is None:
        return None
    count = sum(grown.counts.values())
    if measure.form is Form.TAIL:
        return None if bound is None else (sum(n for upper, n in grown.counts.items() if upper > bound), count)
    return None if grown.total is None else (grown.total, count)


def _counted(interval: Interval, signal: str) -> float:
    return sum(value for key, value in interval.counters.items() if key[0] == signal)


def exposes(observation: Observation, measure: Measure) -> bool:
    """Return whether a source exposes what a measure is computed from."""
    names = {measure.of, measure.per} - {""}
    return all(any(_has(each, name) for each in observation.intervals) for name in names)


def _has(interval: Interval, signal: str) -> bool:
    return signal in interval.histograms or any(key[0] == signal for key in interval.counters)


def shared_bounds(observations: Sequence[Observation], histogram: str) -> tuple[float, ...]:
    """Return the bucket bounds that all sides have."""
    first, *others = (each.bounds.get(histogram, ()) for each in observations)
    return tuple(bound for bound in first if all(bucket_ending_at(other, bound) is not None for other in others))


def tail_bound(observations: Sequence[Observation], histogram: str) -> float | None:
    """Return the shared bound beyond which the share of all observations is nearest to `TAIL`; None if none is useful.

    It is chosen from both sides together, so that the choice favors neither.
    """
    counts = bucket_counts(observations, histogram)
    whole = sum(counts.values())
    shares = [
        (abs(above - TAIL), bound, above)
        for bound in shared_bounds(observations, histogram)
        if (above := sum(n for upper, n in counts.items() if upper > bound) / whole if whole else 0.0) > 0.0
    ]
    if not shares:
        return None
    _, bound, above = min(shares)
    return bound if above <= 0.5 else None


def bucket_counts(observations: Sequence[Observation], histogram: str) -> dict[float, float]:
    """Return the observations of a histogram by upper bound, ascending, over all sides that are given."""
    counts: dict[float, float] = {}
    for grown in _grown(observations, histogram):
        for upper, count in grown.items():
            counts[upper] = counts.get(upper, 0.0) + count
    return dict(sorted(counts.items()))


def _grown(observations: Sequence[Observation], histogram: str) -> Iterator[dict[float, float]]:
    for observation in observations:
        for interval in observation.intervals:
            if histogram in interval.histograms:
                yield dict(interval.histograms[histogram].counts)


def shares_by_bucket(observation: Observation, histogram: str, bounds: Sequence[float]) -> list[tuple[float, float]]:
    """Return the share of the observations up to each bound and above the one before; the last is infinite."""
    counts = bucket_counts([observation], histogram)
    whole = sum(counts.values())
    found: list[tuple[float, float]] = []
    below = 0.0
    for bound in (*bounds, inf):
        up_to = sum(n for upper, n in counts.items() if upper <= bound)
        found.append((bound, (up_to - below) / whole if whole else 0.0))
        below = up_to
    return found


def mean_gauge(observation: Observation, name: str) -> float | None:
    """Return the mean of a gauge over the polls; None if no poll had it."""
    values = [each.gauges[name] for each in observation.intervals if name in each.gauges]
    return sum(values) / len(values) if values else None
