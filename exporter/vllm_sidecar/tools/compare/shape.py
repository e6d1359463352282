"""Whether another request shape or load alone explains a difference of latency.

Histograms of lengths and of latencies are marginal: no request is in both, so latencies cannot be compared among
requests of the same length. There is only a limit. A step of the engine costs at most in proportion to what is in it,
so while no request waits, latency grows at most as much as the largest of its inputs: tokens per request and tokens per
second. A difference beyond that limit has another cause. Waiting grows faster than load, so where requests wait and the
load differs, nothing can be concluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, sqrt
from typing import TYPE_CHECKING

from vllm_sidecar.tools.compare.measures import ADAPTER_POLLS, WAITING, Form, Part
from vllm_sidecar.tools.compare.sums import mean_gauge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vllm_sidecar.tools.compare.differences import Change, Difference
    from vllm_sidecar.tools.compare.observation import Observation

INPUTS = ("prompt_tokens", "computed", "output_tokens", "prompt_rate", "output_rate")
"""Measures of what a step of the engine has to do."""
WAITS = 0.5
"""Mean number of waiting requests from which a side has a queue."""
SAME_LOAD = 0.05
"""Logarithm of the ratio up to which two loads are the same for a queue."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether shape or load explains one difference: `no`, `may be` or `unknown`, and why."""

    measure: str
    title: str
    answer: str
    why: str


def explanations(rows: Sequence[Difference], sides: Sequence[Observation]) -> list[Explanation]:
    """Explain each mean latency that is different, against the first of the other sides that shape explains best."""
    known = {row.measure.name: row for row in rows}
    found = []
    for row in rows:
        if row.is_different and row.measure.part is Part.LATENCY and row.measure.form is Form.MEAN:
            answers = [_explained(row, known, sides, index) for index in range(len(row.changes))]
            answer, why = min(answers, key=lambda each: ("may be", "unknown", "no").index(each[0]))
            parts = _parts(row, known) if row.measure.name == "ttft" else ""
            found.append(Explanation(row.measure.name, row.measure.title, answer, why + parts))
    return found


def _explained(
    row: Difference, known: Mapping[str, Difference], sides: Sequence[Observation], index: int
) -> tuple[str, str]:
    change = row.changes[index]
    if change is None or change.margin is None or not change.error:
        return "unknown", "too little data"
    others = [each.measure.label for each in known.values() if _is_another_adapter(each, index)]
    if others:
        return "unknown", f"other LoRA adapters have requests ({', '.join(others)}), and what one costs is not measured"
    sign = 1.0 if change.value > 0.0 else -1.0
    name, most, error = max(
        ((name, sign * each.value, each.error) for name, each in _inputs(known, index)),
        key=lambda each: each[1],
        default=("", 0.0, 0.0),
    )
    title = known[name].measure.title if name else ""
    slower = sides[index + 1] if sign > 0.0 else sides[0]
    waiting = mean_gauge(slower, WAITING) or 0.0
    times = f"x{exp(abs(change.value)):.2f}"
    if waiting > WAITS and most > SAME_LOAD:
        return "unknown", (
            f"{waiting:.1f} requests wait on {slower.name}, which has x{exp(most):.2f} of the other's {title}, "
            "and waiting grows faster than load"
        )
    if most <= 0.0:
        return "no", f"it differs by {times}, and the slower side has neither longer requests nor more load"
    certain = change.margin / change.error
    limit = f"of what a step has to do, {title} differ most, by x{exp(most):.2f}, and explain at most as much"
    beyond = abs(change.value) - most > certain * sqrt(change.error**2 + error**2)
    return "no" if beyond else "may be", f"it differs by {times}; {limit}"


def _is_another_adapter(row: Difference, index: int) -> bool:
    """Return whether an adapter may have more requests on one side: two standard errors are enough."""
    change = row.changes[index]
    return row.measure.of == ADAPTER_POLLS and change is not None and abs(change.value) > 2.0 * change.error


def _inputs(known: Mapping[str, Difference], index: int) -> Iterator[tuple[str, Change]]:
    for name in INPUTS:
        change = known[name].changes[index] if name in known else None
        if change is not None:
            yield name, change


def _parts(row: Difference, known: Mapping[str, Difference]) -> str:
    """Split the difference of the mean time to the first token, against a single other side."""
    if len(row.others) != 1:
        return ""
    found = [f"{name} {_milliseconds(known[name])}" for name in ("queue", "prefill") if name in known]
    return f"; of {_milliseconds(row)}: {', '.join(found)}" if found else ""


def _milliseconds(row: Difference) -> str:
    return f"{((row.others[0].value or 0.0) - (row.a.value or 0.0)) * 1000:+.0f} ms"
