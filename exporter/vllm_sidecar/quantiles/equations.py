"""The weighted least squares of the means: of some histograms at once, each mean inside its bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Floats

_SWEEPS = 20
"""Turns in which means that stay in their buckets are found, where those of the least squares do not."""
_SETTLED = 1e-12
"""Widths of its bucket that each mean has to move in a turn for another one."""
_DRIFT_PRIOR = 4.0
"""Precision of the prior of beta, which is 1."""
_SINGULAR = 1e-12
"""Share of the diagonal that keeps equations solvable."""


class Equations:
    """The weighted least squares of some histograms side by side (h); of their unknowns (d + 1) beta is the last.

    Where a histogram has fewer slots or polls than another one, what stands for them is 0.
    """

    def __init__(self, evidence: Evidence, drift: Floats, excess: Floats) -> None:
        stack = evidence.stacked()
        self.rows, self.places = stack.rows, stack.columns
        self.known = np.concatenate([stack.counts, np.zeros((*stack.counts.shape[:2], 1))], axis=2)
        self.known[(*self.rows, -1)] = drift
        self.excess = np.zeros((*stack.counts.shape[:2], 1))
        self.excess[(*self.rows, 0)] = excess

    def solve(self, variance: Floats, precision: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats, Floats]:
        """Return means between `low` and `high` (d), beta (h), and the share of the prior in each mean (d).

        Args:
            variance: of each sum (n).
            precision: of the prior of each mean, which is 0 (d).
            low: the least that each mean may be (d).
            high: the largest (d).
        """
        weights = np.zeros(self.known.shape[:2])
        weights[self.rows] = 1.0 / variance
        weighted = (self.known * weights[:, :, None]).transpose(0, 2, 1)
        matrix, right = weighted @ self.known, (weighted @ self.excess)[:, :, 0]
        diagonal = np.einsum("hii->hi", matrix)
        prior = np.ones(diagonal.shape)
        prior[self.places], prior[:, -1] = precision, _DRIFT_PRIOR
        diagonal += prior
        right[:, -1] += _DRIFT_PRIOR
        # Sums that leave nothing open outweigh any prior, and no float tells them from each other.
        diagonal *= 1.0 + _SINGULAR
        found = np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
        beta = np.maximum(0.0, np.minimum(1.0, found[:, -1]))
        left = right[:, :-1] - matrix[:, :-1, -1] * beta[:, None]
        rest = beta != found[:, -1]
        if rest.any():
            found[rest, :-1] = np.linalg.solve(matrix[rest, :-1, :-1], left[rest][:, :, None])[:, :, 0]
        free = found[self.places]
        offset = np.maximum(low, np.minimum(high, free))
        for one in sorted(set(self.places[0][offset != free].tolist())):
            mine = self.places[0] == one
            d = int(mine.sum())
            offset[mine] = _bound(matrix[one, :d, :d], left[one, :d], offset[mine], low[mine], high[mine])
        return offset, beta, (prior / diagonal)[self.places]


def _bound(matrix: Floats, right: Floats, start: Floats, low: Floats, high: Floats) -> list[float]:
    """Give the others what a mean that would leave its bucket cannot take, one after the other (Gauss-Seidel)."""
    rows, wanted = matrix.tolist(), right.tolist()
    offset: list[float] = start.tolist()
    limits = list(zip(low.tolist(), high.tolist(), strict=True))
    for _ in range(_SWEEPS):
        still = True
        for i, (row, (least, most)) in enumerate(zip(rows, limits, strict=True)):
            left = wanted[i] - sum([a * b for a, b in zip(row, offset, strict=True)])
            found = max(least, min(most, offset[i] + left / row[i]))
            still = still and abs(found - offset[i]) <= _SETTLED * (most - least)
            offset[i] = found
        if still:
            break
    return offset
