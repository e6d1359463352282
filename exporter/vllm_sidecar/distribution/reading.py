"""What a poll's sum says of its observations, where it is known how they usually lie.

    weight of x  ~  usual weight of x * density of S - x as the sum of all others of the poll

Of many others the sum is normal; of one other it is that one's own density; where a bucket holds two groups it is
normal around each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.distribution.groups import MOST, binomial

if TYPE_CHECKING:
    from vllm_sidecar.distribution.evidence import Evidence, Floats, Places

_FAINT = 1e-9
"""Share of what is likely that the unlikely keeps: no weight is 0 everywhere."""
_RARE = 1e-3
"""Least density of the other one of a pair, in widths of the bucket."""
_CELL = 1e-3
"""Least distance of two places that matters, in widths of the bucket."""
_PENALTY = 4.0
"""What a place costs (nats) for each distance to the next that it is beyond what its poll allows."""
_REACH = 4.0
"""Deviations of the number of the upper group that are looked at."""
_TINY = 1e-30


class Steps(NamedTuple):
    """The two groups of each slot that has them."""

    split: Floats
    """How far each slot is believed to have two groups, 0 to 1 (d)."""
    share: Floats
    """Of the upper one (d)."""
    means: Floats
    """(2, d)"""
    variances: Floats
    """(2, d)"""


class Law(NamedTuple):
    """How observations usually lie."""

    mean: Floats
    """Per bin (b)."""
    variance: Floats
    """Per bin (b)."""
    density: Floats | None = None
    """Of the other observation, for each pair that is read and each place; None where two observations are many."""
    steps: Steps | None = None


class Bins(NamedTuple):
    """The places at which the observations of each bin may be."""

    values: Floats
    """Ascending and inside the bucket (b, NODES)."""
    gaps: Floats
    """Half of how far the neighbours of each are apart (b, NODES)."""


class Reader:
    """Reads some bins, whose polls have trusted sums of several observations, as often as what is usual changes."""

    def __init__(self, evidence: Evidence, bins: Bins, which: Places) -> None:
        self.evidence, self.which = evidence, which
        poll, slot = self.poll, self.slot = evidence.poll[which], evidence.slot[which]
        self.count = evidence.count[which]
        self.rest = evidence.total[poll][:, None] - bins.values[which]
        """What the others of the poll add up to, for each place."""
        gaps = bins.gaps[which]
        self._blur = 0.5 * gaps * gaps
        self._mean_blur = self._blur.mean(1)
        least = (evidence.least[poll] - evidence.lower[slot])[:, None]
        most = (evidence.most[poll] - evidence.lower[slot] - evidence.width[slot])[:, None]
        room = np.minimum(self.rest - least, most - self.rest)
        cell = np.maximum(gaps, _CELL * evidence.width[slot][:, None]) + _TINY
        self._impossible = _PENALTY * np.maximum(0.0, -room / cell)
        """What places cost that leave the others no values in their buckets."""
        self.pairs = np.flatnonzero(evidence.size[poll] == 2.0)
        """Places in `which` of the bins whose polls saw two observations."""
        own = which[self.pairs]
        following = np.append(evidence.poll[1:], -1) == evidence.poll
        self.partners = np.where(evidence.count[own] > 1.0, own, np.where(following[own], own + 1, own - 1))
        """The bin of the other observation of each pair."""

    def read(self, weights: Floats, law: Law) -> Floats:
        """Return the weights of the places, from the usual ones of these bins; both add up to 1."""
        mean, variance = self._others(law, 1.0)
        blurred = variance + self._mean_blur
        likely = (self.rest - mean[:, None]) ** 2 * (-0.5 / blurred)[:, None]
        if law.steps:
            self._stepped(likely, np.log(blurred), law, law.steps)
        if law.density is not None:
            likely[self.pairs] = np.log(law.density * self.evidence.width[self.slot[self.pairs]][:, None] + _RARE)
        likely -= self._impossible
        likely -= likely.max(1, keepdims=True)
        found: Floats = weights * (np.exp(likely) + _FAINT)
        found /= found.sum(1, keepdims=True)
        return found

    def _others(self, law: Law, own: Floats | float) -> tuple[Floats, Floats]:
        """Return mean and variance of a poll's sum without so many observations of the bin."""
        evidence = self.evidence
        mean = evidence.per_poll(evidence.count * law.mean)[self.poll] - own * law.mean[self.which]
        variance = evidence.per_poll(evidence.count * law.variance)[self.poll] - own * law.variance[self.which]
        return mean, np.maximum(variance, 0.0) + _TINY

    def _stepped(self, likely: Floats, spread_of_all: Floats, law: Law, steps: Steps) -> None:
        """Set the logarithm of the density of the rest where its bucket has two groups, as far as that is believed."""
        rows = np.flatnonzero((steps.split[self.slot] > 0.0) & (self.count > 1.0) & (self.count <= MOST))
        if not len(rows):
            return
        slot, left = self.slot[rows], self.count[rows] - 1.0
        mean, variance = (each[rows] for each in self._others(law, self.count))
        share = np.maximum(1e-6, np.minimum(1.0 - 1e-6, steps.share[slot]))
        reach = _REACH * np.sqrt(left * share * (1.0 - share)) + 1.0
        first = int(max(0.0, (left * share - reach).min()))
        upper = np.arange(first, int(min(left.max(), (left * share + reach).max())) + 1)
        lower = np.maximum(0.0, left[:, None] - upper)
        middle = mean[:, None] + lower * steps.means[0, slot][:, None] + upper * steps.means[1, slot][:, None]
        spread = lower * steps.variances[0, slot][:, None] + upper * steps.variances[1, slot][:, None]
        blurred = (spread + variance[:, None])[:, None, :] + self._blur[rows][:, :, None]
        terms = (self.rest[rows][:, :, None] - middle[:, None, :]) ** 2
        terms /= blurred
        terms += np.log(blurred)
        terms *= -0.5
        terms += binomial(left[:, None], upper, share[:, None])[:, None, :]
        most = terms.max(2)
        stepped = most + np.log(np.exp(terms - most[:, :, None]).sum(2))
        belief = steps.split[slot][:, None]
        normal = likely[rows] - 0.5 * spread_of_all[rows][:, None] + np.log(np.maximum(1.0 - belief, _TINY))
        likely[rows] = np.logaddexp(stepped + np.log(belief), normal)
