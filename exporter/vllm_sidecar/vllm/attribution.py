"""Attribution, once per layout: the engine, the model or the server that each series describes.

Every decision depends on the series that are present, never on a version number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog import upstream
from vllm_sidecar.catalog.types import Kind, Scope
from vllm_sidecar.series.readings import Group
from vllm_sidecar.vllm.engines import TOO_MANY, UNATTRIBUTED, UNNUMBERED, Assigned, EngineIdentity, Engines
from vllm_sidecar.vllm.names import PARTS, Names, family_of, only_engines

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from vllm_sidecar.exposition.layout import Labels, Layout

    Pick = Callable[[Sequence[float]], tuple[float, ...]]


AT_ONCE = 1000
"""Series that are sorted in one go."""
MAX_LABEL = 512
"""Characters of the longest label value of a series that is read, except the list of LoRA adapters. It would be
repeated on each series of its engine."""


def _dimensions(scope: Scope) -> dict[str, frozenset[str]]:
    """Return the sample names of a scope, each with the labels that are not part of an identity."""
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


class Found(NamedTuple):
    """One series under vLLM's own name without its prefix."""

    slot: int
    pairs: Labels
    labels: dict[str, str]
    name: str
    """The original name from the server."""


class _Alike(NamedTuple):
    """Series with the same engine labels; their families, and the original names of these."""

    identity: EngineIdentity
    slots: list[int]
    families: set[str]
    written: set[str]


