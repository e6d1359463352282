"""Stage 3, once per layout: which slot of a body becomes which canonical value.

Everything is decided by what is present, never by a version number. The traps are named where they are handled;
their sources are vLLM's release history as the comments of `catalog.upstream` say.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain
from math import inf, isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog import upstream
from vllm_sidecar.catalog.types import Kind, Merge, Upstream
from vllm_sidecar.model import Adapters, Dialect, Group, Key, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vllm_sidecar.model import Labels, Layout

    Pick = Callable[[Sequence[float]], tuple[float, ...]]

_MERGE: dict[Merge, Callable[[Iterable[float]], float]] = {Merge.SUM: sum, Merge.MAX: max}
_KNOWN = re.compile("|".join(f"(?:{pattern})" for pattern in upstream.KNOWN_PATTERNS))
_SUFFIXES = ("_bucket", "_sum", "_count", "_created", "_total")


class Merged(NamedTuple):
    """A value made of several series: the greatest of each inner list, then `merge` over the outer, times `factor`.

    The inner lists hold series that differ in `pid` only: in prometheus_client's multiprocess mode every API server
    writes its own copy of one engine's gauge.
    """

    key: Key
    slots: list[list[int]]
    merge: Callable[[Iterable[float]], float]
    factor: float


@dataclass(slots=True)
class ScalarPlan:
    """Where the counters or gauges of one group stand."""

    keys: tuple[Key, ...] = ()
    pick: Pick = field(default=lambda _: ())
    merged: list[Merged] = field(default_factory=list)


class HistogramPlan(NamedTuple):
    """Where one histogram of one group stands; `others` are further series to add up (Ray's workers)."""

    name: str
    bounds: tuple[float, ...]
    pick: Pick
    total: int | None
    others: list[tuple[Pick, int | None]]


@dataclass(slots=True)
class GroupPlan:
    """All that one group gives."""

    group: Group
    counters: ScalarPlan
    gauges: ScalarPlan
    histograms: list[HistogramPlan]
    waiting_sum: tuple[Key, ...]
    """The parts that add up to all waiting requests."""


@dataclass(slots=True)
class Plan:
    """What `normalise` needs to know of one layout."""

    groups: list[GroupPlan]
    dialect: Dialect
    started: int | None
    created: list[tuple[Group, int]]
    cache_config: dict[str, dict[str, str]]
    adapters: list[tuple[int, Adapters]]
    sources: dict[str, str]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    anomalies: dict[str, int]

    def newest_adapters(self, values: Sequence[float]) -> Adapters | None:
        """Return the newest LoRA info: its value is the time it was written, and older ones stay for ever."""
        alive = [(values[slot], adapters) for slot, adapters in self.adapters if isfinite(values[slot])]
        return max(alive, key=itemgetter(0))[1] if alive else None


class Found(NamedTuple):
    """One series under vLLM's own name without its prefix."""

    slot: int
    labels: dict[str, str]
    name: str
    """The name as the server wrote it."""


def _pick(slots: Sequence[int]) -> Pick:
    if len(slots) == 1:
        only = slots[0]
        return lambda values: (values[only],)
    return itemgetter(*slots) if slots else lambda _: ()


def compile_plan(layout: Layout) -> Plan:
    """Work out what each series of a layout means."""
    return _Compiler(layout).compile()


def strip_prefix(name: str) -> tuple[str, str] | None:
    """Split a vLLM name into prefix and the rest; None for anything else."""
    if name.startswith(upstream.NOT_VLLM):
        return None
    for prefix in upstream.PREFIXES:
        if name.startswith(prefix):
            return prefix, name[len(prefix) :]
    return None


def wanted_names(layout: Layout) -> frozenset[str]:
    """Return the sample names of a layout that a plan reads: what filtered polling asks for.

    Empty where filtered polling would not do: in multiprocess mode the filtering handler repeats series, and a
    server that does not give its whole checklist yet may come up with the rest at any time.
    """
    plan = compile_plan(layout)
    if plan.missing or plan.dialect.multiprocess:
        return frozenset()
    read = {upstream.PYTHON_INFO, upstream.PROCESS_START, *plan.sources.values()}
    own = {plan.dialect.prefix + name for name in (*upstream.CREATED, *upstream.READ_BESIDE)}
    histogram = tuple(name + "_" for name in plan.sources.values())
    return frozenset(
        series.name
        for series in layout.series
        if series.name in read | own
        or (series.name.startswith(histogram) and series.name.endswith(("_bucket", "_sum", "_count")))
    )


class _Compiler:
    """Reads one layout; the tables it fills become the plan."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.series: dict[str, list[Found]] = defaultdict(list)
        self.plain: dict[str, list[Found]] = defaultdict(list)
        self.prefix = ""
        self.anomalies: dict[str, int] = {}
        self.sources: dict[str, str] = {}
        self.scalars: dict[Group, dict[Kind, dict[Key, Merged]]] = defaultdict(lambda: defaultdict(dict))
        self.histograms: dict[Group, list[HistogramPlan]] = defaultdict(list)

    def compile(self) -> Plan:
        self._sort()
        self.cache_config = {
            found.labels.get("engine", "0"): {
                key: found.labels[key] for key in upstream.CACHE_CONFIG_KEYS if key in found.labels
            }
            for found in self.series[upstream.CACHE_CONFIG]
        }
        for entry in upstream.UPSTREAM:
            self._entry(entry)
        for entry in (upstream.HTTP_REQUESTS, upstream.OPEN_FDS):
            self._scalar(entry, self.plain[entry.aliases[0]], 1.0)
        self._waiting()
        self._unswap()
        groups = sorted(set(self.scalars) | set(self.histograms))
        return Plan(
            groups=[self._group(group) for group in groups],
            dialect=self._dialect(),
            started=next((found.slot for found in self.plain[upstream.PROCESS_START]), None),
            created=[
                (self._group_of(Scope.ENGINE, found.labels), found.slot)
                for name in upstream.CREATED
                for found in self.series[name]
            ],
            cache_config=self.cache_config,
            adapters=[(found.slot, _adapters(found.labels)) for found in self.series[upstream.LORA_INFO]],
            sources=self.sources,
            missing=tuple(
                entry.signal.name
                for entry in upstream.UPSTREAM
                if entry.checklist and entry.signal.name not in self.sources
            ),
            unknown=self._unknown(),
            anomalies=self.anomalies,
        )

    def _sort(self) -> None:
        for slot, series in enumerate(self.layout.series):
            split = strip_prefix(series.name)
            if split:
                self.prefix = self.prefix or split[0]
                self.series[split[1]].append(Found(slot, dict(series.labels), series.name))
            else:
                self.plain[series.name].append(Found(slot, dict(series.labels), series.name))
        for name, (older, kind) in upstream.BY_TRANSFER_TYPE.items():
            found = [one for one in self.series.get(older, ()) if one.labels.get("transfer_type") == kind]
            if found:
                self.series.setdefault(name, found)
        if not self.prefix:
            names = (strip_prefix(name) for name in self.layout.families)
            self.prefix = next((split[0] for split in names if split), "")

    def _dialect(self) -> Dialect:
        names = chain.from_iterable(self.series.values())
        engine = "v1" if any("engine" in found.labels for found in names) else "v0"
        python = upstream.PYTHON_INFO in self.plain
        rust = self.layout.openmetrics and not python and not self.cache_config
        return Dialect(self.prefix, engine, "rust" if rust else "python", not python and not rust)

    def _unknown(self) -> tuple[str, ...]:
        known = set(chain.from_iterable(entry.aliases for entry in upstream.UPSTREAM))
        names = {split[1] for name in self.layout.families if (split := strip_prefix(name))} | set(self.series)
        bases = {_base(name, names) for name in names}
        unknown = (
            name for name in bases if not ({name, name + "_total"} & known or _KNOWN.fullmatch(name))
            and not _KNOWN.fullmatch(name + "_total")
        )  # fmt: skip
        return tuple(sorted(self.prefix + name for name in unknown))

    def _entry(self, entry: Upstream) -> None:
        candidates = list(chain.from_iterable(map(self._candidates, entry.aliases)))
        if entry.signal.kind is Kind.HISTOGRAM:
            chosen = next((name for name, _ in candidates if self.series.get(name + "_bucket")), None)
            if chosen:
                self._histogram(entry, chosen)
            return
        # Copies per API server (label pid) may be stale, and the greatest of them too; an older name without copies is
        # better (vLLM 0.9.2 with several API servers has both).
        present = [(name, found) for name, found in candidates if found]
        whole = (found for _, found in present if not any("pid" in series.labels for series in found))
        found = next(whole, present[0][1] if present else [])
        factor = self._factor(entry, found)
        if found and factor is not None:
            self._scalar(entry, found, factor)

    def _candidates(self, alias: str) -> list[tuple[str, list[Found]]]:
        """An alias as it stands, then as Ray writes it, without `_total`."""
        names = [alias, alias.removesuffix("_total")] if alias.endswith("_total") else [alias]
        if self.prefix.startswith("ray_") or alias == names[-1]:
            return [(name, self.series.get(name, [])) for name in names]
        return [(alias, self.series.get(alias, []))]

    def _factor(self, entry: Upstream, found: list[Found]) -> float | None:
        """What to multiply with to get the signal's unit; None where the values cannot be used."""
        if not found:
            return None
        name = found[0].name.removeprefix(self.prefix)
        if name.startswith("spec_decode_num") and upstream.SPEC_V0_MARK in self._names():
            return None
        if not name.startswith("gpu_prefix_cache_") or not entry.signal.name.endswith("_total"):
            return 1.0
        # Before 0.9.0 these count blocks, and only from 0.9.0 cache_config_info has an engine label.
        if any("engine" in info.labels for info in self.series[upstream.CACHE_CONFIG]):
            return 1.0
        sizes = {config.get("block_size", "") for config in self.cache_config.values()}
        only = sizes.pop() if len(sizes) == 1 else ""
        return float(only) if only.isdecimal() else None

    def _names(self) -> set[str]:
        families = (split[1] for name in self.layout.families if (split := strip_prefix(name)))
        return set(families) | set(self.series)

    def _group_of(self, scope: Scope, labels: Mapping[str, str]) -> Group:
        defaults = {"model_name": "", "engine": "0"}  # v0 and the first v1 have one engine and no label for it
        return Group(scope, tuple(labels.get(name) or defaults[name] for name in scope.labels))

    def _scalar(self, entry: Upstream, found: list[Found], factor: float) -> None:
        signal = entry.signal
        alike: dict[tuple[Group, Key], dict[Labels, list[int]]] = defaultdict(lambda: defaultdict(list))
        for series in found:
            # The sum over reasons stands in a name of its own; `requests_waiting` is that sum.
            plain = not signal.labels or signal is upstream.REQUESTS_WAITING.signal
            key: Key = signal.name if plain else (signal.name, *(series.labels.get(x, "") for x in signal.labels))
            group = self._group_of(signal.scope, series.labels)
            alike[group, key][_apart_from_pid(series.labels)].append(series.slot)
        for (group, key), copies in alike.items():
            merged = Merged(key, list(copies.values()), _MERGE[entry.merge], factor)
            self.scalars[group][signal.kind][key] = merged
            self.sources[signal.name] = found[0].name

    def _waiting(self) -> None:
        """Split the waiting requests by reason where vLLM does (0.20.0 on); add the swapped ones of v0."""
        name = upstream.REQUESTS_WAITING.signal.name
        for reason, source in ((None, upstream.WAITING_BY_REASON), ("swapped", upstream.SWAPPED)):
            alike: dict[tuple[Group, Key], dict[Labels, list[int]]] = defaultdict(lambda: defaultdict(list))
            for found in self.series[source]:
                key: Key = (name, reason or found.labels.get("reason", ""))
                alike[self._group_of(Scope.ENGINE, found.labels), key][_apart_from_pid(found.labels)].append(found.slot)
            for (group, key), copies in alike.items():
                self.scalars[group][Kind.GAUGE][key] = Merged(key, list(copies.values()), sum, 1.0)
        for kinds in self.scalars.values():
            gauges = kinds[Kind.GAUGE]
            total = gauges.get(name)
            split = [key for key in gauges if isinstance(key, tuple) and key[0] == name and key[1] != "swapped"]
            if total and not split:
                gauges[name, "unspecified"] = total._replace(key=(name, "unspecified"))
            gauges.pop(name, None)

    def _histogram(self, entry: Upstream, source: str) -> None:
        found: dict[Group, dict[Labels, dict[float, int]]] = defaultdict(lambda: defaultdict(dict))
        for series in self.series[source + "_bucket"]:
            edge = _edge(series.labels.get("le", ""))
            rest = tuple(sorted((k, v) for k, v in series.labels.items() if k != "le"))
            if edge is not None:
                found[self._group_of(entry.signal.scope, series.labels)][rest][edge] = series.slot
        totals = {tuple(sorted(x.labels.items())): x.slot for x in self.series.get(source + "_sum", ())}
        for group, parts in found.items():
            plans = [_histogram_plan(entry.signal.name, slots, totals.get(rest)) for rest, slots in parts.items()]
            usable = [plan for plan in plans if plan and plan.bounds == plans[0].bounds] if plans[0] else []
            if len(usable) < len(plans):
                self.anomalies["bad_histogram"] = self.anomalies.get("bad_histogram", 0) + len(plans) - len(usable)
            if usable:
                others = [(plan.pick, plan.total) for plan in usable[1:]]
                self.histograms[group].append(usable[0]._replace(others=others))
                self.sources[entry.signal.name] = self.prefix + source

    def _group(self, group: Group) -> GroupPlan:
        kinds = self.scalars[group]
        waiting = upstream.REQUESTS_WAITING.signal.name
        return GroupPlan(
            group,
            _scalar_plan(kinds[Kind.COUNTER].values()),
            _scalar_plan(kinds[Kind.GAUGE].values()),
            self.histograms[group],
            tuple(key for key in kinds[Kind.GAUGE] if isinstance(key, tuple) and key[0] == waiting),
        )

    def _unswap(self) -> None:
        """Give the prefill and decode times of 0.6.4 (v0, so without engine label) back their own names."""
        name, edge = upstream.SWAPPED_TIMES_MARK
        marks = (found.labels for found in self.series[name] if "engine" not in found.labels)
        if not any(_edge(labels.get("le", "")) == edge for labels in marks):
            return
        prefill, decode = "request_prefill_seconds", "request_decode_seconds"
        other = {prefill: decode, decode: prefill}
        for group, plans in self.histograms.items():
            self.histograms[group] = [plan._replace(name=other.get(plan.name, plan.name)) for plan in plans]
        self.sources = {other.get(signal, signal): source for signal, source in self.sources.items()}


def _base(name: str, names: set[str]) -> str:
    """The family of a sample name: without its suffix, where the rest is a family or the suffix can be nothing else."""
    for suffix in _SUFFIXES:
        stem = name.removesuffix(suffix)
        if stem != name and (stem in names or suffix in ("_bucket", "_created") or stem + "_bucket" in names):
            return _base(stem, names)
    return name


def _apart_from_pid(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted((name, value) for name, value in labels.items() if name != "pid"))


def _edge(text: str) -> float | None:
    try:
        edge = float(text)
    except ValueError:
        return None
    return None if edge != edge else edge


def _histogram_plan(name: str, slots: dict[float, int], total: int | None) -> HistogramPlan | None:
    edges = sorted(slots)
    if len(edges) < 2 or edges[-1] != inf:
        return None
    return HistogramPlan(name, tuple(edges[:-1]), _pick([slots[edge] for edge in edges]), total, [])


def _scalar_plan(entries: Iterable[Merged]) -> ScalarPlan:
    single: list[Merged] = []
    merged: list[Merged] = []
    for entry in entries:
        alone = len(entry.slots) == 1 and len(entry.slots[0]) == 1 and entry.factor == 1.0
        (single if alone else merged).append(entry)
    return ScalarPlan(tuple(entry.key for entry in single), _pick([entry.slots[0][0] for entry in single]), merged)


def _adapters(labels: Mapping[str, str]) -> Adapters:
    def names(label: str) -> tuple[str, ...]:
        return tuple(sorted({name.strip() for name in labels.get(label, "").split(",")} - {""}))

    slots = labels.get("max_lora", "")
    return Adapters(
        names("running_lora_adapters"), names("waiting_lora_adapters"), int(slots) if slots.isdecimal() else None
    )
