"""Mean and variance of each bucket that explain the sums: weighted least squares and moments of residuals, in turns.

A poll p with counts k[p,i] has the sum

    S[p] = sum over i of k[p,i] (m[i] + beta z[p,i]) + noise,  variance V[p] = sum of k v[i] + (sum of k^2 t[i])

    m, v     mean and variance of bucket i within a poll (d)
    z, beta  how its mean moves with the counts around (prior.drifts), and how far that is true, 0 to 1 (h)
    t        variance of what all observations of a poll share: drift that the counts do not show (d)
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.evidence import TINY, beyond
from vllm_sidecar.quantiles.prior import MISFIT, drifts, suggest, with_ends

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Floats
    from vllm_sidecar.quantiles.prior import Prior

_ROUNDS = 3
"""With 2 the suite is 0.04 points worse, with 6 nothing better."""
_FREE = 0.3
"""Standard deviation of the prior of a mean in the first round, in widths: it must not hide what the sums show."""
_BETA = 4.0
"""Precision of the prior of beta, which is 1."""
_TRUST, _NEAR = 20.0, 0.4
"""How many polls the prior of a variance counts as, and the log ratio to it at which that is halved."""
_STILL = 0.05
"""Share of a bucket's variance that remains within polls at least: values of one moment are never all the same."""
_CHANCE = 2.0
"""Standard errors up to which variance between polls is chance; at twice as many it counts in full."""


class Fit(NamedTuple):
    """The fitted moments."""

    prior: Prior
    mean: Floats
    """Per slot, over the window (d)."""
    within: Floats
    """Variance within a poll (d)."""
    between: Floats
    """Variance of what all observations of a poll share (d)."""
    shift: Floats
    """beta z (b)."""


def fit(evidence: Evidence) -> Fit:
    """Fit the model to the sums of the windows."""
    return _Fit(evidence).run()


def entropy_variance(place: Floats) -> Floats:
    """Return the variance of the density of largest entropy on 0..1 with this mean, within 5 %."""
    below, above = place * place, (1.0 - place) ** 2
    both = below * above
    found: Floats = both / (below + above + 4.0 * both)
    return found


def _largest(evidence: Evidence, mean: Floats) -> Floats:
    """Return the largest variance within polls (d); values of a first bucket may be of any magnitude, so it is more."""
    place = np.minimum(1.0, evidence.places(mean))
    first = evidence.first * np.minimum(4.0 * place * place, 0.5 * place * (1.0 - place))
    found: Floats = np.maximum(entropy_variance(place), first) * evidence.width**2
    return found


