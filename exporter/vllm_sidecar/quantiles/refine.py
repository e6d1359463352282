"""Where the observations of every poll lie: what is usual in a bucket is learnt from the polls that tell it.

An observation that was alone in its poll is known exactly, and of two or three little is left open. What these have
found likely is usual, and with it the next reading finds more (expectation maximisation). Polls of many observations
tell mean and variance, which the moments have already; they are read at the end with what was learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vllm_sidecar.quantiles.groups import MOST
from vllm_sidecar.quantiles.reading import Bins, Law, Reader, Steps
from vllm_sidecar.quantiles.settle import settled, single
from vllm_sidecar.quantiles.shape import NODES, gaps

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Flags, Floats, Places
    from vllm_sidecar.quantiles.groups import Groups
    from vllm_sidecar.quantiles.moments import Moments
    from vllm_sidecar.quantiles.moving import Moving
    from vllm_sidecar.quantiles.settle import Observations

_TURNS = 3
_FEW = 12.0
"""Observations of a poll up to which it tells more of its bucket than mean and variance."""
_PRIOR = 16.0
"""Observations that what is usual counts for at first, beside those of the polls."""
_BLUR = 0.7
"""Deviation, in nodes, to which an observation stands for its neighbourhood."""
_TINY = 1e-30


def _kernel() -> Floats:
    """Return how an observation at a node spreads over its neighbours; at both ends it is reflected."""
    place = np.arange(NODES)
    found = np.zeros((NODES, NODES))
    for mirrored in (place, -1 - place, 2 * NODES - 1 - place):
        found += np.exp(-0.5 * ((place[:, None] - mirrored) / _BLUR) ** 2)
    found /= np.sum(found, axis=1, keepdims=True)
    return found


_KERNEL = _kernel()


def follow(evidence: Evidence, model: Moving) -> Observations:
    """Read all polls with what a model says of each."""
    mean = (model.weights * model.nodes).sum(1)
    variance = (model.weights * (model.nodes - mean[:, None]) ** 2).sum(1)
    bins = Bins(model.nodes.copy(), gaps(model.nodes))
    weights = model.weights.copy()
    several = np.flatnonzero(_several(evidence))
    weights[several] = Reader(evidence, bins, several).read(weights[several], Law(mean, variance))
    return settled(evidence, bins, weights)


def refine(evidence: Evidence, moments: Moments, usual: Groups) -> Observations:
    """Learn where values usually lie, and read all polls with it."""
    return _Learner(evidence, moments, usual).run()


def _several(evidence: Evidence) -> Flags:
    """Return the bins of polls that tell the sum of several observations (b)."""
    found: Flags = evidence.trusted[evidence.poll] & (evidence.size[evidence.poll] != 1.0)
    return found


class _Learner:
    """The state of one expectation maximisation."""

    def __init__(self, evidence: Evidence, moments: Moments, usual: Groups) -> None:
        self.evidence, self.usual = evidence, usual
        self.weights = usual.weights
        slot, still = evidence.slot, 1.0 - usual.slow
        # Slow requests among small values explain what looks like drift.
        moments = moments._replace(between=moments.between * still, shifts=moments.shifts * still[slot])
        self.middle = (usual.weights * usual.nodes).sum(1)
        values, apart = usual.nodes[slot], gaps(usual.nodes)[slot]
        self._move(moments)
        lower, factor = evidence.lower[slot][:, None], self.factor[:, None]
        values -= self.middle[slot][:, None]
        values *= factor
        values += self.start[:, None]
        np.minimum(lower + evidence.width[slot][:, None], values, out=values)
        np.maximum(lower, values, out=values)
        apart *= factor
        self.bins = Bins(values, apart)

    def _move(self, moments: Moments) -> None:
        """Set the mean of each bin, and by how much its values are drawn apart."""
        evidence = self.evidence
        poll, slot, count = evidence.poll, evidence.slot, evidence.count
        lower = evidence.lower[slot]
        means = np.maximum(lower, np.minimum(lower + evidence.width[slot], self.middle[slot] + moments.shifts))
        within, between = moments.within[slot], moments.between[slot]
        variance = evidence.per_poll(count * (within + between * count))[poll] + _TINY
        left = (evidence.total - evidence.per_poll(count * means))[poll]
        common = np.where(np.isnan(left), 0.0, between * count / variance)
        self.start = means + common * np.nan_to_num(left)
        unknown = np.maximum(0.0, between * (1.0 - common * count))
        self.factor = np.sqrt(1.0 + unknown / (within + _TINY))

    def run(self) -> Observations:
        """Learn, and read all polls."""
        evidence = self.evidence
        several, telling = _several(evidence), self._telling()
        few, many = (self._reader(some) for some in (several & telling, several & ~telling))
        pairs = _Pairs(self, few)
        self._learn(few, pairs)
        law = self._law(pairs)
        weights = self.weights[evidence.slot]
        weights[few.which] = few.read(weights[few.which], law)
        weights[many.which] = many.read(weights[many.which], law._replace(density=None))
        return settled(evidence, self.bins, weights, self.usual)

    def _reader(self, some: Flags) -> Reader:
        """Return a reader of some bins, by slot."""
        which = np.flatnonzero(some)
        return Reader(self.evidence, self.bins, which[np.argsort(self.evidence.slot[which], kind="stable")])

    def _telling(self) -> Flags:
        """Return the bins of polls that tell more of their bucket than mean and variance (b)."""
        split = (self.usual.split > 0.0)[self.evidence.slot]
        return (self.evidence.size[self.evidence.poll] <= _FEW) | (split & (self.evidence.count <= MOST))

    def _learn(self, reader: Reader, pairs: _Pairs) -> None:
        """Learn what is usual from single observations and from bins of few."""
        exactly, usual = self._exactly(), np.empty(reader.rest.shape)
        slots, starts = np.unique(reader.slot, return_index=True)
        for _ in range(_TURNS if len(slots) else 1):
            learnt = exactly.copy()
            if len(slots):
                np.take(self.weights, reader.slot, axis=0, out=usual)
                told = reader.read(usual, self._law(pairs))
                told *= reader.count[:, None]
                learnt[slots] += np.add.reduceat(told, starts)
            learnt = learnt @ _KERNEL + _PRIOR * self.usual.weights
            self.weights = learnt / learnt.sum(1, keepdims=True)

    def _exactly(self) -> Floats:
        """Return the single observations, at the nodes around them (d, NODES)."""
        evidence, alone = self.evidence, single(self.evidence)
        total, values = evidence.total[evidence.poll[alone]][:, None], self.bins.values[alone]
        low, share = _placed(values, total)
        found = np.zeros_like(self.weights)
        np.add.at(found, (evidence.slot[alone][:, None], low), 1.0 - share)
        np.add.at(found, (evidence.slot[alone][:, None], low + 1), share)
        return found

    def _law(self, pairs: _Pairs) -> Law:
        """Return what is usual now."""
        nodes, weights, slot = self.usual.nodes, self.weights, self.evidence.slot
        mean = np.einsum("ij,ij->i", weights, nodes)
        variance = np.einsum("ij,ij->i", weights, (nodes - mean[:, None]) ** 2)
        return Law(
            self.start + self.factor * (mean - self.middle)[slot],
            self.factor**2 * variance[slot],
            pairs.density(weights),
            self._steps() if self.usual.split.any() else None,
        )

    def _steps(self) -> Steps:
        """Return the groups as they are now; of slots that have none all is 0."""
        split = np.flatnonzero(self.usual.split)
        nodes, weights = self.usual.nodes[split], self.weights[split]
        high = weights * self.usual.upper[split]
        found = np.zeros((2, 3, len(self.weights)))
        for group, each in enumerate((weights - high, high)):
            share = each.sum(1) + _TINY
            mean = (each * nodes).sum(1) / share
            found[group][:, split] = share, mean, (each * (nodes - mean[:, None]) ** 2).sum(1) / share
        return Steps(self.usual.split, found[1, 0], found[:, 1], found[:, 2])


class _Pairs:
    """Where the rest of each pair lies among the nodes of the other observation."""

    def __init__(self, learner: _Learner, reader: Reader) -> None:
        partners, own = reader.partners, reader.which[reader.pairs]
        slot = learner.evidence.slot[partners]
        total = learner.evidence.total[learner.evidence.poll[own]][:, None]
        rest = total - _cells(learner.bins.values[own])
        rest = (rest - learner.start[partners][:, None]) / learner.factor[partners][:, None]
        rest += learner.middle[slot][:, None]
        cells = _cells(learner.usual.nodes)
        self._low, self._share = _found(learner.evidence, cells, slot, rest)
        self._low += slot[:, None] * (NODES + 1)
        width = learner.evidence.width[learner.evidence.slot[own]][:, None]
        self._gaps = np.maximum(learner.bins.gaps[own], 1e-3 * width) + _TINY
        self._below = np.zeros(cells.shape)

    def density(self, weights: Floats) -> Floats:
        """Return the density of the other observation at the rest of each place, for what is usual.

        It is the mean over the cell around the place: the other one may lie in a much smaller bucket.
        """
        np.cumsum(weights, axis=1, out=self._below[:, 1:])
        below = self._below.ravel()
        low = below[self._low]
        low += self._share * (below[self._low + 1] - low)
        found: Floats = (low[:, :-1] - low[:, 1:]) / self._gaps
        return np.maximum(found, 0.0)


def _cells(nodes: Floats) -> Floats:
    """Return the edges of the cells around nodes: half-way to the neighbours (d, NODES + 1)."""
    middles = 0.5 * (nodes[:, 1:] + nodes[:, :-1])
    first, last = 1.5 * nodes[:, :1] - 0.5 * nodes[:, 1:2], 1.5 * nodes[:, -1:] - 0.5 * nodes[:, -2:-1]
    return np.concatenate([first, middles, last], axis=1)


def _placed(nodes: Floats, places: Floats) -> tuple[Places, Floats]:
    """Return the node below each place and the share of the way to the next; outside, the end itself.

    There is one place (k, 1) for each row of ascending nodes (k, NODES).
    """
    low = np.minimum(nodes.shape[1] - 2, np.maximum(0, (nodes <= places).sum(1, keepdims=True) - 1))
    return low, _way(places, np.take_along_axis(nodes, low, 1), np.take_along_axis(nodes, low + 1, 1))


def _found(evidence: Evidence, cells: Floats, slot: Places, places: Floats) -> tuple[Places, Floats]:
    """Return the same for many places (k, any number) in the cells of a slot each; `cells` are those of all slots."""
    # In widths of their slots and one after the other, 4 apart, one line holds all cells.
    width = np.maximum(evidence.width, _TINY)[:, None]
    line = np.maximum(-1.0, np.minimum(2.0, (cells - evidence.lower[:, None]) / width))
    where = np.maximum(-1.0, np.minimum(2.0, (places - evidence.lower[slot][:, None]) / width[slot]))
    line += 4.0 * np.arange(len(cells))[:, None]
    first = cells.shape[1] * slot[:, None]
    low = np.searchsorted(line.ravel(), where + 4.0 * slot[:, None], side="right") - 1 - first
    low = np.minimum(cells.shape[1] - 2, np.maximum(0, low))
    edges = cells.ravel()
    return low, _way(places, edges[first + low], edges[first + low + 1])


def _way(places: Floats, start: Floats, end: Floats) -> Floats:
    """Return the share of the way from the start to the end at which places lie."""
    return np.maximum(0.0, np.minimum(1.0, (places - start) / np.maximum(end - start, _TINY)))
