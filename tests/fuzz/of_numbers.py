"""Fuzz targets for what is derived from the numbers of a histogram."""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import isfinite

from vllm_sidecar.quantiles import Observed, count_up_to, estimate

MOST_BOUNDS, MOST_POLLS = 12, 40
QS = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)
SMALL = 200
"""A byte below it is a count; one from it on a power of ten, up to 1e55."""


def _count(byte: int) -> float:
    return float(byte % 4) if byte < SMALL else 10.0 ** (byte - SMALL)


def _histogram(data: bytes) -> tuple[list[float], list[Observed]]:
    """Read one byte for how many bounds, one per step between them, and per poll one per bucket and one for the sum."""
    size = data[0] % MOST_BOUNDS + 1
    bounds = [step / 64.0 for step in accumulate(byte + 1 for byte in data[1 : size + 1])]
    polls, width = [], len(bounds) + 2
    for at in range(size + 1, min(len(data), size + 1 + MOST_POLLS * width), width):
        poll = data[at : at + width]
        counts = [
            (bucket, _count(byte)) for bucket, byte in enumerate(poll[: len(bounds) + 1]) if byte % 4 or byte > SMALL
        ]
        # The sum is anything from none and nothing to more than the buckets can hold.
        total = None if poll[-1] == 0 else sum(count for _, count in counts) * bounds[-1] * poll[-1] / 128.0
        polls.append(Observed(tuple(counts), total))
    return bounds, polls


def quantiles(data: bytes) -> None:
    """Quantiles are finite, within the bucket of their rank, and grow; counts up to a value agree with the buckets."""
    if len(data) < 2:
        return
    bounds, polls = _histogram(data)
    found = estimate(bounds, polls, QS)
    assert bool(found) == any(poll.bins for poll in polls)
    for quantile in found:
        assert isfinite(quantile.value)
        upper = bounds[-1] if quantile.upper is None else quantile.upper
        assert min(quantile.lower, upper) <= quantile.value <= upper or quantile.upper is None, quantile
    assert all(one.value <= other.value for one, other in pairwise(found)), found
    whole = sum(count for poll in polls for _, count in poll.bins)
    below = [count_up_to(bounds, polls, value) for value in (0.0, bounds[0], bounds[-1] * 0.7, bounds[-1])]
    assert all(0.0 <= count <= whole * (1.0 + 1e-9) for count in below), below
