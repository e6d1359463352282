"""Stage 3, once per layout: which slot of a body becomes which canonical value.

Everything is decided by what is present, never by a version number. The traps are named where they are handled;
their sources are vLLM's release history as the comments of `catalog.upstream` say.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain
from math import inf, isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog import upstream
from vllm_sidecar.catalog.types import Kind, Merge, Scope, Upstream
from vllm_sidecar.series.readings import Adapters, Dialect, Engine, Group, Key
from vllm_sidecar.vllm.engines import UNATTRIBUTED, UNNUMBERED, Assigned, EngineIdentity, Engines
from vllm_sidecar.vllm.names import PARTS, Names, family_of, only_engines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vllm_sidecar.catalog.types import Signal
    from vllm_sidecar.exposition.layout import Labels, Layout

    Pick = Callable[[Sequence[float]], tuple[float, ...]]

_MERGE: dict[Merge, Callable[[Iterable[float]], float]] = {Merge.SUM: sum, Merge.MAX: max}
MOST_NAMED = 20
"""Families without an engine that are named."""


def _dimensions(scope: Scope) -> dict[str, frozenset[str]]:
    """Return the sample names that are read of a scope, each with the labels that are no part of an identity."""
    found: dict[str, set[str]] = {}
    for entry in upstream.UPSTREAM:
        if entry.signal.scope is scope:
            for alias in entry.aliases:
                names = [alias + part for part in PARTS] if entry.signal.kind is Kind.HISTOGRAM else [alias]
                for name in (*names, alias.removesuffix("_total")):
                    found.setdefault(name, set()).update(entry.signal.labels)
    if scope is Scope.ENGINE:
        for name in (upstream.SWAPPED, upstream.WAITING_BY_REASON, *upstream.CREATED, *upstream.DIMENSIONS):
            for written in (name, name.removesuffix("_total")):
                found.setdefault(written, set()).update(upstream.DIMENSIONS.get(name, ()))
    always = {"le", *upstream.COPIES}
    return {name: frozenset(labels | always) for name, labels in found.items()}


_OF_ENGINES = _dimensions(Scope.ENGINE)
_OF_MODELS = _dimensions(Scope.MODEL)
_OF_HTTP = upstream.COPIES.union(upstream.HTTP_REQUESTS.signal.labels)


class Merged(NamedTuple):
    """A value made of several series: the greatest of each inner list, then `merge` over the outer, times `factor`.

    The inner lists hold series that differ in `pid` only: in prometheus_client's multiprocess mode every API server
    writes its own copy of one engine's gauge.
    """

    key: Key
    slots: list[list[int]]
    merge: Callable[[Iterable[float]], float]
    factor: float
    members: tuple[Labels, ...] = ()
    """Of a counter that is a sum of several: what tells the inner lists apart. They may come and go."""


@dataclass(slots=True)
class ScalarMapping:
    """Where the counters or gauges of one group stand."""

    keys: tuple[Key, ...] = ()
    pick: Pick = field(default=lambda _: ())
    merged: list[Merged] = field(default_factory=list)


class HistogramMapping(NamedTuple):
    """Where one histogram of one group stands; `others` are further series to add up (copies of API servers)."""

    name: str
    bounds: tuple[float, ...]
    pick: Pick
    total: int | None
    others: list[tuple[Pick, int | None]]
    members: tuple[Labels, ...] = ()
    """What tells it from the others, and them from each other, where there are any."""


@dataclass(slots=True)
class GroupMapping:
    """All that one group gives."""

    group: Group
    counters: ScalarMapping
    gauges: ScalarMapping
    histograms: list[HistogramMapping]
    waiting_sum: tuple[Key, ...]
    """The parts that add up to all waiting requests."""


@dataclass(slots=True)
class BodyMapping:
    """What `normalise` needs to know of one layout."""

    groups: list[GroupMapping]
    dialect: Dialect
    started: int | None
    created: list[tuple[Group, int]]
    engines: dict[Group, Engine]
    cache_config: dict[Group, dict[str, str]]
    adapters: list[list[tuple[int, Adapters]]]
    """LoRA infos by the engine that wrote them."""
    sources: dict[str, str]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    unknown_labels: tuple[str, ...]
    unattributed: tuple[str, ...]
    not_an_engine: str
    anomalies: dict[str, int]

    def newest_adapters(self, values: Sequence[float]) -> Adapters | None:
        """Return the newest LoRA info of each engine: its value is the time it was written, and older ones stay."""
        newest: list[Adapters] = []
        for written in self.adapters:
            alive = [(values[slot], adapters) for slot, adapters in written if isfinite(values[slot])]
            if alive:
                newest.append(max(alive, key=itemgetter(0))[1])
        if len(newest) <= 1:
            return newest[0] if newest else None
        slots = [adapters.slots for adapters in newest if adapters.slots is not None]
        return Adapters(
            tuple(sorted({name for adapters in newest for name in adapters.running})),
            tuple(sorted({name for adapters in newest for name in adapters.waiting})),
            max(slots, default=None),
        )


class Found(NamedTuple):
    """One series under vLLM's own name without its prefix."""

    slot: int
    pairs: Labels
    labels: dict[str, str]
    name: str
    """The name as the server wrote it."""


