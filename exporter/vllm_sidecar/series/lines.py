"""Straight lines through values that were observed over time; older observations lose weight."""

from __future__ import annotations

from itertools import combinations_with_replacement

FIT = 1e-12
"""Smallest variance of the observations around a line: rounding makes a perfect fit negative."""


class Line:
    """The slope of `y` over `x`.

    `x` may be measured with an error, which alone would make the slope too small. `guide` is a quantity that follows
    `x` without this error, and only what varies with it counts (a regression with an instrumental variable). Without
    such an error the guide is `x` itself.
    """

    def __init__(self) -> None:
        self.count = 0.0
        """Observations, as far as they have weight."""
        self._sums = [0.0] * 3
        self._products = [0.0] * 6

    def add(self, keep: float, guide: float, x: float, y: float) -> None:
        """Keep a share of the weight, and add an observation."""
        values = (guide, x, y)
        self.count = keep * self.count + 1.0
        self._sums = [keep * old + value for old, value in zip(self._sums, values, strict=True)]
        pairs = combinations_with_replacement(values, 2)
        self._products = [keep * old + one * other for old, (one, other) in zip(self._products, pairs, strict=True)]

    @property
    def x(self) -> float:
        """The mean of `x`; 0 without observations."""
        return self._sums[1] / self.count if self.count else 0.0

    @property
    def y(self) -> float:
        """The mean of `y`; 0 without observations."""
        return self._sums[2] / self.count if self.count else 0.0

    def slope(self, expected: float, usual: float) -> float:
        """Return the slope, drawn to an expected one as long as `x` has varied too little to measure it.

        `usual` is how far slopes usually are from the expected one (ridge regression). Without observations, and if
        the guide does not follow `x`, it is the expected one.
        """
        if self.count <= 0.0 or usual <= 0.0:
            return expected
        means = [total / self.count for total in self._sums]
        pairs = combinations_with_replacement(means, 2)
        spreads = (total / self.count - one * other for total, (one, other) in zip(self._products, pairs, strict=True))
        guides, together, follows, xs, both, ys = spreads
        if together <= FIT * abs(means[0] * means[1]):
            return expected
        found = follows / together
        noise = max(ys - 2.0 * found * both + found**2 * xs, FIT * ys, 0.0)
        doubt = noise * guides / (self.count * usual**2 * together)
        return expected + (follows - expected * together) / (together + doubt)