class Attribution:
    """The series of one layout, each with its engine or model; `attribute` makes it.

    `served` is the model's name for a body that does not contain it.
    """

    def __init__(self, layout: Layout, served: str | None) -> None:
        self.layout, self.served = layout, served
        self.names = Names(layout)
        self.prefix = next(iter(self.names.prefixes), "")
        self.series: dict[str, list[Found]] = defaultdict(list)
        """Series under vLLM's names, by the name without its prefix."""
        self.plain: dict[str, list[Found]] = defaultdict(list)
        """All others by their name."""
        self.anomalies: dict[str, int] = {}
        self.alike: list[_Alike] = []
        self.engine_groups: dict[int, Group] = {}
        """Slot of a series of an engine -> the group of that engine."""
        self.unknown_labels: set[str] = set()
        self.unattributed: set[str] = set()
        self.assigned = Assigned({}, {})
        self.only_model: str | None = None
        """The model of all engines, otherwise the served one; None if there are several."""
        self.cache_config: dict[Group, dict[str, str]] = {}
        self.limits: Counter[str] = Counter()
        """How much was left out because of a limit, by the name of the limit."""

    def steps(self, engines: Engines) -> Generator[None, None, None]:
        """Fill the tables; `engines` remembers the names of the target's engines."""
        yield
        yield from self._sort()
        yield from self._identify()
        yield from self._assign(engines)
        yield from self._find_cache_config()

    def _sort(self) -> Generator[None, None, None]:
        """Sort the series by name; a name under several prefixes is read under the best one."""
        by_prefix: dict[str, dict[str, list[Found]]] = {prefix: defaultdict(list) for prefix in self.names.prefixes}
        for slot, (written, labels) in enumerate(self.layout.series):
            if slot % AT_ONCE == 0:
                yield
            prefix, name = self.names.split.get(written, ("", ""))
            if name != upstream.LORA_INFO and any(len(value) > MAX_LABEL for _, value in labels):
                self.limits["label_length"] += 1
                continue
            found = Found(slot, labels, dict(labels), written)
            table = by_prefix.get(prefix)
            if table is None:
                self.plain[written].append(found)
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

    def not_an_engine(self) -> str:
        """Return what the server is if it is not an engine; empty for engines, and if it is unknown."""
        if not self.names.prefixes:
            names = {*self.plain, *self.layout.families}
            known = (what for start, what in upstream.OTHER_PROGRAMS if any(name.startswith(start) for name in names))
            return next(known, "")
        backends = self._backends()
        if backends:
            return f"a program that repeats the metrics of several servers, by its label {backends}"
        if any(only_engines(names) for names in self.names.by_prefix.values()):
            return ""
        return "a program with vLLM's metric names but without the metrics of an engine"

    def _backends(self) -> str:
        """Return the label with addresses of several servers; empty if there is none."""
        addresses: dict[str, set[str]] = defaultdict(set)
        for alike in self.alike:
            for label, value in alike.identity.labels:
                if value.startswith(upstream.ADDRESSES) and label not in upstream.MODEL_LABELS:
                    addresses[label].add(value)
        return next((label for label, values in sorted(addresses.items()) if len(values) > 1), "")

    def _identify(self) -> Generator[None, None, None]:
        """Collect the engine labels of all series of engines."""
        found: dict[Labels, _Alike] = {}
        for name, dimensions in _OF_ENGINES.items():
            yield
            for place, (slot, pairs, _, written) in enumerate(self.series.get(name, ())):
                if place % AT_ONCE == 0:
                    yield
                rest = tuple([pair for pair in pairs if pair[0] not in dimensions])
                alike = found.get(rest)
                if alike is None:
                    alike = found[rest] = _Alike(_identity(rest), [], set(), set())
                alike.slots.append(slot)
                alike.families.add(name)
                alike.written.add(written)
        self.alike = list(found.values())

    def _assign(self, engines: Engines) -> Generator[None, None, None]:
        """Find the engine of each series of an engine."""
        families: dict[EngineIdentity, set[str]] = defaultdict(set)
        for identity, _, names, _ in self.alike:
            families[identity] |= names
            self.unknown_labels.update(name for name, _ in identity.labels)
        yield
        self.assigned = engines.assign(families, self.served)
        models = {engine.group.labels[0] for engine in self.assigned.engines.values()}
        self.only_model = models.pop() if len(models) == 1 else self.served
        yield
        for identity, slots, _, written in self.alike:
            engine = self.assigned.engines.get(identity)
            if engine:
                self.engine_groups.update(dict.fromkeys(slots, engine.group))
            else:
                self.leave_out(self.assigned.refused[identity], len(slots), written)
        for name, dimensions in _OF_MODELS.items():
            for found in self.series.get(name, ()):
                self.unknown_labels |= found.labels.keys() - dimensions
        for found in self.plain[upstream.HTTP_REQUESTS.aliases[0]]:
            self.unknown_labels |= found.labels.keys() - _OF_HTTP
        self.unknown_labels -= {*upstream.IDENTITY, *upstream.MODEL_LABELS}

    def leave_out(self, why: str, count: int, written: Iterable[str]) -> None:
        """Count series that belong to no engine, and record the names of their families."""
        self.anomalies[why] = self.anomalies.get(why, 0) + count
        if why == TOO_MANY:
            self.limits["engines"] += count
        self.unattributed.update(written)

    def _find_cache_config(self) -> Generator[None, None, None]:
        find = self.assigned.matching()
        for place, found in enumerate(self.series[upstream.CACHE_CONFIG]):
            if place % AT_ONCE == 0:
                yield
            engine = find(found.labels)
            # The series belongs to an engine without other series yet, or to several engines.
            nobody = Group(Scope.ENGINE, ("", found.labels.get("engine", UNNUMBERED)))
            self.cache_config[engine.group if engine else nobody] = {
                key: found.labels[key] for key in upstream.CACHE_CONFIG_KEYS if key in found.labels
            }

    def group_of(self, scope: Scope, found: Found) -> Group | None:
        """Return the group of a series; None if it is unknown."""
        if scope is Scope.TARGET:
            return Group(scope, ())
        if scope is Scope.ENGINE:
            return self.engine_groups.get(found.slot)
        model = _model(found.labels) or self.only_model
        if model:
            return Group(scope, (model,))
        self.leave_out(UNATTRIBUTED, 1, (found.name,))
        return None


def attribute(layout: Layout, engines: Engines, served: str | None) -> Generator[None, None, Attribution]:
    """Attribute the series of a layout in steps; `engines` remembers the names of the target's engines."""
    attribution = Attribution(layout, served)
    yield from attribution.steps(engines)
    return attribution


def _model(labels: Mapping[str, str]) -> str:
    return next((labels[name] for name in upstream.MODEL_LABELS if labels.get(name)), "")


def _identity(pairs: Labels) -> EngineIdentity:
    return EngineIdentity(_model(dict(pairs)), tuple([pair for pair in pairs if pair[0] != "model_name" and pair[1]]))
