"""Mean and variance per bucket, within polls and between them, that explain the sums of the polls.

A poll p with counts k[p,i] has the sum

    S[p] = sum over i of k[p,i] (m[i] + beta z[p,i] + b[p,i]) + noise

    m[i]      mean of bucket i over the window; a priori that of the shape that the counts suggest
    z[p,i]    how much higher the mean would be at this poll than over the window, as the counts around it suggest
    beta      0..1, how far that is true: 1 where the whole latency drifts, 0 where buckets only trade observations
    b[p,i]    what all observations of a poll share, of variance t[i]: drift inside a bucket
    noise     of variance sum over i of k[p,i] v[i]: the spread within a poll

Few or many, the sums are fitted by weighted least squares for m and beta, and by moments for v and t, in turns. The
variance between polls grows with the square of the count, the one within with the count, so many observations in one
bucket do not hide how far apart they lie. Where both explain the same sums, what neighbouring polls share, or what is
more than any spread within a bucket could explain, tells the drift.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.distribution.curve import deviation_of, tilt_of
from vllm_sidecar.distribution.drift import drifts
from vllm_sidecar.distribution.support import expected, suggested

if TYPE_CHECKING:
    from vllm_sidecar.distribution.evidence import Evidence, Floats
    from vllm_sidecar.distribution.shape import Shapes

_ROUNDS = 4
"""Turns of means and variances; the suite gains nothing from more."""
_SWEEPS = 20
"""Turns in which means that stay in their buckets are found, where those of the least squares do not."""
_SEARCHES = 2
"""Turns after which variance between polls is looked for."""
_TINY = 1e-30
"""Added where a variance could be 0."""
_FREE = 0.3
"""Deviation of the prior of a mean in the first round, in widths of the bucket: nearly none."""
_SURE = 0.02
"""The same from the second round on, where both neighbours shape a bucket; its tails are heavy, so it may be wrong."""
_UNSURE = 0.08
"""The same of the outermost buckets, which have one neighbour."""
_DEGREES = 3.0
"""Degrees of freedom of that prior (Student)."""
_TRUST = 20.0
"""Polls that the suggested variance counts for, as long as the likely one is near."""
_NEAR = 0.4
"""How near: the logarithm of their ratio, beside what chance explains."""
_EQUAL = 1e-10
"""Variance, in squared widths, of values that are the same: less could be rounding."""
_DRIFT_PRIOR = 4.0
"""Precision of the prior of beta, which is 1."""
_STILL = 0.05
"""Least share of the suggested variance that is taken for spread within a poll."""
_CHANCE = 2.0
"""Standard errors up to which a variance between polls is taken for chance; it is believed at twice as many."""
_ENOUGH = 8.0
"""Polls from which on drift can be told from spread; fewer sums are doubted."""
_UNTOLD = 0.05
"""How much, as a ratio of the variances, where there are half as many."""
_FEWEST = 3
"""Polls from which on variance between them is looked for."""
_CROSSED = 1e-3
"""Share of a bucket's count up to which its neighbour tells that values do not cross the edge between them."""
_REACH = 1.7
"""Deviations from a poll's mean to an edge that no value crosses: those of an even density."""
_SINGULAR = 1e-12
"""Share of the diagonal that keeps equations solvable."""
_SLACK = 1e-6
"""Share of a bucket's width that a poll leaves its mean at least, so that its weight is finite."""


class Moments(NamedTuple):
    """What was fitted."""

    shapes: Shapes
    means: Floats
    """Per slot, over the window (d)."""
    within: Floats
    """Variances within a poll (d)."""
    between: Floats
    """Variances of what all observations of a poll share (d)."""
    shifts: Floats
    """beta z (b)."""


def fit(evidence: Evidence) -> Moments:
    """Fit the model to the sums of the window; it begins with what the counts suggest."""
    return _Fit(evidence).run()


