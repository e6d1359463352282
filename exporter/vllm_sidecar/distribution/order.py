"""Order statistics of weighted values."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.distribution.evidence import Floats


def order_statistics(values: Floats, weights: Floats, ranks: Sequence[float]) -> Iterator[float]:
    """Yield the values of ranks, rounded up, among values that stand for so many observations.

    Several values may share what one observation is: it is then their mean.
    """
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    upper = np.cumsum(weights)
    lower = upper - weights
    whole = float(upper[-1])
    for rank in ranks:
        last = min(max(ceil(rank), 1.0), max(whole, 1.0))
        part = np.maximum(0.0, np.minimum(upper, last) - np.maximum(lower, last - 1.0))
        held = float(part.sum())
        yield float((values * part).sum()) / held if held > 0.0 else float(values[-1])
