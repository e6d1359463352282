"""Prompt and output tokens of each finished request, as far as the polls determine them.

A poll has the buckets and the sums of both lengths of the requests that ended since the one before. If one request
ended, both lengths are known exactly, and so is that they belong together. If several did, each length has a certain
bucket, the sums are kept, and within the buckets values are drawn as `quantiles` estimates them; `pairing` finds pairs.
"""

from __future__ import annotations

from itertools import accumulate, chain
from math import copysign, floor, inf, sqrt
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.quantiles import Observed, estimate
from vllm_sidecar.quantiles.buckets import counts_of
from vllm_sidecar.tools.shape.pairing import Poll, pair
from vllm_sidecar.tools.shape.traffic import COMPUTED, OUTPUTS, PROMPTS

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from vllm_sidecar.tools.shape.traffic import Traffic

MOST_PER_BUCKET = 64
"""Values of a bucket that are estimated; draws repeat them."""
MOST_POLLS = 1000
"""Polls that the estimate looks at; the observations of more are added up in groups."""
ROUNDS = 4


class Finished(NamedTuple):
    """One finished request."""

    at: float
    """Seconds since the start of the window, at the end of its poll."""
    prompt: int
    output: int
    cached: int | None
    """Prompt tokens that a cache provided; None if the server does not expose the computed ones per request."""
    exact: bool
    """Both lengths are exact: it ended alone."""


class Correlation(NamedTuple):
    """Pearson's correlation of prompt and output tokens over requests."""

    value: float
    error: float
    """Standard error."""

    @property
    def used(self) -> float:
        """The value, or 0 where it is within two standard errors of 0."""
        return self.value if abs(self.value) > 2.0 * self.error else 0.0


def finished(traffic: Traffic, correlation: Correlation | None, draw: random.Random) -> list[Finished]:
    """Return the finished requests in the order of their polls."""
    within = {name: Within.of(traffic, name) for name in (PROMPTS, OUTPUTS, COMPUTED) if name in traffic.bounds}
    polls: list[tuple[float, bool, Poll]] = []
    for each in traffic.intervals:
        counts = {name: each.count(name) for name in within}
        if not counts[PROMPTS] or counts[PROMPTS] != counts[OUTPUTS]:
            continue
        values = {name: part.values(each.observed[name], draw) for name, part in within.items() if counts[name]}
        known = all(each.observed[name].has_sum for name in (PROMPTS, OUTPUTS))
        polls.append((each.ended, known and counts[PROMPTS] == 1.0, Poll(_with_cached(values), values[OUTPUTS])))
    bounds = traffic.bounds
    strength = correlation.used if correlation else 0.0
    pair([poll for _, _, poll in polls], bounds[PROMPTS], bounds[OUTPUTS], strength, draw)
    return [
        Finished(at, prompt, output, cached, exact)
        for at, exact, poll in polls
        for (prompt, cached), output in zip(poll.prompts, poll.outputs, strict=True)
    ]


def correlation(traffic: Traffic) -> Correlation | None:
    """Estimate the correlation from the sums of each poll; None with fewer than ten polls, or if a length is constant.

    If k requests end in a poll, the deviations of both sums from k times their means have k times the variances and the
    covariance of one request, whatever k is.
    """
    sums = []
    for each in traffic.intervals:
        prompts, outputs = each.observed.get(PROMPTS), each.observed.get(OUTPUTS)
        count = each.count(PROMPTS)
        if prompts and outputs and count and prompts.has_sum and outputs.has_sum and count == each.count(OUTPUTS):
            sums.append((count, prompts.total or 0.0, outputs.total or 0.0))
    whole = sum(count for count, _, _ in sums)
    if len(sums) < 10:
        return None
    means = [sum(row[column] for row in sums) / whole for column in (1, 2)]
    rests = [(prompt - count * means[0], output - count * means[1]) for count, prompt, output in sums]
    spreads = [sqrt(sum(rest[column] ** 2 for rest in rests)) for column in (0, 1)]
    if min(spreads) <= 0.0:
        return None
    value = sum(prompt * output for prompt, output in rests) / (spreads[0] * spreads[1])
    return Correlation(max(-1.0, min(1.0, value)), (1.0 - min(1.0, value**2)) / sqrt(len(sums) - 2))