class _Alike(NamedTuple):
    """Series of engines that say the same of their engine; their families, and these as the server wrote them."""

    identity: EngineIdentity
    slots: list[int]
    families: set[str]
    written: set[str]


def _pick(slots: Sequence[int]) -> Pick:
    if len(slots) == 1:
        only = slots[0]
        return lambda values: (values[only],)
    return itemgetter(*slots) if slots else lambda _: ()


def compile_mapping(layout: Layout, engines: Engines | None = None, served: str | None = None) -> BodyMapping:
    """Work out what each series of a layout means.

    `engines` remembers the names of the target's engines, `served` is the model's name where the body names none.
    """
    return _Compiler(layout).compile(engines or Engines(), served)


class _Compiler:
    """Reads one layout; the tables it fills become the plan."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.names = Names(layout)
        self.prefix = next(iter(self.names.prefixes), "")
        self.series: dict[str, list[Found]] = defaultdict(list)
        self.plain: dict[str, list[Found]] = defaultdict(list)
        self.anomalies: dict[str, int] = {}
        self.sources: dict[str, str] = {}
        self.scalars: dict[Group, dict[Kind, dict[Key, Merged]]] = defaultdict(lambda: defaultdict(dict))
        self.histograms: dict[Group, list[HistogramMapping]] = defaultdict(list)
        self.alike: list[_Alike] = []
        self.engine_groups: dict[int, Group] = {}
        """Slot of a series of an engine -> the group of that engine."""
        self.unknown_labels: set[str] = set()
        self.unattributed: set[str] = set()
        self.assigned = Assigned({}, {})
        self.served: str | None = None

    def compile(self, engines: Engines, served: str | None) -> BodyMapping:
        self.served = served
        self._sort()
        self._identify()
        self._assign(engines)
        self._cache_config()
        for entry in upstream.UPSTREAM:
            self._entry(entry)
        for entry in (upstream.HTTP_REQUESTS, upstream.OPEN_FDS):
            self._scalar(entry, self.plain[entry.aliases[0]], 1.0)
        self._waiting()
        self._transfers()
        self._unswap()
        groups = sorted(set(self.scalars) | set(self.histograms))
        return BodyMapping(
            groups=[self._group(group) for group in groups],
            dialect=self._dialect(),
            started=next((found.slot for found in self.plain[upstream.PROCESS_START]), None),
            created=[
                (group, found.slot)
                for name in upstream.CREATED
                for found in self.series[name]
                if (group := self._group_of(Scope.ENGINE, found))
            ],
            engines=self.assigned.by_group,
            cache_config=self.cache_config,
            adapters=self._adapters(),
            sources=self.sources,
            missing=tuple(
                entry.signal.name
                for entry in upstream.UPSTREAM
                if entry.checklist and entry.signal.name not in self.sources
            ),
            unknown=self.names.unknown(),
            unknown_labels=tuple(sorted(self.unknown_labels)),
            unattributed=tuple(sorted(self.unattributed)[:MOST_NAMED]),
            not_an_engine=self._not_an_engine(),
            anomalies=self.anomalies,
        )

    def _sort(self) -> None:
        """Sort the series by name; what stands under several prefixes is read under the best one."""
        by_prefix: dict[str, dict[str, list[Found]]] = {prefix: defaultdict(list) for prefix in self.names.prefixes}
        for slot, series in enumerate(self.layout.series):
            prefix, name = self.names.split.get(series.name, ("", ""))
            found = Found(slot, series.labels, dict(series.labels), series.name)
            table = by_prefix.get(prefix)
            if table is None:
                self.plain[series.name].append(found)
            else:
                table[name].append(found)
        families: set[str] = set()
        for table in by_prefix.values():
            new = {name: found for name, found in table.items() if family_of(name) not in families}
            self.series.update(new)
            families.update(map(family_of, new))
        for name, (older, kind) in upstream.BY_TRANSFER_TYPE.items():
            these = [one for one in self.series.get(older, ()) if one.labels.get("transfer_type") == kind]
            if these:
                self.series.setdefault(name, these)

    def _not_an_engine(self) -> str:
        """Say what the server is, if it is no engine; empty for engines, and where there is nothing to tell by."""
        if not self.names.prefixes:
            names = {*self.plain, *self.layout.families}
            known = (what for start, what in upstream.OTHER_PROGRAMS if any(name.startswith(start) for name in names))
            return next(known, "")
        backends = self._backends()
        if backends:
            return f"something that repeats the metrics of several servers, by its label {backends}"
        if any(only_engines(names) for names in self.names.by_prefix.values()):
            return ""
        return "something that has vLLM's names and counts nothing that an engine counts"

    def _backends(self) -> str:
        """Return the label that holds addresses of several servers; empty if there is none."""
        addresses: dict[str, set[str]] = defaultdict(set)
        for alike in self.alike:
            for label, value in alike.identity.labels:
                if value.startswith(upstream.ADDRESSES) and label not in upstream.MODEL_LABELS:
                    addresses[label].add(value)
        return next((label for label, values in sorted(addresses.items()) if len(values) > 1), "")

    def _identify(self) -> None:
        """Find out what the series of engines say of their engine."""
        found: dict[Labels, _Alike] = {}
        for name, dimensions in _OF_ENGINES.items():
            for slot, pairs, _, written in self.series.get(name, ()):
                rest = tuple([pair for pair in pairs if pair[0] not in dimensions])
                alike = found.get(rest)
                if alike is None:
                    alike = found[rest] = _Alike(_identity(rest), [], set(), set())
                alike.slots.append(slot)
                alike.families.add(name)
                alike.written.add(written)
        self.alike = list(found.values())

    def _assign(self, engines: Engines) -> None:
        """Find the engine of each series that belongs to one."""
        families: dict[EngineIdentity, set[str]] = defaultdict(set)
        for identity, _, names, _ in self.alike:
            families[identity] |= names
            self.unknown_labels.update(name for name, _ in identity.labels)
        self.assigned = engines.assign(families, self.served)
        for identity, slots, _, written in self.alike:
            engine = self.assigned.engines.get(identity)
            if engine:
                self.engine_groups.update(dict.fromkeys(slots, engine.group))
            else:
                self._leave_out(self.assigned.refused[identity], len(slots), written)
        for name, dimensions in _OF_MODELS.items():
            for found in self.series.get(name, ()):
                self.unknown_labels |= found.labels.keys() - dimensions
        for found in self.plain[upstream.HTTP_REQUESTS.aliases[0]]:
            self.unknown_labels |= found.labels.keys() - _OF_HTTP
        self.unknown_labels -= {*upstream.IDENTITY, *upstream.MODEL_LABELS}

    def _leave_out(self, why: str, count: int, written: Iterable[str]) -> None:
        self.anomalies[why] = self.anomalies.get(why, 0) + count
        self.unattributed.update(written)

    def _cache_config(self) -> None:
        find = self.assigned.matching()
        self.cache_config: dict[Group, dict[str, str]] = {}
        for found in self.series[upstream.CACHE_CONFIG]:
            engine = find(found.labels)
            # Of an engine that has no other series yet, or of several engines.
            nobody = Group(Scope.ENGINE, ("", found.labels.get("engine", UNNUMBERED)))
            self.cache_config[engine.group if engine else nobody] = {
                key: found.labels[key] for key in upstream.CACHE_CONFIG_KEYS if key in found.labels
            }

    def _adapters(self) -> list[list[tuple[int, Adapters]]]:
        written: dict[Labels, list[tuple[int, Adapters]]] = defaultdict(list)
        for found in self.series[upstream.LORA_INFO]:
            of = tuple(sorted(pair for pair in found.labels.items() if pair[0] not in upstream.LORA_LABELS))
            written[of].append((found.slot, _adapters(found.labels)))
        return list(written.values())

    def _dialect(self) -> Dialect:
        names = chain.from_iterable(self.series.values())
        engine = "v1" if any("engine" in found.labels for found in names) else "v0"
        python = upstream.PYTHON_INFO in self.plain
        rust = self.layout.openmetrics and not python and not self.cache_config
        return Dialect(self.prefix, engine, "rust" if rust else "python", not python and not rust)

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
        if alias == names[-1] or any(prefix.startswith("ray_") for prefix in self.names.prefixes):
            return [(name, self.series.get(name, [])) for name in names]
        return [(alias, self.series.get(alias, []))]

    def _factor(self, entry: Upstream, found: list[Found]) -> float | None:
        """What to multiply with to get the signal's unit; None where the values cannot be used."""
        if not found:
            return None
        _, name = self.names.split[found[0].name]
        if name.startswith("spec_decode_num") and upstream.SPEC_V0_MARK in self.names.all():
            return None
        if not name.startswith("gpu_prefix_cache_") or not entry.signal.name.endswith("_total"):
            return 1.0
        # Before 0.9.0 these count blocks, and only from 0.9.0 cache_config_info has an engine label.
        if any("engine" in info.labels for info in self.series[upstream.CACHE_CONFIG]):
            return 1.0
        sizes = {config.get("block_size", "") for config in self.cache_config.values()}
        only = sizes.pop() if len(sizes) == 1 else ""
        return float(only) if only.isdecimal() else None

    def _group_of(self, scope: Scope, found: Found) -> Group | None:
        """Return whose series it is; None where nothing tells."""
        if scope is Scope.TARGET:
            return Group(scope, ())
        if scope is Scope.ENGINE:
            return self.engine_groups.get(found.slot)
        model = _model(found.labels) or self._only_model()
        if model:
            return Group(scope, (model,))
        self._leave_out(UNATTRIBUTED, 1, (found.name,))
        return None

    def _only_model(self) -> str | None:
        models = {engine.group.labels[0] for engine in self.assigned.engines.values()}
        return models.pop() if len(models) == 1 else self.served

    def _scalar(self, entry: Upstream, found: list[Found], factor: float) -> None:
        signal = entry.signal
        alike: dict[tuple[Group, Key], dict[Labels, list[int]]] = defaultdict(lambda: defaultdict(list))
        counter = signal.kind is Kind.COUNTER
        for series in found:
            group = self._group_of(signal.scope, series)
            if group is None:
                continue
            # The sum over reasons stands in a name of its own; `requests_waiting` is that sum.
            plain = not signal.labels or signal is upstream.REQUESTS_WAITING.signal
            key: Key = signal.name if plain else (signal.name, *(series.labels.get(x, "") for x in signal.labels))
            member = _member(signal, series.pairs) if counter else _apart_from_copies(series.pairs)
            alike[group, key][member].append(series.slot)
            self.sources.setdefault(signal.name, series.name)
        for (group, key), copies in alike.items():
            members = tuple(copies) if counter and any(copies) else ()
            merged = Merged(key, list(copies.values()), _MERGE[entry.merge], factor, members)
            self.scalars[group][signal.kind][key] = merged

    def _waiting(self) -> None:
        """Split the waiting requests by reason where vLLM does (0.20.0 on); add the swapped ones of v0."""
        name = upstream.REQUESTS_WAITING.signal.name
        for reason, source in ((None, upstream.WAITING_BY_REASON), ("swapped", upstream.SWAPPED)):
            alike: dict[tuple[Group, Key], dict[Labels, list[int]]] = defaultdict(lambda: defaultdict(list))
            for found in self.series[source]:
                key: Key = (name, reason or found.labels.get("reason", ""))
                group = self._group_of(Scope.ENGINE, found)
                if group:
                    alike[group, key][_apart_from_copies(found.pairs)].append(found.slot)
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
        """Add up what KV connectors count, each in names of its own."""
        signal = upstream.TRANSFERS.signal
        parts: dict[tuple[Group, Key], dict[Labels, list[int]]] = defaultdict(lambda: defaultdict(list))
        for kind in upstream.KV_TRANSFERS:
            for found in next((series for _, series in self._candidates(kind.name) if series), ()):
                group = self._group_of(signal.scope, found)
                if group and (not kind.label or (found.labels.get(kind.label, "") == kind.value) is not kind.other):
                    key: Key = (signal.name, kind.connector, kind.result)
                    parts[group, key][("", found.name), *found.pairs].append(found.slot)
                    self.sources.setdefault(signal.name, found.name)
        for (group, key), members in parts.items():
            merged = Merged(key, list(members.values()), sum, 1.0, tuple(members))
            self.scalars[group][signal.kind][key] = merged

    def _histogram(self, entry: Upstream, source: str) -> None:
        found: dict[Group, dict[Labels, dict[float, int]]] = defaultdict(lambda: defaultdict(dict))
        for series in self.series[source + "_bucket"]:
            bound = _bound(series.labels.get("le", ""))
            group = self._group_of(entry.signal.scope, series)
            rest = tuple([pair for pair in series.pairs if pair[0] != "le"])
            if bound is not None and group:
                found[group][rest][bound] = series.slot
        totals = {x.pairs: x.slot for x in self.series.get(source + "_sum", ())}
        for group, parts in found.items():
            mappings = [_histogram_mapping(entry.signal.name, slots, totals.get(rest)) for rest, slots in parts.items()]
            usable = (
                [mapping for mapping in mappings if mapping and mapping.bounds == mappings[0].bounds]
                if mappings[0]
                else []
            )
            if len(usable) < len(mappings):
                self.anomalies["bad_histogram"] = self.anomalies.get("bad_histogram", 0) + len(mappings) - len(usable)
            if usable:
                others = [(mapping.pick, mapping.total) for mapping in usable[1:]]
                copies = any(not upstream.COPIES.isdisjoint(dict(rest)) for rest in parts)
                members = tuple(rest for rest, mapping in zip(parts, mappings, strict=True) if mapping in usable)
                self.histograms[group].append(
                    usable[0]._replace(others=others, members=members if copies else ())
                )  # fmt: skip
                self.sources[entry.signal.name] = self.series[source + "_bucket"][0].name.removesuffix("_bucket")

    def _group(self, group: Group) -> GroupMapping:
        kinds = self.scalars[group]
        waiting = upstream.REQUESTS_WAITING.signal.name
        return GroupMapping(
            group,
            _scalar_mapping(kinds[Kind.COUNTER].values()),
            _scalar_mapping(kinds[Kind.GAUGE].values()),
            self.histograms[group],
            tuple(key for key in kinds[Kind.GAUGE] if isinstance(key, tuple) and key[0] == waiting),
        )

    def _unswap(self) -> None:
        """Give the prefill and decode times of 0.6.4 (v0, so without engine label) back their own names."""
        name, bound = upstream.SWAPPED_TIMES_MARK
        marks = (found.labels for found in self.series[name] if "engine" not in found.labels)
        if not any(_bound(labels.get("le", "")) == bound for labels in marks):
            return
        prefill, decode = "request_prefill_seconds", "request_decode_seconds"
        other = {prefill: decode, decode: prefill}
        for group, mappings in self.histograms.items():
            self.histograms[group] = [
                mapping._replace(name=other.get(mapping.name, mapping.name)) for mapping in mappings
            ]
        self.sources = {other.get(signal, signal): source for signal, source in self.sources.items()}


