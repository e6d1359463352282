"""Samples and the catalog -> readings under canonical names, for every vLLM version.

For each layout (the series of a body) `compiler.compile_mapping` computes once where each value belongs; a poll of a
known layout only copies values. Values that cannot be true are left out and counted:

- `not_finite`: NaN or infinity, which cannot be compared;
- `negative`: below zero, as no signal here can be; v0 exposes -1 as the hit rate of a disabled prefix cache;
- `impossible`: more than a server can have, or can have reached since the previous poll (see `plausible`, `growth`);
- `bad_histogram`: cumulative bucket counts that fall or are not whole numbers, a bucket bound that is missing or not a
  number, or a `_count` that contradicts its buckets, which are used then;
- `unattributed`: series of no engine, or of several: nothing names their model, or they lack the labels that
  distinguish the engines of the body;
- `too_many_engines`: series of engines beyond the limit;
- `sum_fell`: a sum that fell while its count did not, because of negative observations; windows then leave out its
  mean.
"""

from __future__ import annotations

from collections import Counter
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.readings import Group, Key, Reading, Readings
from vllm_sidecar.slices import at_once
from vllm_sidecar.vllm.compiler import compile_steps
from vllm_sidecar.vllm.engines import MAX_ENGINES, Engines
from vllm_sidecar.vllm.growth import Accepted, Growth
from vllm_sidecar.vllm.plausible import MOST, MOST_NOW, MOST_RATIO, is_time, most_of
from vllm_sidecar.vllm.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from vllm_sidecar.exposition.layout import Exposition, Layout
    from vllm_sidecar.vllm.mapping import BodyMapping, GroupMapping, HistogramMapping, ScalarMapping

MAPPINGS = 2
"""Layouts whose mappings are cached: the newest and the previous one, which may return."""


class _Known(NamedTuple):
    """A layout, its mapping (which also depends on the served model's name), and the histograms of its last poll."""

    layout: Layout
    served: str | None
    mapping: BodyMapping
    before: dict[tuple[Group, str], Histogram]


class Normalizer:
    """Turns the expositions of one target into readings; remembers the names of its engines."""

    def __init__(self, engines: int = MAX_ENGINES) -> None:
        """Read at most so many engines."""
        self._mappings: list[_Known] = []
        self._engines = Engines(engines)
        self._sums = Sums()
        self._growth = Growth()
        self._started: float | None = None
        self._groups: Mapping[Group, Reading] = {}

    def normalize(self, exposition: Exposition, served: str | None = None, at: float | None = None) -> Readings:
        """Read one exposition without a pause; see `steps`."""
        return at_once(self.steps(exposition, served, at))

    def steps(
        self, exposition: Exposition, served: str | None = None, at: float | None = None
    ) -> Generator[None, None, Readings]:
        """Read one exposition in steps; never raises, missing values are left out of the readings.

        Args:
            exposition: The body.
            served: The model's name for a body that does not contain it.
            at: Monotonic time of the poll in seconds; None for a body without a predecessor.
        """
        _, _, mapping, before = yield from self._mapping(exposition, served)
        anomalies: Counter[str] = Counter(mapping.anomalies)
        _check_counts(mapping, exposition.values, anomalies)
        started = _time(exposition.values, mapping.started, anomalies)
        if started is not None and started != self._started:
            self._started = started
            self._sums.forget()
            self._growth.forget()
            self._groups = {}
        accepted = Accepted(exposition.values)
        if at is not None:
            accepted = yield from self._growth.steps(exposition.layout, mapping.growing, exposition.values, at)
        values = accepted.values
        if accepted.doubted:
            anomalies["impossible"] += accepted.doubted
        groups: dict[Group, Reading] = {}
        for group in mapping.groups:
            groups[group.group] = self._read(group, values, before, anomalies)
            yield
        self._groups = groups
        return Readings(
            groups=groups,
            dialect=mapping.dialect,
            started=started,
            created=_created(mapping, exposition.values, anomalies),
            cache_config=mapping.cache_config,
            adapters=mapping.newest_adapters(values),
            sources=mapping.sources,
            missing=mapping.missing,
            unknown=mapping.unknown,
            anomalies=anomalies,
            engines=mapping.engines,
            unknown_labels=mapping.unknown_labels,
            unattributed=mapping.unattributed,
            not_an_engine=mapping.not_an_engine,
            unknown_count=mapping.unknown_count,
            limits={**exposition.limits, **mapping.limits},
            jumped=accepted.jumped,
        )

    def _mapping(self, exposition: Exposition, served: str | None) -> Generator[None, None, _Known]:
        layout = exposition.layout
        for known in self._mappings:
            if known.layout is layout and known.served == served:
                return known
        mapping = yield from compile_steps(layout, self._engines, served)
        new = _Known(layout, served, mapping, {})
        self._mappings = [new, *self._mappings][:MAPPINGS]
        return new

    def _read(
        self,
        group: GroupMapping,
        values: Sequence[float],
        before: dict[tuple[Group, str], Histogram],
        anomalies: Counter[str],
    ) -> Reading:
        counters = _scalars(group.counters, values, anomalies, MOST)
        self._add_up(group, values, counters)
        gauges = _scalars(group.gauges, values, anomalies, MOST_NOW)
        if group.waiting_sum and all(key in gauges for key in group.waiting_sum):
            gauges["requests_waiting"] = sum(gauges[key] for key in group.waiting_sum)
        histograms: dict[str, Histogram] = {}
        for mapping in group.histograms:
            key = (group.group, mapping.name)
            found = _histogram(mapping, values, before.get(key), anomalies, self._sums, group.group)
            if found is not None:
                histograms[mapping.name] = before[key] = found
        return Reading(counters, gauges, histograms)

    def _add_up(self, group: GroupMapping, values: Sequence[float], counters: dict[Key, float]) -> None:
        """Keep sums of counters monotone, while and after their members change."""
        for key, slots, _, factor, members in group.counters.merged:
            if members and key in counters:
                now = {
                    member: (max(values[slot] for slot in alike) * factor,)
                    for member, alike in zip(members, slots, strict=True)
                }
                last = self._groups.get(group.group)
                alone = last.counters.get(key) if last else None
                (counters[key],) = self._sums.follow(
                    (group.group, key), now, before=None if alone is None else (alone,)
                )  # fmt: skip
        if self._sums:
            summed = {merged.key for merged in group.counters.merged if merged.members}
            for key in counters.keys() - summed:
                if (group.group, key) in self._sums:
                    (counters[key],) = self._sums.follow((group.group, key), {(): (counters[key],)})


