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
bucket do not hide how far apart they lie. Where both explain the same sums, what neighbouring polls share tells the
drift.

Where a lognormal that moves from poll to poll foretells the counts (see `moving`), m and z are its own, and so are the
variances: its deviation is read off the counts.
"""

from __future__ import annotations

from math import log, sqrt
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.distribution.curve import deviation_of, tilt_of
from vllm_sidecar.distribution.drift import drifts
from vllm_sidecar.distribution.shape import Shape, shapes
from vllm_sidecar.distribution.solve import solve

if TYPE_CHECKING:
    from vllm_sidecar.distribution.evidence import Evidence
    from vllm_sidecar.distribution.moving import Moving

ROUNDS = 3
"""Turns of means and variances; the suite gains nothing from more."""
TINY = 1e-30
"""Added where a variance could be 0."""
_FREE = 0.3
"""Deviation of the prior of a mean in the first round, in widths of the bucket: nearly none."""
_SURE = 0.05
"""The same from the second round on, where both neighbours shape a bucket; its tails are heavy, so it may be wrong."""
_UNSURE = 0.15
"""The same of the outermost buckets, which have one neighbour."""
_DEGREES = 3.0
"""Degrees of freedom of that prior (Student)."""
_TRUST = 20.0
"""Polls that the suggested variance counts for, as long as the likely one is near."""
_NEAR = 0.4
"""How near: the logarithm of their ratio, beside what chance explains."""
_DRIFT_PRIOR = 4.0
"""Precision of the prior of beta, which is 1."""
_STILL = 0.3
"""Least share of the suggested variance that is taken for spread within a poll."""
_SLACK = 1e-6
"""Share of a bucket's width that a poll leaves its mean at least, so that its weight is finite."""


class Moments(NamedTuple):
    """What was fitted, per slot."""

    shapes: list[Shape | None]
    expected: list[float]
    """Means that the shapes suggest."""
    spread: list[float]
    """Variances that the shapes suggest."""
    means: list[float]
    within: list[float]
    """Variances within a poll."""
    between: list[float]
    """Variances of what all observations of a poll share."""
    shifts: list[tuple[float, ...]]
    """Per row and bin: beta z."""
    moving: Moving | None
    """The model that the moments began with, where that is a lognormal that moves."""


class _Sum(NamedTuple):
    """One trusted sum."""

    bins: tuple[tuple[int, float], ...]
    pairs: list[tuple[int, float]]
    """Products of the counts of two bins with the place of that pair in the matrix."""
    excess: float
    """The sum less what the shapes suggest."""
    drift: float
    """What the counts around it suggest on top."""


def fit(evidence: Evidence, model: Moving | None = None) -> Moments:
    """Fit the model to the sums of the window; it begins with what the counts suggest, or with a lognormal that moves.

    Of the latter the sums were used already, so they tell its means and nothing more of its variances.
    """
    return (_Fit(evidence) if model is None else _Moved(evidence, model)).run()