def _model(labels: Mapping[str, str]) -> str:
    return next((labels[name] for name in upstream.MODEL_LABELS if labels.get(name)), "")


def _identity(pairs: Labels) -> EngineIdentity:
    return EngineIdentity(_model(dict(pairs)), tuple([pair for pair in pairs if pair[0] != "model_name" and pair[1]]))


def _member(signal: Signal, pairs: Labels) -> Labels:
    """What tells the series of one counter of one group apart; nothing for all that vLLM itself writes today."""
    if signal.scope is Scope.ENGINE:
        return tuple([pair for pair in pairs if pair[0] in upstream.COPIES])
    model = upstream.MODEL_LABELS if signal.scope is Scope.MODEL else ()
    return tuple([pair for pair in pairs if pair[0] not in signal.labels and pair[0] not in model])


def _apart_from_copies(pairs: Labels) -> Labels:
    return tuple([pair for pair in pairs if pair[0] not in upstream.COPIES])


def _bound(text: str) -> float | None:
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if bound != bound else bound


def _histogram_mapping(name: str, slots: dict[float, int], total: int | None) -> HistogramMapping | None:
    edges = sorted(slots)
    if len(edges) < 2 or edges[-1] != inf:
        return None
    return HistogramMapping(name, tuple(edges[:-1]), _pick([slots[bound] for bound in edges]), total, [])


def _scalar_mapping(entries: Iterable[Merged]) -> ScalarMapping:
    single: list[Merged] = []
    merged: list[Merged] = []
    for entry in entries:
        alone = len(entry.slots) == 1 and len(entry.slots[0]) == 1 and entry.factor == 1.0 and not entry.members
        (single if alone else merged).append(entry)
    return ScalarMapping(tuple(entry.key for entry in single), _pick([entry.slots[0][0] for entry in single]), merged)


def _adapters(labels: Mapping[str, str]) -> Adapters:
    def names(label: str) -> tuple[str, ...]:
        return tuple(sorted({name.strip() for name in labels.get(label, "").split(",")} - {""}))

    slots = labels.get("max_lora", "")
    return Adapters(
        names("running_lora_adapters"),
        names("waiting_lora_adapters"),
        int(slots) if slots.isdecimal() and len(slots) < 10 else None,
    )
