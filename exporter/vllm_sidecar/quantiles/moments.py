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

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.curve import deviation_of, tilt_of
from vllm_sidecar.quantiles.drift import drifts
from vllm_sidecar.quantiles.equations import Equations
from vllm_sidecar.quantiles.support import expected, suggested

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.quantiles.evidence import Evidence, Flags, Floats, Single
    from vllm_sidecar.quantiles.shape import Shapes

_ROUNDS = 4
"""Turns of means and variances; the suite gains nothing from more."""
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


def fit(evidence: Evidence, parts: Sequence[Single]) -> Moments:
    """Fit the model to the sums of the window; it begins with what the counts suggest.

    Histograms side by side do not touch each other; `parts` are what each of them is.
    """
    return _Fit(evidence, parts).run()


class _Fit:
    """The state of the fits of some histograms (h)."""

    def __init__(self, whole: Evidence, parts: Sequence[Single]) -> None:
        self.whole, self.parts = whole, parts
        evidence = self.evidence = whole.only(whole.trusted)
        self.many = np.maximum(1.0, evidence.per_histogram(np.ones(len(evidence.size))))
        """Polls of each histogram (h), at least 1."""
        self.shapes = suggested(parts)
        self.expected, self.spread = expected(evidence, self.shapes)
        start, self.reach = self._start()
        self.offset = start - self.expected
        self.shifts = drifts(whole, parts, self.reach)
        self.beta = np.zeros(len(parts))
        self.squared = evidence.count * evidence.count
        self.drift = evidence.per_poll(evidence.count * self.shifts[whole.trusted[whole.poll]])
        self.excess = evidence.total - self._sum(self.expected)
        self.alone = np.bincount(evidence.poll) == 1
        """Whether each poll fell into one bucket."""
        self.equations = Equations(evidence, self.drift, self.excess)
        self.low = evidence.lower - self.expected
        self.high = self.low + evidence.width
        self.within, self.between = self.spread.copy(), np.zeros(len(self.spread))
        self.ratio = np.zeros(len(parts))
        """Of the variance between polls to what the shapes suggest within."""
        self.dominance = self.untold = self._dominance(_UNTOLD * np.maximum(0.0, _ENOUGH / self.many - 1.0))
        self.target = self.spread.copy()
        outer = np.concatenate([_outermost(part) for part in parts])
        self.prior = (np.where(outer, _UNSURE, _SURE) * self.reach) ** 2 + _TINY
        self.precision = 1.0 / ((_FREE * self.reach) ** 2 + _TINY)
        self.fitted = np.minimum(self.many, np.bincount(evidence.owner))
        """How many of the means are fitted to the sums, and not left to the prior."""

    def _start(self) -> tuple[Floats, Floats]:
        """Return means that agree with every poll alone, and over how much of each bucket its values seem to spread.

        Polls that leave a bucket little choice count most. The first bucket has no natural scale below its bound (a
        queue time is some microseconds in one of 0.3 s), so its shape is drawn to the scale of that mean.
        """
        evidence, count = self.evidence, self.evidence.count
        lower, width, total = evidence.lower[evidence.slot], evidence.width[evidence.slot], evidence.total
        least = np.maximum(lower, (total - evidence.most)[evidence.poll] / count + lower + width)
        most = np.minimum(lower + width, (total - evidence.least)[evidence.poll] / count + lower)
        weight = count / (np.maximum(0.0, most - least) / (width + _TINY) + _SLACK)
        weights = evidence.per_slot(weight)
        near = np.maximum(least, np.minimum(most, self.expected[evidence.slot]))
        start = np.where(weights > 0.0, evidence.per_slot(weight * near) / np.maximum(weights, _TINY), self.expected)
        below = self.expected - evidence.lower
        small = evidence.first & (start < self.expected) & (below > 0.0)
        share = np.where(small, np.maximum(0.0, (start - evidence.lower) / np.maximum(below, _TINY)), 1.0)
        self.expected = np.where(small, start, self.expected)
        self.spread *= share * share
        return start, evidence.width * share

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
        shifts = self.beta[self.whole.owner[self.whole.slot]] * self.shifts
        return Moments(self.shapes, means, self.within, self.between, shifts)

    def _sum(self, each: Floats) -> Floats:
        """Return what the sum of each poll would be, if all observations of a slot had its value."""
        return self.evidence.per_poll(self.evidence.count * each[self.evidence.slot])

    def _mean(self, values: Floats) -> Floats:
        """Return the mean over the polls of each histogram (h)."""
        return self.evidence.per_histogram(values) / self.many

    def _alone(self) -> None:
        """Take the mean of a bucket whose polls fell into no other one as their sums say, whatever else is likely."""
        evidence = self.evidence
        mine = self.alone[evidence.poll]
        count = evidence.per_slot(evidence.count * mine)
        share = count / np.maximum(evidence.per_slot(evidence.count), _TINY)
        exact = evidence.per_slot(self.excess[evidence.poll] * mine) / np.maximum(count, _TINY)
        certain = np.maximum(0.0, np.minimum(1.0, 10.0 * share - 9.0))
        self.offset += certain * (np.maximum(self.low, np.minimum(self.high, exact)) - self.offset)

    def _means(self) -> None:
        """Fit the means by weighted least squares with a prior of heavy tails (Student) at the shapes."""
        # Drift confounds the sums with the counts: the more of their variance it is, the less they tell of means.
        variance = self._variance() * (1.0 + self.dominance[self.evidence.source])
        self.offset, self.beta, left = self.equations.solve(variance, self.precision, self.low, self.high)
        self.fitted = self.evidence.per_owner(1.0 - left)
        self.precision = (_DEGREES + 1.0) / (_DEGREES * self.prior + self.offset**2)
        self.caps = self._caps()

    def _variance(self) -> Floats:
        """Return the variance of each sum, within polls and between them."""
        evidence = self.evidence
        each = evidence.count * self.within[evidence.slot] + self.squared * self.between[evidence.slot]
        return evidence.per_poll(each) + _TINY

    def _dominance(self, ratio: Floats) -> Floats:
        """Return how many times the variance within polls is the one between them, whose ratio to the spread is given.

        The mean over the sums, of many observations each.
        """
        if not ratio.any():
            return np.zeros(len(ratio))
        return ratio * self._mean(self._shared() / (self._sum(self.within) + _TINY))

    def _shared(self) -> Floats:
        """Return the variance of each sum, if all observations of a slot moved together by its spread."""
        return self.evidence.per_poll(self.squared * self.spread[self.evidence.slot])

    def _residual(self) -> Floats:
        """Return what means and drift leave of each sum."""
        left: Floats = self.excess - self.beta[self.evidence.source] * self.drift - self._sum(self.offset)
        return left

    def _variances(self) -> None:
        """Fit the variances within polls to the residuals; where these tell little, keep those of the shapes."""
        evidence, owner = self.evidence, self.evidence.owner
        variance, residual = self._variance(), self._residual()
        weights = evidence.per_slot(evidence.count / variance[evidence.poll])
        squares = evidence.per_slot(evidence.count * ((residual / variance) ** 2)[evidence.poll])
        freedom = np.maximum(0.0, 1.0 - self.fitted / self.many)
        share = self.within * weights
        tells = (freedom / self.many)[owner] * share * share
        if self.ratio.any():
            # The sums tell of the spread within a poll only as far as it explains them.
            explained = self._mean(self._sum(self.within) / variance)
            tells *= np.where(self.ratio > 0.0, explained**2, 1.0)[owner]
        if evidence.endless.any():
            self.spread = np.where(evidence.endless, (self.offset - self.low) ** 2, self.spread)
            self.target = np.where(evidence.endless, self.spread, self.target)
        likely = self.within * squares / (np.maximum(weights, _TINY) * np.maximum(0.5, freedom)[owner])
        distance = np.log((likely + _EQUAL * self.reach**2 + _TINY) / (self.target + _TINY))
        distance *= distance / (_NEAR * _NEAR + 1.0 / (tells + 1e-2))
        trust = _TRUST / (1.0 + distance * distance)
        fitted = np.minimum(self.caps, (trust * self.target + tells * likely) / (trust + tells)) + _TINY
        self.within = np.where(share > 0.0, fitted, self.within)

    def _caps(self) -> Floats:
        """Bound the variances by that of the density of largest entropy with the mean."""
        width = self.evidence.width
        place = np.where(width > 0.0, (self.offset - self.low) / np.maximum(width, _TINY), 0.5)
        caps = deviation_of(tilt_of(place)) ** 2
        first = np.maximum(caps, np.minimum(4.0 * place**2, 0.5 * place * (1.0 - place)))
        return np.where(self.evidence.first, first, caps) * width * width

    def _between(self) -> None:
        """Estimate how much of the variance is between polls, as a ratio to what the shapes suggest within.

        It is what neighbouring polls share, or what a spread within polls cannot explain, the larger of both; each has
        to be beyond chance.
        """
        evidence, many = self.evidence, self.many
        residual, shared = self._residual(), self._shared() + _TINY
        unit = residual / np.sqrt(shared)
        mean = self._mean(unit) ** 2
        beside = np.where(evidence.source[1:] == evidence.source[:-1], unit[1:] * unit[:-1], 0.0)
        neighbours = np.bincount(evidence.source[1:], beside, len(many)) / np.maximum(1.0, many - 1.0) - mean
        error = np.maximum(0.0, self._mean(unit * unit) - mean) / np.sqrt(many)
        widest = self._sum(np.maximum(self.caps, np.minimum(self.within, self.spread))) + _TINY
        leverage = shared / widest
        information = evidence.per_histogram(leverage * leverage) + _TINY
        unexplained = evidence.per_histogram((residual * residual / widest - 1.0) * leverage) / information
        found = np.maximum(_beyond_chance(neighbours, error), _beyond_chance(unexplained, np.sqrt(2.0 / information)))
        self.ratio = np.where(many >= _FEWEST, found, 0.0)
        self.between = self.ratio[evidence.owner] * self.spread
        # What drift explains of the spread is not within; but values of one moment are never all the same.
        self.target = self.spread * np.maximum(1.0 - self.ratio, _STILL)[evidence.owner]
        self.dominance = np.maximum(self.untold, self._dominance(self.ratio))
        if self.ratio.any():
            self._uncrossed(residual)

    @cached_property
    def closed(self) -> Flags:
        """Whether no value seems to cross the lower edge of each slot, and the upper one (2, d)."""
        return np.concatenate([_closed_edges(part) for part in self.parts], axis=1)

    def _uncrossed(self, residual: Floats) -> None:
        """Bound the spread within polls where polls come near an edge that no value crosses."""
        evidence, variance = self.evidence, self._variance()
        closed = self.closed
        believed = np.minimum(1.0, self.ratio / 0.1)[evidence.owner]
        for slot in np.flatnonzero(closed.any(0) & (believed > 0.0)):
            mine = evidence.slot == slot
            if not mine.any():
                continue
            poll, count = evidence.poll[mine], evidence.count[mine]
            common = np.minimum(1.0, self.between[slot] * count**2 / variance[poll])
            moved = self.offset[slot] + common * residual[poll] / count
            means = np.where(self.alone[poll], self.excess[poll] / count, moved)
            below, above = means - self.low[slot], self.high[slot] - means
            sides = np.minimum(below, above) if closed[:, slot].all() else below if closed[0, slot] else above
            nearest = np.sort(np.maximum(0.0, sides))[len(poll) // 10]
            bound = (nearest / _REACH) ** 2 + _SLACK * evidence.width[slot] ** 2
            self.target[slot] += believed[slot] * (min(self.target[slot], bound) - self.target[slot])


def _outermost(evidence: Single) -> Flags:
    """Return the slots that have one neighbour (d)."""
    last = len(evidence.bounds) - (0 if evidence.infinite else 1)
    return evidence.first | (np.array(evidence.buckets) >= last)


def _closed_edges(evidence: Single) -> Flags:
    """Return whether no value seems to cross the lower edge of each slot, and the upper one (2, d)."""
    counts = np.array(evidence.counts)
    buckets = np.array(evidence.buckets)
    inner = (buckets > 0) & (buckets < len(evidence.bounds))
    few = _CROSSED * counts[buckets]
    beside = np.stack([counts[buckets - 1], counts[np.minimum(buckets + 1, len(evidence.bounds))]])
    found: Flags = inner & (beside < few)
    return found


def _beyond_chance(value: Floats, error: Floats) -> Floats:
    """Return values that are believed as far as they are beyond chance."""
    return np.maximum(0.0, value) * np.maximum(0.0, np.minimum(1.0, value / (_CHANCE * error + _TINY) - 1.0))
