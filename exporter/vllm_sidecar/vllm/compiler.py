"""Layout -> the slots of a body behind each canonical value, computed once per layout.

Every decision depends on the series that are present, never on a version number. The special cases are commented where
they are handled; their sources are in vLLM's release history, see the comments of `catalog.upstream`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import upstream
from vllm_sidecar.catalog.routes import reaches_an_engine
from vllm_sidecar.catalog.types import Kind, Merge, Scope, Upstream
from vllm_sidecar.series.readings import Adapters, Dialect, Group, Key
from vllm_sidecar.slices import at_once
from vllm_sidecar.vllm.attribution import AT_ONCE, MAX_LABEL, Attribution, Found, attribute
from vllm_sidecar.vllm.engines import Engines
from vllm_sidecar.vllm.mapping import (
    MAX_BUCKETS,
    BodyMapping,
    GroupMapping,
    HistogramMapping,
    Merged,
    bucket_bound,
    histogram_mapping,
    pick,
    scalar_mapping,
)
from vllm_sidecar.vllm.plausible import OBSERVATIONS_PER_SECOND, SUM_PER_SECOND, Growing, most_per_second

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from vllm_sidecar.catalog.types import Signal
    from vllm_sidecar.exposition.layout import Labels, Layout

    Pick = Callable[[Sequence[float]], tuple[float, ...]]

_MERGE: dict[Merge, Callable[[Iterable[float]], float]] = {Merge.SUM: sum, Merge.MAX: max}


MOST_NAMED = 20
"""Families without an engine that are listed by name."""
MOST_UNKNOWN = 100
"""Families that are not in the catalog that are listed by name."""
MOST_COPIES = 1000
"""Most series of API servers, or of a proxy, that one value of one engine is made of."""
MAX_ADAPTERS = 10_000
"""Most LoRA adapters that are read."""
MOST_KEYS = 1000
"""Most series of one labeled signal of one engine, model or server, such as HTTP routes with their status."""


def compile_mapping(layout: Layout, engines: Engines | None = None, served: str | None = None) -> BodyMapping:
    """Compute the meaning of each series of a layout without a pause; see `compile_steps`."""
    return at_once(compile_steps(layout, engines or Engines(), served))


def compile_steps(layout: Layout, engines: Engines, served: str | None) -> Generator[None, None, BodyMapping]:
    """Compute the meaning of each series of a layout, in steps.

    `engines` remembers the names of the target's engines, `served` is the model's name for a body that does not contain
    it.
    """
    attribution = yield from attribute(layout, engines, served)
    return (yield from _Compiler(attribution).compile())


class _Compiler:
    """Reads one layout; the tables that it fills become the mapping."""

    def __init__(self, attribution: Attribution) -> None:
        self._of = attribution
        self.sources: dict[str, tuple[str, ...]] = {}
        self.scalars: dict[Group, dict[Kind, dict[Key, Merged]]] = defaultdict(lambda: defaultdict(dict))
        self.histograms: dict[Group, list[HistogramMapping]] = defaultdict(list)
        self.growing: dict[int, Growing] = {}
        """Series that only grow, by slot."""
        self.counts: dict[int, int] = {}
        """Slots of `_count`, with those of the +Inf bucket."""
        self._shared: dict[Growing, Growing] = {}

    def compile(self) -> Generator[None, None, BodyMapping]:
        """Fill the tables, and return the mapping."""
        for entry in upstream.UPSTREAM:
            yield from self._entry(entry)
        yield from self._scalar(upstream.OPEN_FDS, self._of.plain[upstream.OPEN_FDS.aliases[0]], 1.0)
        yield from self._http_requests()
        self._waiting()
        yield
        self._transfers()
        yield
        self._unswap()
        yield
        unknown = self._of.names.unknown()
        if len(unknown) > MOST_UNKNOWN:
            self._of.limits["families"] += len(unknown) - MOST_UNKNOWN
        groups: list[GroupMapping] = []
        for known in sorted(set(self.scalars) | set(self.histograms)):
            groups.append(self._group(known))
            yield
        return BodyMapping(
            groups=groups,
            dialect=self._dialect(),
            started=next((found.slot for found in self._of.plain[upstream.PROCESS_START]), None),
            created=[
                (group, found.slot)
                for name in upstream.CREATED
                for found in self._of.series[name]
                if (group := self._of.group_of(Scope.ENGINE, found))
            ],
            engines=self._of.assigned.by_group,
            cache_config=self._of.cache_config,
            adapters=self._adapters(),
            sources=self.sources,
            missing=tuple(
                entry.signal.name
                for entry in upstream.UPSTREAM
                if entry.checklist and entry.signal.name not in self.sources
            ),
            unknown=unknown[:MOST_UNKNOWN],
            unknown_labels=tuple(sorted(self._of.unknown_labels)),
            unattributed=tuple(sorted(self._of.unattributed)[:MOST_NAMED]),
            not_an_engine=self._of.not_an_engine(),
            anomalies=self._of.anomalies,
            unknown_count=len(unknown),
            limits=dict(self._of.limits),
            growing=self.growing,
            counts=pick(tuple(self.counts)),
            totals=pick(tuple(self.counts.values())),
        )

    def _adapters(self) -> list[list[tuple[int, Adapters]]]:
        written: dict[Labels, list[tuple[int, Adapters]]] = defaultdict(list)
        for found in self._of.series[upstream.LORA_INFO]:
            of = tuple(sorted(pair for pair in found.labels.items() if pair[0] not in upstream.LORA_LABELS))
            written[of].append((found.slot, _adapters(found.labels, self._of.limits)))
        return list(written.values())

    def _dialect(self) -> Dialect:
        names = chain.from_iterable(self._of.series.values())
        engine = "v1" if any("engine" in found.labels for found in names) else "v0"
        python = upstream.PYTHON_INFO in self._of.plain
        rust = self._of.layout.openmetrics and not python and not self._of.cache_config
        return Dialect(self._of.prefix, engine, "rust" if rust else "python", not python and not rust)

    def _http_requests(self) -> Generator[None, None, None]:
        """Read the routes that reach an engine first: the others may be many, such as those of a scanner."""
        to_engines: list[Found] = []
        others: list[Found] = []
        for found in self._of.plain[upstream.HTTP_REQUESTS.aliases[0]]:
            reaches = reaches_an_engine(found.labels.get("handler", ""), found.labels.get("method", ""))
            (to_engines if reaches else others).append(found)
        yield
        yield from self._scalar(upstream.HTTP_REQUESTS, [*to_engines, *others], 1.0)

    def _entry(self, entry: Upstream) -> Generator[None, None, None]:
        yield
        candidates = list(chain.from_iterable(map(self._candidates, entry.aliases)))
        if entry.signal.kind is Kind.HISTOGRAM:
            chosen = next((name for name, _ in candidates if self._of.series.get(name + "_bucket")), None)
            if chosen:
                yield from self._histogram(entry, chosen)
            return
        # Copies per API server (label pid) may be stale, even the largest of them; an older name without copies is
        # better (vLLM 0.9.2 with several API servers has both).
        present = [(name, found) for name, found in candidates if found]
        whole = (found for _, found in present if not any("pid" in series.labels for series in found))
        found = next(whole, present[0][1] if present else [])
        factor = self._factor(entry, found)
        if found and factor is not None:
            yield from self._scalar(entry, found, factor)

    def _candidates(self, alias: str) -> list[tuple[str, list[Found]]]:
        """Return the series of an alias, and of its form from Ray without `_total`."""
        names = [alias, alias.removesuffix("_total")] if alias.endswith("_total") else [alias]
        if alias == names[-1] or any(prefix.startswith("ray_") for prefix in self._of.names.prefixes):
            return [(name, self._of.series.get(name, [])) for name in names]
        return [(alias, self._of.series.get(alias, []))]

    def _factor(self, entry: Upstream, found: list[Found]) -> float | None:
        """Return the factor to the signal's unit; None if the values cannot be used."""
        if not found:
            return None
        _, name = self._of.names.split[found[0].name]
        if name.startswith("spec_decode_num") and upstream.SPEC_V0_MARK in self._of.names.all():
            return None
        if not name.startswith("gpu_prefix_cache_") or not entry.signal.name.endswith("_total"):
            return 1.0
        # Before 0.9.0 these count blocks, and only from 0.9.0 cache_config_info has an engine label.
        if any("engine" in info.labels for info in self._of.series[upstream.CACHE_CONFIG]):
            return 1.0
        sizes = {config.get("block_size", "") for config in self._of.cache_config.values()}
        only = sizes.pop() if len(sizes) == 1 else ""
        return float(only) if only.isdecimal() else None

    def _scalar(self, entry: Upstream, found: list[Found], factor: float) -> Generator[None, None, None]:
        signal = entry.signal
        alike: dict[tuple[Group, Key], dict[Labels, list[int]]] = defaultdict(lambda: defaultdict(list))
        counter = signal.kind is Kind.COUNTER
        per_second = most_per_second(signal) if counter else 0.0
        keys: Counter[Group] = Counter()
        for place, series in enumerate(found):
            if place % AT_ONCE == 0:
                yield
            group = self._of.group_of(signal.scope, series)
            if group is None:
                continue
            # The sum over reasons has a name of its own; `requests_waiting` is that sum.
            plain = not signal.labels or signal is upstream.REQUESTS_WAITING.signal
            key: Key = signal.name if plain else (signal.name, *(series.labels.get(x, "") for x in signal.labels))
            if (group, key) not in alike and not self._fits(keys, group, MOST_KEYS, "series_per_signal"):
                continue
            if counter:
                self._grows(series.slot, group, per_second)
            member = _member(signal, series.pairs) if counter else _apart_from_copies(series.pairs)
            members = alike[group, key]
            if member not in members and len(members) == MOST_COPIES:
                self._of.limits["copies"] += 1
                continue
            members[member].append(series.slot)
            self._read_from(signal.name, series.name)
        for (group, key), copies in alike.items():
            distinct = tuple(copies) if counter and any(copies) else ()
            merged = Merged(key, list(copies.values()), _MERGE[entry.merge], factor, distinct)
            self.scalars[group][signal.kind][key] = merged

    def _read_from(self, signal: str, source: str) -> None:
        """Note one of the metrics whose series make up a signal."""
        names = self.sources.get(signal, ())
        if source not in names:
            self.sources[signal] = (*names, source)

    def _fits(self, counted: Counter[Group], group: Group, most: int, limit: str) -> bool:
        """Count one more of a group; return False, and count it as left out by a limit, if there are too many."""
        counted[group] += 1
        if counted[group] > most:
            self._of.limits[limit] += 1
            return False
        return True

    def _grows(self, slot: int, group: Group, per_second: float) -> None:
        growing = Growing(group, per_second)
        self.growing[slot] = self._shared.setdefault(growing, growing)

    def _waiting(self) -> None:
        """Split the waiting requests by reason if vLLM does (0.20.0 on); add the swapped requests of v0."""
        name = upstream.REQUESTS_WAITING.signal.name
        for reason, source in ((None, upstream.WAITING_BY_REASON), ("swapped", upstream.SWAPPED)):
            alike: dict[tuple[Group, Key], dict[Labels, list[int]]] = defaultdict(lambda: defaultdict(list))
            keys: Counter[Group] = Counter()
            for found in self._of.series[source]:
                key: Key = (name, reason or found.labels.get("reason", ""))
                group = self._of.group_of(Scope.ENGINE, found)
                if group and ((group, key) in alike or self._fits(keys, group, MOST_KEYS, "series_per_signal")):
                    alike[group, key][_apart_from_copies(found.pairs)].append(found.slot)
                    self._read_from(name, found.name)
            for (group, key), copies in alike.items():
                self.scalars[group][Kind.GAUGE][key] = Merged(key, list(copies.values()), sum, 1.0)
        for kinds in self.scalars.values():
            gauges = kinds[Kind.GAUGE]
            total = gauges.get(name)
            split = [key for key in gauges if isinstance(key, tuple) and key[0] == name and key[1] != "swapped"]
            if total and not split:
                gauges[name, "unspecified"] = total._replace(key=(name, "unspecified"))
            gauges.pop(name, None)

    def _transfers(self) -> None:
        """Add up the counters of KV connectors, each under its own names."""
        signal = upstream.TRANSFERS.signal
        parts: dict[tuple[Group, Key], dict[Labels, list[int]]] = defaultdict(lambda: defaultdict(list))
        for kind in upstream.KV_TRANSFERS:
            for found in next((series for _, series in self._candidates(kind.name) if series), ()):
                group = self._of.group_of(signal.scope, found)
                if group and (not kind.label or (found.labels.get(kind.label, "") == kind.value) is not kind.other):
                    key: Key = (signal.name, kind.connector, kind.result)
                    parts[group, key][("", found.name), *found.pairs].append(found.slot)
                    self._grows(found.slot, group, OBSERVATIONS_PER_SECOND)
                    self._read_from(signal.name, found.name)
        for (group, key), members in parts.items():
            merged = Merged(key, list(members.values()), sum, 1.0, tuple(members))
            self.scalars[group][signal.kind][key] = merged

    def _histogram(self, entry: Upstream, source: str) -> Generator[None, None, None]:
        found: dict[Group, dict[Labels, dict[float, int]]] = defaultdict(lambda: defaultdict(dict))
        bad: dict[Group, set[Labels]] = defaultdict(set)
        copies: Counter[Group] = Counter()
        for place, series in enumerate(self._of.series[source + "_bucket"]):
            if place % AT_ONCE == 0:
                yield
            bound = bucket_bound(series.labels.get("le", ""))
            group = self._of.group_of(entry.signal.scope, series)
            rest = tuple([pair for pair in series.pairs if pair[0] != "le"])
            if group and bound is None:
                bad[group].add(rest)
            elif group and bound is not None:
                if rest not in found[group] and not self._fits(copies, group, MOST_COPIES, "copies"):
                    continue
                found[group][rest][bound] = series.slot
                self._grows(series.slot, group, OBSERVATIONS_PER_SECOND)
        totals = {x.pairs: x.slot for x in self._of.series.get(source + "_sum", ())}
        counts = {x.pairs: x.slot for x in self._of.series.get(source + "_count", ())}
        for group, parts in found.items():
            yield
            for rest, slots in parts.items():
                if len(slots) > MAX_BUCKETS + 1:
                    self._of.limits["buckets"] += len(slots) - MAX_BUCKETS - 1
                if (total := totals.get(rest)) is not None:
                    self._grows(total, group, SUM_PER_SECOND)
                if (count := counts.get(rest)) is not None and inf in slots:
                    self.counts[count] = slots[inf]
            mappings = {
                rest: histogram_mapping(entry.signal.name, slots, totals.get(rest)) for rest, slots in parts.items()
            }
            first = next(iter(mappings.values()))
            usable = {rest: each for rest, each in mappings.items() if first and each and each.bounds == first.bounds}
            if unused := bad[group] | (mappings.keys() - usable.keys()):
                self._of.anomalies["bad_histogram"] = self._of.anomalies.get("bad_histogram", 0) + len(unused)
            if first and usable:
                others = [(each.pick, each.total) for each in usable.values() if each is not first]
                several = any(not upstream.COPIES.isdisjoint(dict(rest)) for rest in parts)
                self.histograms[group].append(
                    first._replace(others=others, members=tuple(usable) if several else ())
                )  # fmt: skip
                self._read_from(entry.signal.name, self._of.series[source + "_bucket"][0].name.removesuffix("_bucket"))

    def _group(self, group: Group) -> GroupMapping:
        kinds = self.scalars[group]
        waiting = upstream.REQUESTS_WAITING.signal.name
        return GroupMapping(
            group,
            scalar_mapping(kinds[Kind.COUNTER].values()),
            scalar_mapping(kinds[Kind.GAUGE].values()),
            self.histograms[group],
            tuple(key for key in kinds[Kind.GAUGE] if isinstance(key, tuple) and key[0] == waiting),
        )

    def _unswap(self) -> None:
        """Restore the names of the prefill and decode times of 0.6.4 (v0, so without engine label)."""
        name, bound = upstream.SWAPPED_TIMES_MARK
        marks = (found.labels for found in self._of.series[name] if "engine" not in found.labels)
        if not any(bucket_bound(labels.get("le", "")) == bound for labels in marks):
            return
        prefill, decode = "request_prefill_seconds", "request_decode_seconds"
        other = {prefill: decode, decode: prefill}
        for group, mappings in self.histograms.items():
            self.histograms[group] = [
                mapping._replace(name=other.get(mapping.name, mapping.name)) for mapping in mappings
            ]
        self.sources = {other.get(signal, signal): source for signal, source in self.sources.items()}


def _member(signal: Signal, pairs: Labels) -> Labels:
    """Return the labels that distinguish the series of one counter of one group; none for current vLLM versions."""
    if signal.scope is Scope.ENGINE:
        return tuple([pair for pair in pairs if pair[0] in upstream.COPIES])
    model = upstream.MODEL_LABELS if signal.scope is Scope.MODEL else ()
    return tuple([pair for pair in pairs if pair[0] not in signal.labels and pair[0] not in model])


def _apart_from_copies(pairs: Labels) -> Labels:
    return tuple([pair for pair in pairs if pair[0] not in upstream.COPIES])


def _adapters(labels: Mapping[str, str], limits: Counter[str]) -> Adapters:
    def names(label: str) -> tuple[str, ...]:
        every = sorted({name.strip() for name in labels.get(label, "").split(",")} - {""})
        short = [name for name in every if len(name) <= MAX_LABEL][:MAX_ADAPTERS]
        if len(short) < len(every):
            limits["adapters"] += len(every) - len(short)
        return tuple(short)

    slots = labels.get("max_lora", "")
    return Adapters(
        names("running_lora_adapters"),
        names("waiting_lora_adapters"),
        int(slots) if slots.isdecimal() and len(slots) < 10 else None,
    )