def _time(values: Sequence[float], slot: int | None, anomalies: Counter[str]) -> float | None:
    """Return the Unix time in a slot; None without one, or if it cannot be true."""
    if slot is None:
        return None
    if not is_time(values[slot]):
        anomalies[_anomaly(values[slot])] += 1
        return None
    return values[slot]


def _created(mapping: BodyMapping, values: Sequence[float], anomalies: Counter[str]) -> dict[Group, float]:
    """Return the creation times of the counters of each group, without those that cannot be true."""
    found = {group: _time(values, slot, anomalies) for group, slot in mapping.created}
    return {group: made for group, made in found.items() if made is not None}


def _check_counts(mapping: BodyMapping, values: Sequence[float], anomalies: Counter[str]) -> None:
    """Count each `_count` that is not the number in its +Inf bucket; the bucket is used."""
    counts, totals = mapping.counts(values), mapping.totals(values)
    if counts != totals:
        for count, total in zip(counts, totals, strict=True):
            if count != total and isfinite(total):
                anomalies[_anomaly(count) if not 0.0 <= count <= MOST else "bad_histogram"] += 1


def _anomaly(value: float) -> str:
    """Return the name for a value that no server can have."""
    return "not_finite" if not isfinite(value) else "negative" if value < 0.0 else "impossible"


def _scalars(mapping: ScalarMapping, values: Sequence[float], anomalies: Counter[str], most: float) -> dict[Key, float]:
    """Return counters or gauges without those that cannot be true; `most` is the lowest limit of any of them."""
    picked = mapping.pick(values)
    result = dict(zip(mapping.keys, picked, strict=True))
    for key, slots, merge, factor, _ in mapping.merged:
        result[key] = merge(max(values[slot] for slot in alike) for alike in slots) * factor
    # One sum in C finds NaN and too large values, one minimum finds negative ones; both are rare.
    if not sum(result.values()) <= most or min(result.values(), default=0.0) < 0.0:
        for key, value in list(result.items()):
            if not 0.0 <= value <= most_of(key):
                anomalies[_anomaly(value)] += 1
                del result[key]
    for key in mapping.ratios:
        if result.get(key, 0.0) > MOST_RATIO:
            anomalies["impossible"] += 1
            del result[key]
    return result


def _histogram(
    mapping: HistogramMapping,
    values: Sequence[float],
    before: Histogram | None,
    anomalies: Counter[str],
    sums: Sums,
    group: Group,
) -> Histogram | None:
    cumulative: tuple[float, ...] = mapping.pick(values)
    total = values[mapping.total] if mapping.total is not None else None
    parts = [(cumulative, total)]
    for pick, slot in mapping.others:
        parts.append((pick(values), values[slot] if slot is not None else None))
    if mapping.members and all(sum(buckets) <= MOST for buckets, _ in parts):
        cumulative, total = _added_up(mapping, parts, sums, group)
    elif mapping.others:
        cumulative = tuple(map(sum, zip(*(buckets for buckets, _ in parts), strict=True)))
        known = [part for _, part in parts if part is not None]
        total = sum(known) if len(known) == len(parts) else None
    if before is not None and before.cumulative == cumulative and before.total == total:
        return before  # the same object shows later stages that nothing changed
    if not sum(cumulative) <= MOST or not _are_counts(cumulative):
        anomalies["bad_histogram"] += 1
        return None
    if before is not None and _sum_alone_fell(before, cumulative, total):
        anomalies["sum_fell"] += 1
    if total is not None and not 0.0 <= total <= MOST:
        anomalies[_anomaly(total)] += 1
        total = None
    return Histogram(mapping.bounds, cumulative, total)


def _are_counts(cumulative: tuple[float, ...]) -> bool:
    """Return whether finite numbers can be counts of a histogram; OpenMetrics refuses a part of an observation."""
    return cumulative[0] >= 0.0 and list(cumulative) == sorted(cumulative) and all(map(float.is_integer, cumulative))


def _added_up(
    mapping: HistogramMapping, parts: Sequence[tuple[tuple[float, ...], float | None]], sums: Sums, group: Group
) -> tuple[tuple[float, ...], float | None]:
    """Add up copies whose number can change."""
    cumulative = sums.follow(
        (group, mapping.name, mapping.bounds), dict(zip(mapping.members, (p for p, _ in parts), strict=True))
    )
    totals = {m: (total,) for m, (_, total) in zip(mapping.members, parts, strict=True) if total is not None}
    if len(totals) < len(parts) or not all(abs(total) <= MOST for (total,) in totals.values()):
        return cumulative, None
    return cumulative, sums.follow((group, mapping.name), totals)[0]


def _sum_alone_fell(before: Histogram, cumulative: tuple[float, ...], total: float | None) -> bool:
    """Return whether a sum fell because of a negative observation; at a process restart the count falls too."""
    fell = before.total is not None and total is not None and total < before.total
    return fell and cumulative[-1] >= before.cumulative[-1]
