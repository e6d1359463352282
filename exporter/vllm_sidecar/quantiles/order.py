"""Order statistics of weighted values."""

from __future__ import annotations

from math import ceil, exp
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.quantiles.evidence import Floats


_FAINT = 1e-6
"""Share of the largest value that the smallest are taken for at least: 0 has no logarithm."""
_TINY = 1e-300


def order_statistics(
    values: Floats, weights: Floats, ranks: Sequence[float], *, signed: bool = False
) -> Iterator[float]:
    """Yield the values of ascending ranks, rounded up, among values that stand for so many observations.

    Several values may share what one observation is: it is then their geometric mean, as latencies go by ratios. Where
    an observation may be microseconds or some 0.1 s it is between them, and nearer to what is more likely. Where values
    may be below 0 (`signed`) it is their mean.
    """
    some = weights > 0.0
    if some.any():
        values, weights = values[some], weights[some]
    order = np.argsort(values, kind="stable")
    values = values[order]
    ends = np.zeros(len(values) + 1)
    weights[order].cumsum(out=ends[1:])
    whole, before = float(ends[-1]), float(values[0])
    for rank in ranks:
        last = min(max(ceil(rank), 1.0), max(whole, 1.0))
        first, stop = int(ends.searchsorted(last - 1.0, "right")) - 1, int(ends.searchsorted(last))
        mine = values[first:stop]
        if len(mine) > 1:
            upper, lower = ends[first + 1 : first + 1 + len(mine)], ends[first : first + len(mine)]
            part = np.minimum(upper, last) - np.maximum(lower, last - 1.0)
            if signed:
                mean = float(mine @ part) / float(part.sum())
            else:
                logs = np.log(np.maximum(mine, _FAINT * float(mine[-1]) + _TINY))
                mean = exp(float(logs @ part) / float(part.sum()))
            # A mean of equal values is that value, whatever the rounding; and no rank is below a smaller one.
            before = max(before, min(float(mine[-1]), max(float(mine[0]), mean)))
        else:
            before = max(before, float(mine[0]) if len(mine) else float(values[-1]))
        yield before
