"""Runs the stages of the estimate, and reads quantiles off what they found, which are order statistics."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.buckets import lower_bound, ranks
from vllm_sidecar.quantiles.evidence import NARROW, Evidence, added
from vllm_sidecar.quantiles.fit import fit
from vllm_sidecar.quantiles.level import moving_level
from vllm_sidecar.quantiles.posterior import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.quantiles.buckets import Observed
    from vllm_sidecar.quantiles.evidence import Flags, Floats, Places
    from vllm_sidecar.quantiles.fit import Fit
    from vllm_sidecar.quantiles.level import MovingLevel
    from vllm_sidecar.quantiles.posterior import Posterior

    Windows = Sequence[tuple[tuple[float, ...], Sequence[Observed]]]
    Placed = tuple[int, float]
    """A bucket, and a value in it."""


class SlotMoments(NamedTuple):
    """Moments of the values in one bucket."""

    bucket: int
    mean: float
    deviation: float
    """Standard deviation of the values."""
    drift: float
    """Standard deviation of what all observations of a poll share."""
    exact: float
    """Share of its values that are known exactly, because they were alone in their poll."""


class Found(NamedTuple):
    """The estimates of a histogram."""

    values: list[float]
    """Per quantile."""
    slots: list[SlotMoments]
    level_belief: float
    """Weight of the lognormal with a moving level, 0 to 1."""


class _Stages(NamedTuple):
    """The results of the stages for some windows."""

    evidence: Evidence
    fitted: Fit
    level: MovingLevel | None


def _run(windows: Windows) -> _Stages:
    evidence = Evidence(windows)
    fitted = fit(evidence)
    return _Stages(evidence, fitted, moving_level(evidence, fitted))


def values_of(windows: Windows, qs: Sequence[float]) -> list[list[Placed]]:
    """Return the values of ascending quantiles of each window; all polls observed something, and some have sums."""
    with np.errstate(all="ignore"):
        return _values(_run(windows), qs)


def _values(stages: _Stages, qs: Sequence[float]) -> list[list[Placed]]:
    evidence = stages.evidence
    slots, rank = _asked(evidence, qs)
    wanted = np.zeros(len(evidence.bucket), bool)
    wanted[slots] = True
    posterior = read(*stages, wanted)
    return list(_unscaled(evidence, qs, slots, _order_statistics(evidence, posterior, wanted, slots, rank)))


def found_of(windows: Windows, qs: Sequence[float]) -> list[Found]:
    """Return the same with what was found of each bucket."""
    with np.errstate(all="ignore"):
        stages = _run(windows)
        evidence, fitted, level = stages
        posterior = read(*stages, np.ones(len(evidence.bucket), bool))
        slot, many = posterior.slot, len(evidence.bucket)
        mean = added(slot, posterior.weights * posterior.values, many) / evidence.held
        off = posterior.values - mean[slot]
        variance = added(slot, posterior.weights * off * off, many) / evidence.held
        values = _values(stages, qs)
    belief = np.zeros(evidence.histograms)
    if level:
        belief[evidence.source[evidence.poll[level.bins]]] = level.belief
    scale = evidence.layout.scale[evidence.owner]
    columns = (
        evidence.bucket - np.array(evidence.layout.offset)[evidence.owner],
        mean * scale,
        np.sqrt(variance) * scale,
        np.sqrt(fitted.between) * scale,
        evidence.per_slot(evidence.alone[evidence.poll]) / evidence.held,
    )
    slots = [SlotMoments(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    owner = evidence.owner.tolist()
    return [
        Found(
            [value for _, value in mine],
            [each for each, its in zip(slots, owner, strict=True) if its == one],
            float(belief[one]),
        )
        for one, mine in enumerate(values)
    ]


def _asked(evidence: Evidence, qs: Sequence[float]) -> tuple[Places, Floats]:
    """Return the slot that contains each rank, histogram after histogram, and the rank within it."""
    counts, found = evidence.counts.tolist(), []
    for offset, (bounds, _) in zip(evidence.layout.offset, evidence.windows, strict=True):
        mine = counts[offset : offset + len(bounds) + 1]
        found += [(bucket + offset, rank) for bucket, rank in ranks(mine, qs)]
    bucket, rank = zip(*found, strict=True) if found else ((), ())
    return evidence.slot_of[np.array(bucket, np.intp)], np.array(rank)


def _order_statistics(evidence: Evidence, posterior: Posterior, wanted: Flags, slot: Places, rank: Floats) -> Floats:
    """Return the value of each rank, rounded up, in its slot: the mean of what represents this observation."""
    place = (posterior.values - evidence.lower[posterior.slot]) / np.maximum(NARROW, evidence.width)[posterior.slot]
    order = np.argsort(np.maximum(0.0, np.minimum(1.0, place)) + 2.0 * posterior.slot)
    values, weights, owner = posterior.values[order], posterior.weights[order], posterior.slot[order]
    # Each slot is a whole of 1, one after the other, so that no count is lost next to another one.
    whole = added(owner, weights, len(wanted))
    weights = weights / whole[owner]
    ends, area = np.zeros(len(values) + 1), np.zeros(len(values) + 1)
    weights.cumsum(out=ends[1:])
    unit = np.zeros(len(wanted))
    unit[wanted] = np.maximum.reduceat(np.abs(values), np.searchsorted(owner, np.flatnonzero(wanted)))
    unit += NARROW
    np.cumsum(weights * values / unit[owner], out=area[1:])
    before, held = (np.cumsum(wanted) - 1.0)[slot], whole[slot]
    last = np.minimum(np.maximum(np.ceil(rank - 1e-9), 1.0), np.maximum(held, 1.0))
    least = before + np.maximum(0.0, last - 1.0) / np.maximum(held, 1.0)
    most = before + np.minimum(1.0, last / held)
    tiny = np.maximum(1e-11, 1e-3 / np.maximum(held, 1.0))
    top = len(values) - 1
    low = np.minimum(top, ends[1:].searchsorted(least + tiny))
    high = np.maximum(low, np.minimum(top, ends[1:].searchsorted(most - tiny)))
    mean = (
        area[high] - area[low] + ((most - ends[high]) * values[high] - (least - ends[low]) * values[low]) / unit[slot]
    )
    mean *= unit[slot] / (most - least)
    # A single value is that value, whatever the rounding.
    found: Floats = np.where(low == high, values[low], np.maximum(values[low], np.minimum(values[high], mean)))
    return evidence.inside(found, slot)


def _unscaled(evidence: Evidence, qs: Sequence[float], slots: Places, values: Floats) -> Iterator[list[Placed]]:
    """Yield the values of each histogram in its unit: inside the bounds of their buckets, and ascending."""
    buckets, found, many = evidence.bucket[slots].tolist(), values.tolist(), len(qs)
    for one, ((bounds, _), offset) in enumerate(zip(evidence.windows, evidence.layout.offset, strict=True)):
        least = -inf
        mine: list[Placed] = []
        scale = float(evidence.layout.scale[one])
        for at in range(one * many, one * many + many):
            bucket = buckets[at] - offset
            least = max(least, found[at] * scale, lower_bound(bounds, bucket))
            least = min(bounds[bucket], least) if bucket < len(bounds) else least
            mine.append((bucket, least))
        yield mine
