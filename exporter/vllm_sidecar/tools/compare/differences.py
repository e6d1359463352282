"""One side and each of the others -> their differences, with intervals that hold together.

With several others (siblings) a measure is different only if it differs from each of them in the same direction: a
server that is like one of its siblings is not the odd one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from math import exp, log, sqrt
from typing import TYPE_CHECKING

from vllm_sidecar.tools.compare.measures import (
    ADAPTER_POLLS,
    FINISHED,
    MEASURES,
    USUAL_END,
    Form,
    Measure,
    adapter_share,
    finish_share,
)
from vllm_sidecar.tools.compare.resampling import joined, student
from vllm_sidecar.tools.compare.sums import exposes, is_ratio, measured, tail_bound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.tools.compare.observation import Observation
    from vllm_sidecar.tools.compare.sums import Side

FAMILY_ERROR = 0.05
"""Chance that equal servers show any difference at all: it is shared out among the judged measures (Bonferroni)."""
POWER = 0.8
"""Chance with which the smallest visible difference would have shown."""
LEAST_OBSERVATIONS = 20.0
"""Fewest observations of each side for which a measure is judged."""

MOST_ADAPTERS = 10
"""Most LoRA adapters that are compared, those with requests at most polls; each makes the others harder to judge."""
DRIFT, DRIFT_SHARE = 2.0, 0.5
"""Smallest visible difference beyond which a measure drifts: as a share of A, and in shares."""
LARGEST = 20.0
"""Largest logarithm of a ratio that is shown: almost no data has no limit."""


@dataclass(frozen=True, slots=True)
class Change:
    """A measure of another side against A: the logarithm of their ratio, or the difference of shares.

    `margin` is half of the interval around `value` that holds together with those of all judged measures, and `visible`
    the smallest change that would have shown with `POWER`; both are None if the data cannot judge it.
    """

    value: float
    error: float = 0.0
    margin: float | None = None
    visible: float | None = None

    @property
    def is_certain(self) -> bool:
        """Whether the interval excludes equality."""
        return self.margin is not None and abs(self.value) > self.margin


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure on all sides; `changes` are None where a side has no value."""

    measure: Measure
    bound: float | None
    a: Side
    others: tuple[Side, ...]
    changes: tuple[Change | None, ...]

    @property
    def is_judged(self) -> bool:
        """Whether there is enough data, and whether a difference would be one of the servers."""
        return self.measure.judged and all(each is not None and each.margin is not None for each in self.changes)

    @property
    def is_different(self) -> bool:
        """Whether A differs from each of the others, in the same direction."""
        known = [each for each in self.changes if each is not None]
        return (
            self.is_judged and all(each.is_certain for each in known) and len({each.value > 0 for each in known}) == 1
        )

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the others against A: of ratios, or of differences of shares."""
        known = [(each.value, each.margin) for each in self.changes if each is not None and each.margin is not None]
        if not known:
            return None
        return (
            self._shown(min(value - margin for value, margin in known)),
            self._shown(max(value + margin for value, margin in known)),
        )

    @property
    def shown(self) -> tuple[float, float] | None:
        """The smallest and the largest of the others against A: ratios, or differences of shares."""
        known = [each.value for each in self.changes if each is not None]
        return (self._shown(min(known)), self._shown(max(known))) if known else None

    @property
    def smallest(self) -> float | None:
        """The smallest difference that would have shown: as a share of A, or in shares; None if not judged."""
        known = [each.visible for each in self.changes if each is not None and each.visible is not None]
        if not known or len(known) < len(self.changes):
            return None
        return self._shown(max(known)) - is_ratio(self.measure)

    @property
    def is_drifting(self) -> bool:
        """Whether a judged measure changes so much while it is observed that only a multiple would show."""
        smallest = self.smallest if self.is_judged else None
        return smallest is not None and smallest > (DRIFT if is_ratio(self.measure) else DRIFT_SHARE)

    def _shown(self, change: float) -> float:
        most = LARGEST if is_ratio(self.measure) else 1.0
        limited = max(-most, min(most, change))
        return exp(limited) if is_ratio(self.measure) else limited


def differences(a: Observation, others: Sequence[Observation]) -> list[Difference]:
    """Compare every measure that a source exposes and that has values."""
    sides = (a, *others)
    rows = []
    for measure, bound in _bounded(sides):
        first, *rest = (measured(side, measure, bound) for side in sides)
        if all(side.value is None for side in (first, *rest)):
            continue
        rows.append((measure, bound, first, rest, [_change(measure, first, other) for other in rest]))
    # Each comparison with another side has its own share of the error: A is different if all of them show it.
    judged = [sum(1 for row in rows if row[0].judged and row[4][index][1]) for index in range(len(others))]
    return [
        Difference(measure, bound, first, tuple(rest), tuple(map(_with_margin, changes, judged)))
        for measure, bound, first, rest, changes in rows
    ]


def _bounded(sides: Sequence[Observation]) -> Iterator[tuple[Measure, float | None]]:
    """Yield the measures that any side exposes, those of tails with their bucket bound."""
    for measure in _measures(sides):
        bound = tail_bound(sides, measure.of) if measure.form is Form.TAIL else None
        if measure.form is not Form.TAIL or bound is not None:
            yield measure, bound


def _measures(sides: Sequence[Observation]) -> list[Measure]:
    reasons = sorted(_labels(sides, FINISHED).keys() - {USUAL_END})
    adapters = [name for name, _ in _labels(sides, ADAPTER_POLLS).most_common(MOST_ADAPTERS)]
    found = [*MEASURES, *map(finish_share, reasons), *map(adapter_share, sorted(adapters))]
    shown = [each for each in found if any(exposes(side, each) for side in sides)]
    order = list(dict.fromkeys(each.part for each in MEASURES))
    return sorted(shown, key=lambda each: order.index(each.part))


def _labels(sides: Sequence[Observation], counter: str) -> Counter[str]:
    """Return how much all sides together counted, by the label of a counter."""
    counted: Counter[str] = Counter()
    for interval in chain.from_iterable(side.intervals for side in sides):
        counted.update({key[1]: n for key, n in interval.counters.items() if key[0] == counter and len(key) > 1 and n})
    return counted


Uncertain = tuple[Change | None, float | None]
"""A change without its margin, and the degrees of freedom of its error; None if it is not judged."""


def _change(measure: Measure, a: Side, b: Side) -> Uncertain:
    if a.value is None or b.value is None or (is_ratio(measure) and min(a.value, b.value) <= 0.0):
        return None, None
    value = log(b.value / a.value) if is_ratio(measure) else b.value - a.value
    if a.estimate is None or b.estimate is None or min(a.observations, b.observations) < LEAST_OBSERVATIONS:
        return Change(value), None
    error, freedom = joined(a.estimate.error, a.estimate.freedom, b.estimate.error, b.estimate.freedom)
    return Change(value, max(error, _least_error(measure, a, b))), freedom


def _least_error(measure: Measure, a: Side, b: Side) -> float:
    """Return the error of a difference of shares of independent observations: a side without a case is not certain."""
    if is_ratio(measure) or a.value is None or b.value is None:
        return 0.0
    share = (a.value * a.independent + b.value * b.independent) / (a.independent + b.independent)
    return sqrt(max(0.0, share * (1.0 - share)) * (1.0 / a.independent + 1.0 / b.independent))


def _with_margin(uncertain: Uncertain, judged: int) -> Change | None:
    change, freedom = uncertain
    if change is None or freedom is None:
        return change
    certain = student(1.0 - FAMILY_ERROR / max(1, judged) / 2.0, freedom)
    visible = certain + student(POWER, freedom)
    return Change(change.value, change.error, certain * change.error, visible * change.error)
