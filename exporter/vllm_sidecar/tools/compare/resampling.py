"""Sums between polls -> a ratio with its standard error, by a bootstrap over blocks of polls.

Requests overlap several polls, so polls in a row resemble each other and must not be drawn one by one: blocks of them
are. The error is that of the block length, or of twice the length, whichever is larger, and blocks that still resemble
each other widen it. Few blocks make an uncertain error, which Student's t with the number of blocks allows
for. (Künsch 1989 for blocks; Schmeiser 1982 for ten to thirty of them.)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MOST_BLOCKS = 24
LEAST_BLOCKS = 6
POLLS_PER_BLOCK = 2
LEAST_POLLS = LEAST_BLOCKS * POLLS_PER_BLOCK
DRAWS = 1000
MOST_CORRELATION = 0.95
SEED = 20
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of sums: its value, its standard error and the degrees of freedom of the error.

    The error is that of the logarithm with `logarithmic`. `observations` is the denominator.
    """

    value: float
    error: float
    freedom: float
    observations: float


def estimate(tops: Sequence[Floats], bottoms: Sequence[Floats], *, logarithmic: bool) -> Estimate | None:
    """Return the ratio of two sums over blocks, which are given at both lengths; None if it cannot be judged.

    It cannot if fewer than `LEAST_BLOCKS` short blocks have observations.
    """
    top, bottom = float(tops[0].sum()), float(bottoms[0].sum())
    if np.count_nonzero(bottoms[0]) < LEAST_BLOCKS or (logarithmic and top <= 0.0):
        return None
    short, *longer = (_error(*sums, logarithmic=logarithmic) for sums in zip(tops, bottoms, strict=True))
    found = [_widened(short, tops[0], bottoms[0])]
    found += [(error, len(sums) - 1.0) for error, sums in zip(longer, bottoms[1:], strict=True)]
    error, freedom = max(found)
    return Estimate(top / bottom, error, freedom, bottom) if error < inf else None


def _widened(error: float, top: Floats, bottom: Floats) -> tuple[float, float]:
    """Return the error if successive blocks still resemble each other, and its degrees of freedom.

    A queue that builds up and drains takes longer than a block. Blocks with the correlation c from one to the next (an
    autoregression of first order) count as (1 - c) / (1 + c) of their number. A correlation that unrelated blocks often
    show by chance is not counted.
    """
    off = top - top.sum() / bottom.sum() * bottom
    count, scatter = len(off), float(off @ off)
    seen = float(off[1:] @ off[:-1]) / scatter if scatter > 0.0 else 0.0
    if seen < 1.0 / sqrt(count):
        return error, count - 1.0
    correlation = min(MOST_CORRELATION, seen + 1.0 / count)  # the mean of unrelated blocks is -1 / count
    worth = (1.0 - correlation) / (1.0 + correlation)
    return error / sqrt(worth), max(2.0, count * worth - 1.0)


def _error(top: Floats, bottom: Floats, *, logarithmic: bool) -> float:
    """Return the standard error by the bootstrap; infinite if too few draws have observations."""
    count = len(bottom)
    drawn = _draws(count)
    tops, bottoms = drawn @ top, drawn @ bottom
    usable = (bottoms > 0.0) & ((tops > 0.0) | (not logarithmic))
    if usable.mean() < 0.9:
        return inf
    ratios = tops[usable] / bottoms[usable]
    if logarithmic:
        ratios = np.log(ratios)
    return float(ratios.std()) * sqrt(count / (count - 1))


def _draws(count: int) -> Floats:
    """Return how often each block is in each draw: the same draws for all measures and sides."""
    if count not in _KNOWN:
        random = np.random.default_rng(SEED)
        _KNOWN[count] = random.multinomial(count, [1.0 / count] * count, size=DRAWS).astype(float)
    return _KNOWN[count]


_KNOWN: dict[int, Floats] = {}


def joined(first: float, first_freedom: float, second: float, second_freedom: float) -> tuple[float, float]:
    """Return the error of a difference and its degrees of freedom (Welch 1947, Satterthwaite 1946)."""
    variance = first**2 + second**2
    if variance <= 0.0:
        return 0.0, min(first_freedom, second_freedom)
    return sqrt(variance), variance**2 / (first**4 / first_freedom + second**4 / second_freedom)


def student(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t for a probability of at least 0.5.

    The approximation of Wallace (1959), turned around: within 1 % for 5 degrees of freedom or more.
    """
    z = _NORMAL.inv_cdf(probability)
    stretched = z * (8.0 * freedom + 3.0) / (8.0 * freedom + 1.0)
    return sqrt(freedom * (exp(stretched**2 / freedom) - 1.0))


def lengths(polls: int) -> tuple[int, ...]:
    """Return the numbers of blocks for so many polls: short blocks, and twice as long ones if these are enough."""
    short = min(MOST_BLOCKS, max(LEAST_BLOCKS, polls // (2 * POLLS_PER_BLOCK)))
    return (short, short // 2) if short // 2 >= LEAST_BLOCKS else (short,)


def blocks(times: Sequence[float], count: int) -> NDArray[np.int64]:
    """Assign polls to so many blocks of equal time."""
    at = np.asarray(times)
    start, end = float(at.min()), float(at.max())
    if end <= start:
        return np.zeros(len(at), dtype=np.int64)
    return np.minimum(((at - start) / (end - start) * count).astype(np.int64), count - 1)