class _Fit:
    """The state of one fit; d slots, the unknown beta is the last of d + 1."""

    moving: Moving | None = None
    free = _FREE
    """Deviation of the prior of a mean at first, in widths of the bucket."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.lower, self.width = evidence.lower, evidence.width
        self.infinite = evidence.buckets[-1] == len(evidence.bounds)
        self.shapes: list[Shape | None] = []
        self.expected: list[float] = []
        self.spread: list[float] = []
        self.shifts: list[tuple[float, ...]] = []
        start, reach = self._begin()
        self.offset = [a - b for a, b in zip(start, self.expected, strict=True)]
        self.beta = 0.0
        self.dominance = 0.0
        self.within = list(self.spread)
        self.target = list(self.spread)
        self.between = [0.0] * len(self.width)
        last = len(evidence.bounds) - 1
        sure = [
            (_UNSURE if bucket == 0 or bucket >= last else _SURE) * size
            for bucket, size in zip(evidence.buckets, reach, strict=True)
        ]
        self.prior = [a * a + TINY for a in sure]
        self.precision = [1.0 / (self.free * self.free * size * size + TINY) for size in reach]
        self.reach = reach
        self.sums = self._sums()
        self.fitted = float(min(len(self.width), len(self.sums)))
        """How many of the means are fitted to the sums, and not left to the prior."""

    def _begin(self) -> tuple[list[float], list[float]]:
        """Take what the counts suggest; return where the means begin, and how far each bucket's values reach."""
        evidence = self.evidence
        self.shapes = shapes(evidence.bounds, evidence.counts, evidence.buckets)
        self.expected, self.spread = self._prior()
        start, reach = self._start()
        self.shifts = drifts(evidence, reach)
        return start, reach

    def _prior(self) -> tuple[list[float], list[float]]:
        """Return mean and variance per slot as the shapes suggest them; that of +Inf is what the others leave."""
        means, variances = [], []
        for shape, lower, width in zip(self.shapes, self.lower, self.width, strict=True):
            means.append(lower + width * (shape.mean if shape else 0.3))
            variances.append(width * width * shape.variance if shape else 0.0)
        if self.infinite:
            left = seen = 0.0
            for row in self.evidence.rows:
                if row.total is not None and row.bins[-1][0] == len(means) - 1:
                    left += row.total - sum([count * means[slot] for slot, count in row.bins[:-1]])
                    seen += row.bins[-1][1]
            lower, width = self.lower[-1], self.width[-1]
            if seen:
                means[-1] = max(lower + 0.01 * width, min(lower + 0.99 * width, left / seen))
            variances[-1] = (means[-1] - lower) ** 2
        return means, variances

    def _start(self) -> tuple[list[float], list[float]]:
        """Return means that agree with every poll alone, and over how much of each bucket its values seem to spread.

        Polls that leave a bucket little choice count most. The first bucket has no natural scale below its bound (a
        queue time is some microseconds in one of 0.3 s), so its shape is drawn to the scale of that mean.
        """
        size = len(self.width)
        weighted, weights = [0.0] * size, [0.0] * size
        for row in self.evidence.rows:
            if row.total is None:
                continue
            for slot, count in row.bins:
                lower, width = self.lower[slot], self.width[slot]
                least = max(lower, (row.total - row.most) / count + lower + width)
                most = min(lower + width, (row.total - row.least) / count + lower)
                weight = count / (max(0.0, most - least) / (width + TINY) + _SLACK)
                weighted[slot] += weight * max(least, min(most, self.expected[slot]))
                weights[slot] += weight
        start = [a / w if w else b for a, w, b in zip(weighted, weights, self.expected, strict=True)]
        reach = list(self.width)
        below = self.expected[0] - self.lower[0]
        if self.evidence.buckets[0] == 0 and start[0] < self.expected[0] and below > 0.0:
            share = max(0.0, (start[0] - self.lower[0]) / below)
            reach[0] *= share
            self.expected[0] = start[0]
            self.spread[0] *= share * share
        return start, reach

    def _sums(self) -> list[_Sum]:
        size = len(self.width) + 1
        expected = self.expected
        found = []
        for row, shifts in zip(self.evidence.rows, self.shifts, strict=True):
            if row.total is not None:
                excess, drift = row.total, 0.0
                for (slot, count), shift in zip(row.bins, shifts, strict=True):
                    excess -= count * expected[slot]
                    drift += count * shift
                pairs = [(i * size + j, ki * kj) for i, ki in row.bins for j, kj in row.bins if j <= i]
                found.append(_Sum(row.bins, pairs, excess, drift))
        return found

    def run(self) -> Moments:
        """Fit, and return what was found."""
        self._fit()
        means = [a + b for a, b in zip(self.expected, self.offset, strict=True)]
        shifts = [tuple([self.beta * shift for shift in row]) for row in self.shifts]
        return Moments(self.shapes, self.expected, self.spread, means, self.within, self.between, shifts, self.moving)

    def _fit(self) -> None:
        """Fit means and variances in turns."""
        self._variances()
        for turn in range(1, ROUNDS + 1):
            self._means()
            self._variances()
            if turn < ROUNDS:
                self._between(last=turn >= 2)

    def _means(self) -> None:
        """Fit the means by weighted least squares with a prior of heavy tails (Student) at the shapes."""
        d = len(self.width)
        size = d + 1
        matrix, right = [0.0] * (size * size), [0.0] * size
        within, between = self.within, self.between
        # Drift confounds the sums with the counts: the more of their variance it is, the less they tell of means.
        doubt = 1.0 + self.dominance
        for bins, pairs, excess, drift in self.sums:
            variance = TINY
            for slot, count in bins:
                variance += count * (within[slot] + between[slot] * count)
            weight = 1.0 / (variance * doubt)
            for place, product in pairs:
                matrix[place] += product * weight
            residual, moved = excess * weight, drift * weight
            for slot, count in bins:
                right[slot] += count * residual
                matrix[d * size + slot] += count * moved
            right[d] += drift * residual
            matrix[d * size + d] += drift * moved
        for slot in range(d):
            matrix[slot * size + slot] += self.precision[slot]
        self.fitted = d - sum([self.precision[slot] / matrix[slot * size + slot] for slot in range(d)])
        matrix[-1] += _DRIFT_PRIOR
        right[d] += _DRIFT_PRIOR
        found = solve(matrix, right, size)
        self.beta = max(0.0, min(1.0, found[d]))
        if self.beta != found[d]:
            fixed = [right[i] - matrix[d * size + i] * self.beta for i in range(d)]
            found = solve([matrix[i * size + j] for i in range(d) for j in range(d)], fixed, d)
        for slot in range(d):
            low = self.lower[slot] - self.expected[slot]
            self.offset[slot] = max(low, min(low + self.width[slot], found[slot]))
        self.precision = [
            (_DEGREES + 1.0) / (_DEGREES * prior + offset * offset)
            for prior, offset in zip(self.prior, self.offset, strict=True)
        ]

    def _variances(self) -> None:
        """Fit the variances within polls to the residuals; where these tell little, keep those of the shapes."""
        d, within, between = len(self.width), self.within, self.between
        squares, weights = [0.0] * d, [0.0] * d
        for bins, _, excess, drift in self.sums:
            variance, residual = TINY, excess - self.beta * drift
            for slot, count in bins:
                variance += count * (within[slot] + between[slot] * count)
                residual -= count * self.offset[slot]
            weight = 1.0 / variance
            square = residual * residual * weight * weight
            for slot, count in bins:
                squares[slot] += count * square
                weights[slot] += count * weight
        polls = len(self.sums)
        freedom = max(0.0, polls - self.fitted) / max(polls, 1)
        self._caps()
        for slot in range(d):
            share = within[slot] * weights[slot]
            if share <= 0.0:
                continue
            likely = within[slot] * squares[slot] / (weights[slot] * max(0.5, freedom))
            tells = freedom * share * share / polls
            target = self.target[slot]
            distance = log((likely + 1e-14 * self.reach[slot] ** 2 + TINY) / (target + TINY))
            distance *= distance / (_NEAR * _NEAR + 1.0 / (tells + 1e-2))
            trust = _TRUST / (1.0 + distance * distance)
            within[slot] = min(self.caps[slot], (trust * target + tells * likely) / (trust + tells)) + TINY

    def _caps(self) -> None:
        """Bound the variances by that of the density of largest entropy with the mean."""
        self.caps = []
        for slot, (lower, width) in enumerate(zip(self.lower, self.width, strict=True)):
            inside = self.expected[slot] + self.offset[slot] - lower
            place = inside / width if width else 0.5
            cap = deviation_of(tilt_of(place)) ** 2
            if self.evidence.buckets[slot] == 0:
                cap = max(cap, min(4.0 * place * place, 0.5 * place * (1.0 - place)))
            self.caps.append(cap * width * width)
        if self.infinite:
            self.spread[-1] = self.target[-1] = (self.expected[-1] + self.offset[-1] - self.lower[-1]) ** 2

    def _between(self, *, last: bool) -> None:
        """Estimate how much of the variance is between polls: what neighbours share, or what nothing else explains.

        Both have to be beyond chance by three standard errors, and are the ratio of the variance between polls to the
        one that the shapes suggest within.
        """
        polls = len(self.sums)
        if polls < 3:
            return
        excess = noise = squares = steps = products = ratios = 0.0
        before: float | None = None
        for bins, _, over, drift in self.sums:
            residual, own, shared = over - self.beta * drift, TINY, TINY
            for slot, count in bins:
                own += count * self.within[slot]
                shared += count * count * self.spread[slot]
                residual -= count * self.offset[slot]
            unit = residual / sqrt(shared)
            part = own / shared
            excess += unit * unit - part
            noise += part * part
            ratios += 1.0 / part
            squares += unit * unit
            steps += unit
            if before is not None:
                products += unit * before
            before = unit
        mean = (steps / polls) ** 2
        shared_by_neighbours = products / (polls - 1) - mean - 3.0 * max(0.0, squares / polls - mean) / sqrt(polls)
        unexplained = (excess - 3.0 * sqrt(2.0 * noise)) / polls if last else 0.0
        ratio = max(0.0, shared_by_neighbours, unexplained)
        self.dominance = ratio * ratios / polls
        self.between = [ratio * variance for variance in self.spread]
        # What drift explains of the spread is not within; but values of one moment are never all the same.
        factor = max(1.0 - ratio, _STILL)
        self.target = [variance * factor for variance in self.spread]


class _Moved(_Fit):
    """The state of a fit that begins with a lognormal that moves."""

    free = _SURE

    def __init__(self, evidence: Evidence, model: Moving) -> None:
        self.moving: Moving = model
        super().__init__(evidence)

    def _begin(self) -> tuple[list[float], list[float]]:
        self.shapes = [None] * len(self.width)
        self.expected, self.spread, self.shifts = self.moving.means, self.moving.within, self.moving.shifts
        return list(self.expected), list(self.width)

    def _fit(self) -> None:
        self._means()