class _Fit:
    """The state of one fit; of the d + 1 unknowns beta is the last."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        lower, width = evidence.lower, evidence.width
        self.shapes = suggested(evidence)
        self.expected, self.spread = expected(evidence, self.shapes)
        start, self.reach = self._start()
        self.offset = start - self.expected
        self.beta = 0.0
        self.shifts = drifts(evidence, self.reach)
        trusted = evidence.trusted
        self.table = evidence.table(evidence.count)[trusted]
        self.drift = evidence.per_poll(evidence.count * self.shifts)[trusted]
        self.excess = evidence.total[trusted] - self.table @ self.expected
        self.squared = self.table * self.table
        self.alone = (self.table > 0.0).sum(1) == 1
        """Whether each poll fell into one bucket."""
        self.known = np.concatenate([self.table, self.drift[:, None]], axis=1)
        self.low, self.high = lower - self.expected, lower - self.expected + width
        self.within, self.between = self.spread.copy(), np.zeros(len(width))
        polls = max(1, len(self.excess))
        self.dominance = self.untold = self._dominance(_UNTOLD * max(0.0, _ENOUGH / polls - 1.0))
        self.target = self.spread.copy()
        buckets = np.array(evidence.buckets)
        outer = (buckets == 0) | (buckets >= len(evidence.bounds) - (0 if evidence.infinite else 1))
        self.prior = (np.where(outer, _UNSURE, _SURE) * self.reach) ** 2 + _TINY
        self.precision = 1.0 / ((_FREE * self.reach) ** 2 + _TINY)
        self.fitted = float(min(self.table.shape))
        """How many of the means are fitted to the sums, and not left to the prior."""

    def _start(self) -> tuple[Floats, Floats]:
        """Return means that agree with every poll alone, and over how much of each bucket its values seem to spread.

        Polls that leave a bucket little choice count most. The first bucket has no natural scale below its bound (a
        queue time is some microseconds in one of 0.3 s), so its shape is drawn to the scale of that mean.
        """
        evidence = self.evidence
        known = evidence.trusted[evidence.poll]
        poll, slot, count = evidence.poll[known], evidence.slot[known], evidence.count[known]
        lower, width, total = evidence.lower[slot], evidence.width[slot], evidence.total[poll]
        least = np.maximum(lower, (total - evidence.most[poll]) / count + lower + width)
        most = np.minimum(lower + width, (total - evidence.least[poll]) / count + lower)
        weight = count / (np.maximum(0.0, most - least) / (width + _TINY) + _SLACK)
        d = len(evidence.width)
        weights = np.bincount(slot, weight, d)
        weighted = np.bincount(slot, weight * np.maximum(least, np.minimum(most, self.expected[slot])), d)
        start = np.where(weights > 0.0, weighted / np.maximum(weights, _TINY), self.expected)
        reach = evidence.width.copy()
        below = self.expected[0] - evidence.lower[0]
        if evidence.buckets[0] == 0 and start[0] < self.expected[0] and below > 0.0:
            share = max(0.0, (start[0] - evidence.lower[0]) / below)
            reach[0] *= share
            self.expected[0] = start[0]
            self.spread[0] *= share * share
        return start, reach

    def run(self) -> Moments:
        """Fit means and variances in turns, and return what was found."""
        self.caps = self._caps()
        self._variances()
        for turn in range(1, _ROUNDS + 1):
            self._means()
            self._variances()
            if turn <= _SEARCHES:
                self._between()
        self._alone()
        means = self.expected + self.offset
        return Moments(self.shapes, means, self.within, self.between, self.beta * self.shifts)

    def _alone(self) -> None:
        """Take the mean of a bucket whose polls fell into no other one as their sums say, whatever else is likely."""
        table = self.table[self.alone]
        count = table.sum(0)
        share = count / np.maximum(self.table.sum(0), _TINY)
        exact = (table > 0.0).T @ self.excess[self.alone] / np.maximum(count, _TINY)
        certain = np.maximum(0.0, np.minimum(1.0, 10.0 * share - 9.0))
        self.offset += certain * (np.maximum(self.low, np.minimum(self.high, exact)) - self.offset)

    def _means(self) -> None:
        """Fit the means by weighted least squares with a prior of heavy tails (Student) at the shapes."""
        d = len(self.prior)
        # Drift confounds the sums with the counts: the more of their variance it is, the less they tell of means.
        variance = self._variance() * (1.0 + self.dominance)
        weighted = self.known / variance[:, None]
        matrix, right = weighted.T @ self.known, weighted.T @ self.excess
        diagonal = matrix.ravel()[:: d + 2]
        diagonal[:d] += self.precision
        diagonal[d] += _DRIFT_PRIOR
        right[d] += _DRIFT_PRIOR
        # Sums that leave nothing open outweigh any prior, and no float tells them from each other.
        diagonal *= 1.0 + _SINGULAR
        self.fitted = d - float((self.precision / diagonal[:d]).sum())
        found = np.linalg.solve(matrix, right)
        self.beta = max(0.0, min(1.0, float(found[d])))
        if self.beta != found[d]:
            found = np.linalg.solve(matrix[:d, :d], right[:d] - matrix[:d, d] * self.beta)
        self.offset = np.maximum(self.low, np.minimum(self.high, found[:d]))
        if (self.offset != found[:d]).any():
            self._bound(matrix[:d, :d], right[:d] - matrix[:d, d] * self.beta)
        self.precision = (_DEGREES + 1.0) / (_DEGREES * self.prior + self.offset**2)
        self.caps = self._caps()

    def _bound(self, matrix: Floats, right: Floats) -> None:
        """Give the others what a mean that would leave its bucket cannot take, one after the other (Gauss-Seidel)."""
        rows, wanted, offset = matrix.tolist(), right.tolist(), self.offset.tolist()
        limits = list(zip(self.low.tolist(), self.high.tolist(), strict=True))
        for _ in range(_SWEEPS):
            for i, (row, (low, high)) in enumerate(zip(rows, limits, strict=True)):
                left = wanted[i] - sum([a * b for a, b in zip(row, offset, strict=True)])
                offset[i] = max(low, min(high, offset[i] + left / row[i]))
        self.offset = np.array(offset)

    def _variance(self) -> Floats:
        """Return the variance of each sum, within polls and between them."""
        found: Floats = self.table @ self.within + self.squared @ self.between + _TINY
        return found

    def _dominance(self, ratio: float) -> float:
        """Return how many times the variance within polls is the one between them, whose ratio to the spread is given.

        The mean over the sums, of many observations each.
        """
        if not ratio or not len(self.table):
            return 0.0
        shared = self.squared @ self.spread
        return ratio * float((shared / (self.table @ self.within + _TINY)).mean())

    def _residual(self) -> Floats:
        """Return what means and drift leave of each sum."""
        left: Floats = self.excess - self.beta * self.drift - self.table @ self.offset
        return left

    def _variances(self) -> None:
        """Fit the variances within polls to the residuals; where these tell little, keep those of the shapes."""
        polls = len(self.excess)
        variance, residual = self._variance(), self._residual()
        weights = self.table.T @ (1.0 / variance)
        squares = self.table.T @ (residual / variance) ** 2
        freedom = max(0.0, polls - self.fitted) / max(polls, 1)
        share = self.within * weights
        tells = freedom * share * share / max(polls, 1)
        if self.between.any():
            # The sums tell of the spread within a poll only as far as it explains them.
            tells *= float(((self.table @ self.within) / variance).mean()) ** 2
        if self.evidence.infinite:
            self.spread[-1] = self.target[-1] = (self.offset[-1] - self.low[-1]) ** 2
        likely = self.within * squares / (np.maximum(weights, _TINY) * max(0.5, freedom))
        distance = np.log((likely + _EQUAL * self.reach**2 + _TINY) / (self.target + _TINY))
        distance *= distance / (_NEAR * _NEAR + 1.0 / (tells + 1e-2))
        trust = _TRUST / (1.0 + distance * distance)
        fitted = np.minimum(self.caps, (trust * self.target + tells * likely) / (trust + tells)) + _TINY
        self.within = np.where(share > 0.0, fitted, self.within)

    def _caps(self) -> Floats:
        """Bound the variances by that of the density of largest entropy with the mean."""
        evidence = self.evidence
        inside = self.offset - self.low
        width = evidence.width
        place = np.where(width > 0.0, inside / np.maximum(width, _TINY), 0.5)
        caps = deviation_of(tilt_of(place)) ** 2
        if evidence.buckets[0] == 0:
            caps[0] = max(caps[0], min(4.0 * place[0] ** 2, 0.5 * place[0] * (1.0 - place[0])))
        return caps * width * width

    def _between(self) -> None:
        """Estimate how much of the variance is between polls, as a ratio to what the shapes suggest within.

        It is what neighbouring polls share, or what a spread within polls cannot explain, the larger of both; each has
        to be beyond chance.
        """
        polls = len(self.excess)
        if polls < _FEWEST:
            return
        residual = self._residual()
        shared = self.squared @ self.spread + _TINY
        unit = residual / np.sqrt(shared)
        mean = float(unit.mean()) ** 2
        neighbours = float((unit[1:] * unit[:-1]).sum()) / (polls - 1) - mean
        error = max(0.0, float((unit * unit).mean()) - mean) / sqrt(polls)
        widest = self.table @ np.maximum(self.caps, np.minimum(self.within, self.spread)) + _TINY
        leverage = shared / widest
        information = float((leverage * leverage).sum())
        unexplained = float(((residual * residual / widest - 1.0) * leverage).sum()) / information
        ratio = max(_beyond_chance(neighbours, error), _beyond_chance(unexplained, sqrt(2.0 / information)))
        self.between = ratio * self.spread
        # What drift explains of the spread is not within; but values of one moment are never all the same.
        self.target = self.spread * max(1.0 - ratio, _STILL)
        self.dominance = max(self.untold, self._dominance(ratio))
        if ratio > 0.0:
            self._uncrossed(residual, min(1.0, ratio / 0.1))

    def _uncrossed(self, residual: Floats, share: float) -> None:
        """Bound the spread within polls where polls come near an edge that no value crosses."""
        evidence, counts = self.evidence, self.evidence.counts
        variance = self._variance()
        for slot, bucket in enumerate(evidence.buckets):
            if not 0 < bucket < len(evidence.bounds):
                continue
            few = _CROSSED * counts[bucket]
            open_below, open_above = counts[bucket - 1] >= few, counts[bucket + 1] >= few
            count = self.table[:, slot]
            seen = count > 0.0
            if (open_below and open_above) or not seen.any():
                continue
            common = np.minimum(1.0, self.between[slot] * count**2 / variance)[seen]
            moved = self.offset[slot] + common * residual[seen] / count[seen]
            means = np.where(self.alone[seen], self.excess[seen] / count[seen], moved)
            below, above = means - self.low[slot], self.high[slot] - means
            nearest = above if open_below else below if open_above else np.minimum(below, above)
            near = np.sort(np.maximum(0.0, nearest))[len(nearest) // 10]
            bound = (near / _REACH) ** 2 + _SLACK * evidence.width[slot] ** 2
            self.target[slot] += share * (min(self.target[slot], bound) - self.target[slot])


def _beyond_chance(value: float, error: float) -> float:
    """Return a value that is believed as far as it is beyond chance."""
    return max(0.0, value) * max(0.0, min(1.0, value / (_CHANCE * error + _TINY) - 1.0))
