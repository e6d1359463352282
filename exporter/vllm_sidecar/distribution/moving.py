"""A lognormal whose scale moves from poll to poll: the shape of one latency under a load that changes.

The sum of a poll tells its mean, so the counts tell the one thing left, the deviation s on the logarithmic axis:

    P[p,i] = Phi(z of the upper edge) - Phi(z of the lower edge),  z = (log edge - mu[p]) / s
    mu[p]  = log mean[p] - s s / 2

s is that of largest likelihood of the counts (Fisher scoring). The mean of a poll of few observations is drawn to that
of the window by as much as chance explains (empirical Bayes). Many latencies are not of this kind: two modes, even
ones, those with a slow tail. How well the model foretells the counts of the window decides how far it is believed.
"""

from __future__ import annotations

from math import erf, exp, log, pi, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.distribution.evidence import centred

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.distribution.evidence import Evidence

_LEAST = 4.0
"""Observations a poll from which on its mean tells where it is."""
_FEWEST = 8
"""Polls of a window from which on they tell how it moves."""
_TURNS = 7
_START, _NARROWEST, _WIDEST, _STRIDE = 0.3, 0.003, 2.0, 0.7
"""Deviations: first, least and largest, and the farthest that a turn goes (logarithm)."""
_STRAY = 1e-5
"""Share of observations that lie evenly in any bucket, whatever the law says: one slow request is no refutation."""
_CLOSE = 0.003
"""What the counts may tell beyond the model (nats per observation); at half as much again it is left."""
_ONE, _TWO = 0.8, 1.2
"""Deviations of all values up to which it is one latency, and from which on as likely two: waits after none."""
_ROOT_HALF, _PEAK = sqrt(0.5), 1.0 / sqrt(2.0 * pi)
_NORMAL = NormalDist()
_SETTLED = 1e-6
"""Stride at which the turns end."""
_TINY = 1e-12


class Law(NamedTuple):
    """How a poll's observations lie in one bucket: a lognormal between two edges."""

    middle: float
    """mu."""
    deviation: float
    """s."""
    below: float
    """Share of the whole lognormal below the bucket."""
    inside: float
    """Share in it."""
    mean: float
    variance: float

    def values(self, lower: float, width: float, shares: Sequence[float]) -> Iterator[float]:
        """Yield the quantiles of shares within 0..1."""
        even = _STRAY / (self.inside + _STRAY)
        for share in shares:
            level = min(1.0 - _TINY, max(_TINY, self.below + self.inside * share))
            value = exp(self.middle + self.deviation * _NORMAL.inv_cdf(level))
            yield (1.0 - even) * min(lower + width, max(lower, value)) + even * (lower + width * share)


class Moving(NamedTuple):
    """The fitted model."""

    belief: float
    """0..1."""
    laws: list[tuple[Law, ...]]
    """Per row and bin."""
    means: list[float]
    """Per slot, over the window."""
    within: list[float]
    """Variances within a poll, per slot."""
    shifts: list[tuple[float, ...]]
    """Per row and bin: how much higher the mean is than over the window."""


class _Window(NamedTuple):
    """The levels of the polls: logarithms of their means."""

    sizes: list[float]
    levels: list[float]
    whole: float
    middle: float
    """Logarithm of the mean of the window."""
    spread: float
    """Variance of the levels around it."""


def moving(evidence: Evidence) -> Moving | None:
    """Fit the model; None where polls are too few or hold too little, and for values that have no logarithm."""
    edges = sorted({*evidence.lower, *[low + width for low, width in zip(evidence.lower, evidence.width, strict=True)]})
    whole = sum([count for row in evidence.rows for _, count in row.bins])
    trusted = [row for row in evidence.rows if row.total is not None]
    if (
        len(evidence.width) < 2
        or edges[0] < 0.0
        or evidence.buckets[-1] == len(evidence.bounds)
        or len(trusted) < _FEWEST
        or whole < _LEAST * len(evidence.rows)
        or any(not row.total for row in trusted)
    ):
        return None
    window = _window(evidence)
    logs = [log(edge) if edge > 0.0 else None for edge in edges]
    places = {edge: place for place, edge in enumerate(edges)}
    slots = [(places[low], places[low + width]) for low, width in zip(evidence.lower, evidence.width, strict=True)]
    return _read(evidence, window, _deviation(evidence, window, logs, slots), logs, slots)


def _window(evidence: Evidence) -> _Window:
    """Return the levels; a poll whose sum is not to be trusted has that of the one before."""
    sizes = [sum([count for _, count in row.bins]) for row in evidence.rows]
    told = [log(row.total / size) if row.total else None for row, size in zip(evidence.rows, sizes, strict=True)]
    level = next(one for one in told if one is not None)
    levels = []
    for own in told:
        level = level if own is None else own
        levels.append(level)
    whole = sum(sizes)
    middle = log(sum([size * exp(level) for size, level in zip(sizes, levels, strict=True)]) / whole)
    return _Window(sizes, levels, whole, middle, _spread(sizes, levels, middle))


