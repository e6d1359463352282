"""Order statistics of weighted values."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.distribution.evidence import Floats


def order_statistics(values: Floats, weights: Floats, ranks: Sequence[float]) -> Iterator[float]:
    """Yield the values of ascending ranks, rounded up, among values that stand for so many observations.

    Several values may share what one observation is: it is then their mean.
    """
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    upper = np.cumsum(weights)
    lower = upper - weights
    whole, before = float(upper[-1]), float(values[0])
    for rank in ranks:
        last = min(max(ceil(rank), 1.0), max(whole, 1.0))
        part = np.maximum(0.0, np.minimum(upper, last) - np.maximum(lower, last - 1.0))
        some = np.flatnonzero(part)
        if len(some):
            mean = float(values @ part) / float(part.sum())
            # A mean of equal values is that value, whatever the rounding; and no rank is below a smaller one.
            before = max(before, min(float(values[some[-1]]), max(float(values[some[0]]), mean)))
        else:
            before = float(values[-1])
        yield before