class _Fit:
    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.prior = evidence, suggest(evidence)
        self.polls = np.maximum(1.0, evidence.per_histogram(1.0 * evidence.trusted))
        """With a sum, of each histogram; at least 1 (h)."""
        self.squared = evidence.count * evidence.count
        source, column = evidence.source[evidence.poll], evidence.column[evidence.slot]
        shape = evidence.histograms, int(evidence.row.max()) + 1, int(evidence.column.max()) + 2
        self.known = np.zeros(shape)
        """Counts of each poll and slot; the last column is what the drift adds to the sum (h, polls, slots + 1)."""
        self.known[source, evidence.row[evidence.poll], column] = evidence.count
        self.shift = drifts(evidence, self.known[:, :, :-1], self.prior.reach)
        self.known[evidence.source, evidence.row, -1] = evidence.per_poll(evidence.count * self.shift)
        self.mean, self.within = self.prior.mean, self.prior.variance.copy()
        self.target = self.within.copy()
        """Prior of the variances within polls (d)."""
        self.beta = self.ratio = self.dominance = np.zeros(evidence.histograms)
        self.precision = 1.0 / ((_FREE * self.prior.reach) ** 2 + TINY)
        self.fitted = np.zeros(evidence.histograms)
        self.shared = self._shared()
        self._spread()

    def run(self) -> Fit:
        for turn in range(_ROUNDS):
            self._means(search_ends=turn == 0)
            self._variances(search_drift=turn == 0)
        evidence, between = self.evidence, self.ratio[self.evidence.owner] * self.prior.variance
        shift = self.shift * self.beta[evidence.source[evidence.poll]]
        # Bounds and sums that no latency has, such as 1e308, may leave nothing that is a number.
        return Fit(
            self.prior,
            np.where(np.isfinite(self.mean), self.mean, evidence.lower),
            np.where(np.isfinite(self.within), self.within, TINY),
            np.where(np.isfinite(between), between, 0.0),
            np.where(np.isfinite(shift), shift, 0.0),
        )

    def _sums(self, each: Floats) -> Floats:
        """Return what the sum of each poll would be if all observations of a slot had its value (d -> n)."""
        return self.evidence.per_poll(self.evidence.count * each[self.evidence.slot])

    def _shared(self) -> Floats:
        """Return the variance of each sum if all of the prior's variance were shared by a poll (n)."""
        return self.evidence.per_poll(self.squared * self.prior.variance[self.evidence.slot])

    def _spread(self) -> None:
        """Set the variance of each sum within the poll, and in all; a poll without a sum has no weight (n)."""
        self.inner = self._sums(self.within) + TINY
        more = self.ratio[self.evidence.source] * self.shared if self.ratio.any() else 0.0
        self.variance = np.where(self.evidence.trusted, self.inner + more, inf)

    def _means(self, *, search_ends: bool) -> None:
        """Fit means and beta; the prior of a mean is a Student distribution with 3 degrees of freedom."""
        evidence = self.evidence
        weights = np.zeros(self.known.shape[:2])
        # Drift confounds sums with counts: the more of their variance it is, the less they say of means.
        weights[evidence.source, evidence.row] = 1.0 / (self.variance * (1.0 + self.dominance[evidence.source]))
        weighted = (self.known * weights[:, :, None]).transpose(0, 2, 1)
        wanted = np.zeros((*weights.shape, 1))
        wanted[evidence.source, evidence.row, 0] = np.where(
            evidence.trusted, evidence.total - self._sums(self.prior.mean), 0.0
        )
        matrix, right = weighted @ self.known, weighted @ wanted
        diagonal = np.ones((evidence.histograms, matrix.shape[1] - 1))
        diagonal[evidence.owner, evidence.column] = self.precision
        means = np.einsum("hii->hi", matrix)[:, :-1]
        means += diagonal
        means *= 1.0 + 1e-12  # sums that leave nothing open outweigh any prior, and floats cannot separate them
        inverse = np.linalg.inv(matrix[:, :-1, :-1])
        both = inverse @ np.concatenate([right[:, :-1], matrix[:, :-1, -1:]], axis=2)
        across = (matrix[:, -1:, :-1] @ both)[:, 0]
        beta = (right[:, -1, 0] + _BETA - across[:, 0]) / (matrix[:, -1, -1] + _BETA - across[:, 1])
        self.beta = np.maximum(0.0, np.minimum(1.0, beta))
        offset = (both[:, :, 0] - self.beta[:, None] * both[:, :, 1])[evidence.owner, evidence.column]
        self.mean = np.maximum(evidence.lower, np.minimum(evidence.upper, self.prior.mean + offset))
        self.fitted = evidence.per_owner(1.0 - (diagonal / means)[evidence.owner, evidence.column])
        if search_ends:
            self._ends(np.einsum("hii->hi", inverse)[evidence.owner, evidence.column])
        self.precision = 4.0 / (3.0 * (MISFIT * self.prior.reach) ** 2 + TINY + (self.mean - self.prior.mean) ** 2)

    def _ends(self, variance: Floats) -> None:
        """Let the prior have ends of the values; `variance` is that of the fitted means (d)."""
        found = with_ends(self.evidence, self.prior, self.mean, variance)
        if found is not self.prior:
            changed = found.variance != self.prior.variance
            self.prior, self.target = found, found.variance.copy()
            self.within = np.where(changed, found.variance, self.within)
            self.shared = self._shared()
            self._spread()

    def _variances(self, *, search_drift: bool) -> None:
        """Fit the variances within polls to the residuals (expectation maximization), as far as these show them."""
        evidence, poll, slot = self.evidence, self.evidence.poll, self.evidence.slot
        each = self.mean[slot] + self.beta[evidence.source[poll]] * self.shift
        residual = np.where(evidence.trusted, evidence.total - evidence.per_poll(evidence.count * each), 0.0)
        if evidence.endless.any():
            self._beyond()
        weight = evidence.per_slot(evidence.count / self.variance[poll])
        squares = evidence.per_slot(evidence.count * ((residual / self.variance) ** 2)[poll])
        freedom = np.maximum(0.0, 1.0 - np.minimum(self.polls, self.fitted) / self.polls)[evidence.owner]
        share = self.within * weight
        shown = freedom / self.polls[evidence.owner] * share * share  # as many polls
        if self.ratio.any():
            part = (evidence.per_histogram(self.inner / self.variance) / self.polls) ** 2
            shown = shown * np.where(self.ratio > 0.0, part, 1.0)[evidence.owner]
        likely = self.within * squares / (np.maximum(weight, TINY) * np.maximum(0.5, freedom))
        away = np.log((likely + 1e-10 * self.prior.reach**2 + TINY) / (self.target + TINY))
        away *= away / (_NEAR * _NEAR + 1.0 / (shown + 1e-2))
        trust = _TRUST / (1.0 + away * away)
        caps = _largest(evidence, self.mean)
        found = np.minimum(caps, (trust * self.target + shown * likely) / (trust + shown)) + TINY
        self.within = np.where(share > 0.0, found, self.within)
        if search_drift:
            self._drift(residual, caps)
        self._spread()

    def _beyond(self) -> None:
        """Let the prior variance of +Inf follow its mean: what is beyond a bound is exponential."""
        evidence = self.evidence
        variance = np.where(evidence.endless, (self.mean - evidence.lower) ** 2, self.prior.variance)
        self.prior = self.prior._replace(variance=variance)
        self.target = np.where(evidence.endless, variance, self.target)
        self.shared = self._shared()

    def _drift(self, residual: Floats, caps: Floats) -> None:
        """Find how much of the variance is between polls, as a ratio to that of the prior (h).

        It is what neighboring polls share, or what no spread within polls explains, whichever is more beyond chance.
        """
        evidence, polls = self.evidence, self.polls
        shared = self.shared + TINY
        most = self._sums(np.maximum(caps, np.minimum(self.within, self.prior.variance))) + TINY
        unit = residual / np.sqrt(shared)
        mean = (evidence.per_histogram(unit) / polls) ** 2
        pairs = np.zeros(len(unit))
        pairs[1:] = np.where(evidence.source[1:] == evidence.source[:-1], unit[1:] * unit[:-1], 0.0)
        neighbors = evidence.per_histogram(pairs) / np.maximum(1.0, polls - 1.0) - mean
        error = np.maximum(0.0, evidence.per_histogram(unit * unit) / polls - mean) / np.sqrt(polls)
        leverage = evidence.trusted * shared / most
        information = evidence.per_histogram(leverage * leverage) + TINY
        unexplained = evidence.per_histogram((residual * residual / most - 1.0) * leverage) / information
        found = np.maximum(_beyond_chance(neighbors, error), _beyond_chance(unexplained, np.sqrt(2.0 / information)))
        self.ratio = np.where(polls >= 3.0, found, 0.0)
        self.target = self.prior.variance * np.maximum(1.0 - self.ratio, _STILL)[evidence.owner]
        within = self._sums(self.within) + TINY
        self.dominance = self.ratio * evidence.per_histogram(evidence.trusted * self.shared / within) / polls


def _beyond_chance(value: Floats, error: Floats) -> Floats:
    """Return a value as far as it is beyond chance."""
    return np.maximum(0.0, value) * beyond(value, _CHANCE * error + TINY)
