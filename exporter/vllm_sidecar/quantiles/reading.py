"""What a poll's sum says of its observations, where it is known how they usually lie.

    weight of x  ~  usual weight of x * density of S - x as the sum of all others of the poll

Of many others the sum is normal; of one other it is that one's own density; where a bucket holds two groups it is
normal around each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.groups import MOST, binomial

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Floats, Places

_FAINT = 1e-9
"""Share of what is likely that the unlikely keeps: no weight is 0 everywhere."""
_RARE = 1e-3
"""Least density of the other one of a pair, in widths of the bucket."""
_CELL = 1e-3
"""Least distance of two places that matters, in widths of the bucket."""
_PENALTY = 4.0
"""What a place costs (nats) for each distance to the next that it is beyond what its poll allows."""
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
        """Variance of what each place stands for."""
        self._mean_blur = self._blur.mean(1)
        least = (evidence.least[poll] - evidence.lower[slot])[:, None]
        most = (evidence.most[poll] - evidence.lower[slot] - evidence.width[slot])[:, None]
        beyond = least - self.rest
        np.maximum(beyond, self.rest - most, out=beyond)
        np.maximum(beyond, 0.0, out=beyond)
        np.maximum(gaps, _CELL * evidence.width[slot][:, None] + _TINY, out=gaps)
        beyond /= gaps
        beyond *= _PENALTY
        self._impossible = beyond
        """What places cost that leave the others no values in their buckets."""
        self.pairs = np.flatnonzero(evidence.size[poll] == 2.0)
        """Places in `which` of the bins whose polls saw two observations."""
        self._likely = np.empty_like(self.rest)
        self._pair_widths = evidence.width[slot[self.pairs]][:, None]
        own = which[self.pairs]
        following = np.append(evidence.poll[1:], -1) == evidence.poll
        self.partners = np.where(evidence.count[own] > 1.0, own, np.where(following[own], own + 1, own - 1))
        """The bin of the other observation of each pair."""

    def read(self, weights: Floats, law: Law) -> Floats:
        """Return the weights of the places, from the usual ones of these bins; both add up to 1.

        The next reading overwrites what is returned: fresh memory would take as long as the computation.
        """
        whole = self._whole(law)
        mean, variance = self._others(law, whole, 1.0)
        variance += self._mean_blur
        likely = np.subtract(self.rest, mean[:, None], out=self._likely)
        likely *= likely
        likely *= (-0.5 / variance)[:, None]
        if law.steps:
            self._stepped(likely, np.log(variance), law, law.steps, whole)
        if law.density is not None:
            likely[self.pairs] = np.log(law.density * self._pair_widths + _RARE)
        likely -= self._impossible
        likely -= likely.max(1, keepdims=True)
        found: Floats = np.exp(likely, out=likely)
        found += _FAINT
        found *= weights
        found /= found.sum(1, keepdims=True)
        return found

    def _whole(self, law: Law) -> tuple[Floats, Floats]:
        """Return mean and variance of the sum of each bin's poll."""
        evidence = self.evidence
        mean = evidence.per_poll(evidence.count * law.mean)[self.poll]
        return mean, evidence.per_poll(evidence.count * law.variance)[self.poll]

    def _others(self, law: Law, whole: tuple[Floats, Floats], own: Floats | float) -> tuple[Floats, Floats]:
        """Return mean and variance of a poll's sum without so many observations of the bin."""
        mean = whole[0] - own * law.mean[self.which]
        return mean, np.maximum(whole[1] - own * law.variance[self.which], 0.0) + _TINY

    def _stepped(
        self, likely: Floats, spread_of_all: Floats, law: Law, steps: Steps, whole: tuple[Floats, Floats]
    ) -> None:
        """Set the logarithm of the density of the rest where its bucket has two groups, as far as that is believed."""
        stepped = (steps.split[self.slot] > 0.0) & (self.count > 1.0) & (self.count <= MOST)
        stepped[self.pairs] &= law.density is None
        owner = self.evidence.owner[self.slot]
        others = self._others(law, whole, self.count)
        for one in sorted(set(owner[stepped].tolist())):  # the more observations a poll has, the more steps
            rows = np.flatnonzero(stepped & (owner == one))
            slot = self.slot[rows]
            belief = steps.split[slot][:, None]
            normal = likely[rows] - 0.5 * spread_of_all[rows][:, None] + np.log(np.maximum(1.0 - belief, _TINY))
            density = self._around_steps(rows, steps, *(each[rows] for each in others))
            likely[rows] = np.logaddexp(density + np.log(belief), normal)

    def _around_steps(self, rows: Places, steps: Steps, mean: Floats, variance: Floats) -> Floats:
        """Return the logarithm of the density of the rest, for mean and variance of what is in no such bucket."""
        slot, left = self.slot[rows], self.count[rows] - 1.0
        share = np.maximum(1e-6, np.minimum(1.0 - 1e-6, steps.share[slot]))
        # A step that is hardly likely may be the only one that explains a sum, so none is left out.
        upper = np.arange(int(left.max()) + 1)
        lower = np.maximum(0.0, left[:, None] - upper)
        middle = mean[:, None] + lower * steps.means[0, slot][:, None] + upper * steps.means[1, slot][:, None]
        spread = lower * steps.variances[0, slot][:, None] + upper * steps.variances[1, slot][:, None]
        # The places of slow requests are much farther apart than all others of their bucket.
        blurred = (spread + variance[:, None])[:, None, :] + self._blur[rows][:, :, None]
        terms = self.rest[rows][:, :, None] - middle[:, None, :]
        terms *= terms
        terms /= blurred
        terms += np.log(blurred, out=blurred)
        terms *= -0.5
        terms += binomial(left[:, None], upper, share[:, None])[:, None, :]
        most = terms.max(2)
        terms -= most[:, :, None]
        found: Floats = most + np.log(np.exp(terms, out=terms).sum(2))
        return found