def _spread(sizes: list[float], levels: list[float], middle: float) -> float:
    return sum([size * (level - middle) ** 2 for size, level in zip(sizes, levels, strict=True)]) / sum(sizes)


def _drawn(window: _Window, s: float) -> list[float]:
    """Return the levels of the polls, drawn to that of the window by as much as chance explains."""
    sizes, levels, whole, middle, spread = window
    chance = exp(s * s) - 1.0
    between = max(0.0, spread - chance * len(sizes) / whole) + _TINY
    return [
        middle + (level - middle) * between / (between + chance / size)
        for size, level in zip(sizes, levels, strict=True)
    ]


def _below(z: float) -> float:
    """Return the share of a normal distribution below z deviations."""
    return 0.5 + 0.5 * erf(z * _ROOT_HALF)


def _deviation(evidence: Evidence, window: _Window, logs: list[float | None], slots: list[tuple[int, int]]) -> float:
    """Return s of largest likelihood."""
    s = _START
    for _ in range(_TURNS):
        slope = information = 0.0
        for row, level in zip(evidence.rows, _drawn(window, s), strict=True):
            below, steps = [], []
            for edge in logs:
                if edge is None:
                    below.append(0.0)
                    steps.append(0.0)
                else:
                    away = (edge - level) / s
                    z = away + 0.5 * s
                    below.append(_below(z))
                    steps.append(_PEAK * exp(-0.5 * z * z) * (0.5 * s - away))
            for slot, count in row.bins:
                low, high = slots[slot]
                part = (steps[high] - steps[low]) / (below[high] - below[low] + _STRAY)
                slope += count * part
                information += count * part * part
        stride = max(-_STRIDE, min(_STRIDE, slope / (information + _TINY)))
        s = min(_WIDEST, max(_NARROWEST, s * exp(stride)))
        if abs(stride) < _SETTLED:
            break
    return s


def _read(
    evidence: Evidence, window: _Window, s: float, logs: list[float | None], slots: list[tuple[int, int]]
) -> Moving:
    """Read the moments of each bucket off the model, and how far it is believed."""
    foretold = [_TINY] * len(slots)
    laws = []
    for row, size, level in zip(evidence.rows, window.sizes, _drawn(window, s), strict=True):
        middle = level - 0.5 * s * s
        # Phi, and the same of the lognormal weighted by the value and by its square.
        below = [
            [0.0 if edge is None else _below((edge - middle) / s - power * s) for edge in logs] for power in range(3)
        ]
        for slot, (low, high) in enumerate(slots):
            foretold[slot] += size * (below[0][high] - below[0][low] + _STRAY)
        found = []
        for slot, _ in row.bins:
            low, high = slots[slot]
            inside, first, second = (part[high] - part[low] for part in below)
            found.append(_law(evidence, slot, middle, s, below[0][low], (inside, first, second)))
        laws.append(tuple(found))
    means, shifts = centred(evidence, [[law.mean for law in found] for found in laws])
    within, _ = centred(evidence, [[law.variance for law in found] for found in laws])
    return Moving(_belief(evidence, window, s, foretold), laws, means, within, shifts)


def _belief(evidence: Evidence, window: _Window, s: float, foretold: list[float]) -> float:
    """Return 0..1: how well the counts were foretold, and whether all values lie near enough to be one latency."""
    counts = [evidence.counts[bucket] for bucket in evidence.buckets]
    told = sum([count * log(count / expected) for count, expected in zip(counts, foretold, strict=True)])
    excess = (told - len(counts)) / window.whole / _CLOSE
    middle = sum([size * level for size, level in zip(window.sizes, window.levels, strict=True)]) / window.whole
    breadth = sqrt(s * s + _spread(window.sizes, window.levels, middle))
    return max(0.0, min(1.0, 1.5 - excess)) * max(0.0, min(1.0, (_TWO - breadth) / (_TWO - _ONE)))


def _law(
    evidence: Evidence, slot: int, middle: float, s: float, below: float, parts: tuple[float, float, float]
) -> Law:
    """Return the law of a bucket; where the model has hardly anything there, values lie evenly."""
    inside, first, second = parts
    lower, width = evidence.lower[slot], evidence.width[slot]
    half = lower + 0.5 * width
    all_of = inside + _STRAY
    mean = (exp(middle + 0.5 * s * s) * first + _STRAY * half) / all_of
    square = (exp(2.0 * (middle + s * s)) * second + _STRAY * (half * half + width * width / 12.0)) / all_of
    mean = max(lower, min(lower + width, mean))
    variance = max(_TINY * width * width, min(0.25 * width * width, square - mean * mean))
    return Law(middle, s, below, inside, mean, variance)