class Within:
    """Where the values of a histogram are in its buckets."""

    def __init__(self, bounds: Sequence[float], polls: Sequence[Observed]) -> None:
        self._bounds = bounds
        counts = counts_of(bounds, polls)
        below = [0.0, *accumulate(counts)]
        qs: list[float] = []
        places: list[int] = []
        for bucket, count in enumerate(counts):
            steps = int(min(count, MOST_PER_BUCKET))
            qs += [(below[bucket] + count * (step + 0.5) / steps) / below[-1] for step in range(steps)]
            places += [bucket] * steps
        self._values: dict[int, list[float]] = {}
        for bucket, quantile in zip(places, estimate(bounds, grouped(polls), qs) if qs else (), strict=True):
            self._values.setdefault(bucket, []).append(quantile.value)

    @classmethod
    def of(cls, traffic: Traffic, name: str) -> Within:
        """Estimate them from all polls of the traffic."""
        return cls(traffic.bounds[name], traffic.observed(name))

    def values(self, seen: Observed, draw: random.Random) -> list[int]:
        """Draw the values of one poll: each in its bucket, with the sum of the poll where it is known."""
        values, limits = [], []
        for bucket, count in seen.bins:
            for _ in range(round(count)):
                values.append(draw.choice(self._values[bucket]))
                limits.append(self._limits(bucket))
        return fitted(values, limits, seen.total if seen.has_sum else None)

    def _limits(self, bucket: int) -> tuple[int, float]:
        """Return the least and the largest whole number of a bucket."""
        lower = floor(self._bounds[bucket - 1]) + 1 if bucket else 0
        return lower, float(floor(self._bounds[bucket])) if bucket < len(self._bounds) else inf


def grouped(polls: Sequence[Observed]) -> list[Observed]:
    """Add up the observations of successive polls until they are few enough for the estimate."""
    size = -(-len(polls) // MOST_POLLS)
    return list(polls) if size <= 1 else [_added(polls[at : at + size]) for at in range(0, len(polls), size)]


def _added(polls: Sequence[Observed]) -> Observed:
    counts: dict[int, float] = {}
    for bucket, count in chain.from_iterable(poll.bins for poll in polls):
        counts[bucket] = counts.get(bucket, 0.0) + count
    known = all(poll.has_sum for poll in polls)
    return Observed(tuple(sorted(counts.items())), sum(poll.total or 0.0 for poll in polls) if known else None)


def fitted(values: Sequence[float], limits: Sequence[tuple[int, float]], total: float | None) -> list[int]:
    """Move values within their limits so that they are whole and have a sum; without a sum they are rounded.

    All move by the same share of the room that they have in that direction.
    """
    moved = [min(high, max(low, value)) for value, (low, high) in zip(values, limits, strict=True)]
    for _ in range(ROUNDS if total is not None else 0):
        missing = (total or 0.0) - sum(moved)
        rooms = [_room(value, limit, missing) for value, limit in zip(moved, limits, strict=True)]
        room = sum(rooms)
        if room <= 0.0 or abs(missing) < 1e-6:
            break
        share = min(1.0, abs(missing) / room)
        moved = [value + copysign(each * share, missing) for value, each in zip(moved, rooms, strict=True)]
    whole = [round(value) for value in moved]
    rest = 0 if total is None else round(total) - sum(whole)
    for index, (low, high) in enumerate(limits):  # rounding leaves less than one for each value
        step = max(low, min(high, whole[index] + copysign(1, rest))) - whole[index] if rest else 0
        whole[index] += int(step)
        rest -= int(step)
    return whole


def _room(value: float, limit: tuple[int, float], missing: float) -> float:
    low, high = limit
    if missing < 0.0:
        return value - low
    return high - value if high < inf else max(value, missing)


def _with_cached(values: dict[str, list[int]]) -> list[tuple[int, int | None]]:
    """Return the prompts of a poll, ascending, each with its cached tokens; None where they are unknown.

    The longest prompt had the most to compute: if any assignment leaves no prompt shorter than its computed part, this
    one does. Drawn values may still leave some; the others have less cached then, so that the sum is right.
    """
    prompts, computed = sorted(values[PROMPTS]), sorted(values.get(COMPUTED, ()))
    if len(prompts) != len(computed):
        return [(prompt, None) for prompt in prompts]
    rests = [prompt - part for prompt, part in zip(prompts, computed, strict=True)]
    above = sum(rest for rest in rests if rest > 0)
    share = max(0, sum(rests)) / above if above else 0.0
    return [(prompt, round(max(0, rest) * share)) for prompt, rest in zip(prompts, rests, strict=True)]
