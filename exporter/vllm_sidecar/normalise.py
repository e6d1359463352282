"""Stage 3: samples and the catalog -> readings under canonical names, whatever the vLLM version.

For each layout (which series a body holds) `plan.compile_plan` works out once which value goes where; a poll of a
known layout only picks values. What a server gives that cannot be true is left out and counted:

- `not_finite`: NaN or infinity; unknown is not a number to compare with;
- `negative`: v0 says -1 for a prefix-cache hit rate that is off; no signal here can be below zero;
- `impossible`: more than 64 bits can count;
- `bad_histogram`: bucket counts that fall, or an edge that is missing;
- `sum_fell`: a sum that fell while its count did not, by negative observations; the windows then leave its mean out.
"""

from __future__ import annotations

from collections import Counter
from itertools import starmap
from math import isfinite
from operator import add
from typing import TYPE_CHECKING

from vllm_sidecar.model import Group, Histogram, Key, Reading, Readings
from vllm_sidecar.plan import GroupPlan, HistogramPlan, Plan, ScalarPlan, compile_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.model import Exposition, Layout

MOST = 2.0**63
"""No server counts further, in whatever unit."""
PLANS = 4
"""Layouts whose plans are kept: the full and the filtered body, each with its predecessor."""


class Normaliser:
    """Turns the expositions of one target into readings."""

    def __init__(self) -> None:
        self._plans: list[tuple[Layout, Plan, dict[tuple[Group, str], Histogram]]] = []

    def normalise(self, exposition: Exposition) -> Readings:
        """Read one exposition; never raises, what is not there is not in the readings."""
        plan, before = self._plan(exposition)
        values = exposition.values
        anomalies: Counter[str] = Counter(plan.anomalies)
        groups = {group.group: self._read(group, values, before, anomalies) for group in plan.groups}
        return Readings(
            groups=groups,
            dialect=plan.dialect,
            started=_finite(values, plan.started),
            created={group: values[slot] for group, slot in plan.created if isfinite(values[slot])},
            cache_config=plan.cache_config,
            adapters=plan.newest_adapters(values),
            sources=plan.sources,
            missing=plan.missing,
            unknown=plan.unknown,
            anomalies=anomalies,
        )

    def _plan(self, exposition: Exposition) -> tuple[Plan, dict[tuple[Group, str], Histogram]]:
        layout = exposition.layout
        for known, plan, before in self._plans:
            if known is layout:
                return plan, before
        plan, before = compile_plan(layout), {}
        self._plans = [(layout, plan, before), *self._plans][:PLANS]
        return plan, before

    def _read(
        self,
        group: GroupPlan,
        values: Sequence[float],
        before: dict[tuple[Group, str], Histogram],
        anomalies: Counter[str],
    ) -> Reading:
        counters = _scalars(group.counters, values, anomalies)
        gauges = _scalars(group.gauges, values, anomalies)
        if group.waiting_sum and all(key in gauges for key in group.waiting_sum):
            gauges["requests_waiting"] = sum(gauges[key] for key in group.waiting_sum)
        histograms: dict[str, Histogram] = {}
        for plan in group.histograms:
            key = (group.group, plan.name)
            found = _histogram(plan, values, before.get(key), anomalies)
            if found is not None:
                histograms[plan.name] = before[key] = found
        return Reading(counters, gauges, histograms)


def _finite(values: Sequence[float], slot: int | None) -> float | None:
    return values[slot] if slot is not None and isfinite(values[slot]) else None


def _scalars(plan: ScalarPlan, values: Sequence[float], anomalies: Counter[str]) -> dict[Key, float]:
    picked = plan.pick(values)
    result = dict(zip(plan.keys, picked, strict=True))
    for key, slots, merge, factor in plan.merged:
        result[key] = merge(max(values[slot] for slot in alike) for alike in slots) * factor
    # One sum in C finds NaN and what is too large, one minimum finds what is negative; both are rare.
    if not sum(result.values()) <= MOST or min(result.values(), default=0.0) < 0.0:
        for key, value in list(result.items()):
            if not 0.0 <= value <= MOST:
                anomalies["not_finite" if not isfinite(value) else "negative" if value < 0.0 else "impossible"] += 1
                del result[key]
    return result


def _histogram(
    plan: HistogramPlan, values: Sequence[float], before: Histogram | None, anomalies: Counter[str]
) -> Histogram | None:
    cumulative: tuple[float, ...] = plan.pick(values)
    total = values[plan.total] if plan.total is not None else None
    for pick, slot in plan.others:
        cumulative = tuple(starmap(add, zip(cumulative, pick(values), strict=True)))
        total = total + values[slot] if total is not None and slot is not None else None
    if before is not None and before.cumulative == cumulative and before.total == total:
        return before  # the same object lets later stages see that nothing changed
    if not sum(cumulative) <= MOST or cumulative[0] < 0.0 or list(cumulative) != sorted(cumulative):
        anomalies["bad_histogram"] += 1
        return None
    if before is not None and _sum_alone_fell(before, cumulative, total):
        anomalies["sum_fell"] += 1
    if total is not None and not abs(total) <= MOST:
        anomalies["not_finite" if not isfinite(total) else "impossible"] += 1
        total = None
    return Histogram(plan.bounds, cumulative, total)


def _sum_alone_fell(before: Histogram, cumulative: tuple[float, ...], total: float | None) -> bool:
    """Tell a negative observation from a restart, at which the count falls too."""
    fell = before.total is not None and total is not None and total < before.total
    return fell and cumulative[-1] >= before.cumulative[-1]
