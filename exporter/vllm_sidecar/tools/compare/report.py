"""Observations -> the result of a comparison as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Any

from vllm_sidecar.tools.compare.differences import FAMILY_ERROR, POWER, differences
from vllm_sidecar.tools.compare.facts import compare_facts
from vllm_sidecar.tools.compare.measures import OUTPUT, PROMPT, TTFT
from vllm_sidecar.tools.compare.resampling import LEAST_POLLS
from vllm_sidecar.tools.compare.shape import explanations
from vllm_sidecar.tools.compare.sums import bucket_counts, is_ratio, shared_bounds, shares_by_bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.tools.compare.differences import Difference
    from vllm_sidecar.tools.compare.facts import FactDifference
    from vllm_sidecar.tools.compare.observation import Observation
    from vllm_sidecar.tools.compare.shape import Explanation

SHOWN_HISTOGRAMS = (PROMPT, OUTPUT, TTFT)
MOST_BUCKETS = 8


class Result(StrEnum):
    """The result of a comparison."""

    SAME = "no difference"
    FACTS = "facts differ"
    DIFFERENT = "different"
    UNKNOWN = "too little data"


CODES = {Result.SAME: 0, Result.FACTS: 3, Result.DIFFERENT: 4, Result.UNKNOWN: 5}
"""Exit codes."""


@dataclass
class Histogram:
    """Shares of the observations by bucket: for each upper bound those of all sides, A first."""

    name: str
    rows: list[tuple[float, tuple[float, ...]]]


@dataclass
class Report:
    """One comparison of A with the other sides."""

    sides: Sequence[Observation]
    facts: list[FactDifference]
    partly_known: list[FactDifference]
    """Facts that only some sides expose."""
    measures: list[Difference]
    explanations: list[Explanation]
    histograms: list[Histogram]
    notes: list[str] = field(default_factory=list)
    """Limits of the comparison."""

    @property
    def result(self) -> Result:
        """The most important result: a measured difference, too little data, or facts that differ."""
        if self.different:
            return Result.DIFFERENT
        if not any(row.is_judged for row in self.measures):
            return Result.UNKNOWN
        return Result.FACTS if self.facts else Result.SAME

    @property
    def different(self) -> list[Difference]:
        """The measures that differ."""
        return [row for row in self.measures if row.is_different]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "result": str(self.result),
            "error_ratio": FAMILY_ERROR,
            "power_ratio": POWER,
            "sides": [
                {
                    "name": side.name,
                    "source": side.source,
                    "servers": side.servers,
                    "observed_seconds": side.seconds,
                    "polls": len(side.intervals),
                    "restarts": side.restarts,
                    "facts": side.facts,
                }
                for side in self.sides
            ],
            "facts": [{"fact": each.name, "values": list(each.values)} for each in self.facts],
            "facts_of_some_sides": [{"fact": each.name, "values": list(each.values)} for each in self.partly_known],
            "measures": list(map(_measure, self.measures)),
            "explained_by_shape_or_load": [
                {"measure": each.measure, "answer": each.answer, "why": each.why} for each in self.explanations
            ],
            "histograms": [
                {
                    "histogram": each.name,
                    "upper_bounds": [bound if bound < inf else None for bound, _ in each.rows],
                    "shares": [list(shares) for shares in zip(*(shares for _, shares in each.rows), strict=True)],
                }
                for each in self.histograms
            ],
            "notes": self.notes,
        }


def _measure(row: Difference) -> dict[str, Any]:
    against = "ratio" if is_ratio(row.measure) else "difference"
    return {
        "measure": row.measure.name,
        "part": str(row.measure.part),
        "unit": row.measure.unit or None,
        "bound": row.bound,
        "values": [side.value for side in (row.a, *row.others)],
        "observations": [side.observations for side in (row.a, *row.others)],
        "against_a": against,
        "change": list(row.shown) if row.shown else None,
        "interval": list(row.interval) if row.interval else None,
        "smallest_visible": row.smallest,
        "judged": row.is_judged,
        "different": row.is_different,
    }


def compare(sides: Sequence[Observation], *, interrupted: bool = False) -> Report:
    """Compare the first side with the others."""
    facts, partly = compare_facts(sides)
    rows = differences(sides[0], sides[1:])
    histograms = [found for name in SHOWN_HISTOGRAMS if (found := _histogram(sides, name)) is not None]
    notes = [note for side in sides for note in side.notes]
    if interrupted:
        notes.append("it was interrupted: this is what was known then")
    notes += _limits(sides, rows)
    return Report(sides, facts, partly, rows, explanations(rows, sides), histograms, notes)


def _limits(sides: Sequence[Observation], rows: Sequence[Difference]) -> list[str]:
    found = []
    models = {side.facts["models"] for side in sides if "models" in side.facts}
    if len(models) > 1:
        found.append(
            "the models differ: their tokenizers may count the same text differently, so lengths in tokens and times "
            "per token are not those of the same requests"
        )
    for side in sides:
        if side.restarts:
            found.append(f"{side.name}: its server restarted {side.restarts} times, and a start is slower")
        if not side.intervals:
            found.append(f"{side.name}: nothing was observed twice, so nothing was measured")
        elif len(side.intervals) < LEAST_POLLS and not side.notes:
            found.append(f"{side.name}: {len(side.intervals)} polls; {LEAST_POLLS} are needed to judge a difference")
    drifting = [row.measure.title.format(bound="a bound") for row in rows if row.is_drifting and not row.is_different]
    if drifting:
        found.append(f"observe for longer: {'; '.join(drifting)} drift: one long queue looks like a slower server")
    few = [row.measure.title.format(bound="a bound") for row in rows if row.measure.judged and not row.is_judged]
    if few and any(row.is_judged for row in rows):
        found.append(f"too little data to judge: {'; '.join(few)}")
    for name in SHOWN_HISTOGRAMS:
        bounds = {side.bounds[name] for side in sides if name in side.bounds}
        if len(bounds) > 1:
            found.append(f"bucket bounds of {name} differ: only the common ones are compared")
    return found


def _histogram(sides: Sequence[Observation], name: str) -> Histogram | None:
    bounds = shared_bounds(sides, name)
    if not bounds or not all(bucket_counts([side], name) for side in sides):
        return None
    columns = [shares_by_bucket(side, name, bounds) for side in sides]
    rows = [(row[0][0], tuple(share for _, share in row)) for row in zip(*columns, strict=True)]
    used = [index for index, (_, shares) in enumerate(rows) if any(share >= 0.001 for share in shares)]
    return Histogram(name, _merged(rows[used[0] : used[-1] + 1])) if used else None


def _merged(rows: list[tuple[float, tuple[float, ...]]]) -> list[tuple[float, tuple[float, ...]]]:
    """Merge the smallest neighbors until there are few enough to read."""
    while len(rows) > MOST_BUCKETS:
        at = min(range(len(rows) - 1), key=lambda index: sum(rows[index][1]) + sum(rows[index + 1][1]))
        both = tuple(map(sum, zip(rows[at][1], rows[at + 1][1], strict=True)))
        rows = [*rows[:at], (rows[at + 1][0], both), *rows[at + 2 :]]
    return rows
