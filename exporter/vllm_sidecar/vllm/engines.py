"""Series -> their engine, computed once per layout.

Any label that is not a dimension of its family identifies an engine: the data-parallel rank, the stage and the replica
of an omni pipeline, the version of a model, a worker, or a label that a proxy added. Unknown labels never cause engines
to be merged.

The name of an engine consists of the labels that are known to identify one. An unknown label is added only where two
engines would otherwise have the same name; a label with a constant value is never added. The name of an engine does not
change as long as the engine exists.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog import upstream
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.readings import Engine, Group

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from vllm_sidecar.exposition.layout import Labels

MAX_ENGINES = 256
"""Most engines per target; the series of others are left out and counted."""
MAX_IDENTITIES = 2
"""Sets of labels that are compared with each other are at most this many times the limit of engines: some families of
an engine may have fewer labels than others."""
MAX_SHAPES = 16
"""Most sets of label names that are compared with each other; a server has one or two."""
MAX_EXTRA_LABELS = 8
"""Most unknown labels that names can contain; engines that differ in others get a hash."""
MAX_NAME = 40
"""Longest value of the label `engine`."""
REMEMBERED = 4
"""Names are remembered for this many times the limit of engines."""
UNNUMBERED = "0"
"""The name of the engine where a server has only one and no label for it."""

UNATTRIBUTED = "unattributed"
TOO_MANY = "too_many_engines"


class EngineIdentity(NamedTuple):
    """The engine labels of a series: the model (empty without its label) and the labels that are not a dimension."""

    model: str
    labels: Labels


class Assigned(NamedTuple):
    """The engine of each identity, and why the others have none."""

    engines: Mapping[EngineIdentity, Engine]
    refused: Mapping[EngineIdentity, str]

    @property
    def by_group(self) -> dict[Group, Engine]:
        """All engines, once each."""
        return {engine.group: engine for engine in self.engines.values()}

    def matching(self) -> Callable[[Mapping[str, str]], Engine | None]:
        """Return a function that finds the one engine that matches a series in all labels that engines have."""
        engines = list(self.by_group.values())
        names = {name for engine in engines for name in engine.labels} | set(upstream.MODEL_LABELS)
        indices: dict[frozenset[str], dict[Labels, list[Engine]]] = {}

        def find(labels: Mapping[str, str]) -> Engine | None:
            wanted = {name: value for name, value in labels.items() if name in names}
            index = indices.get(frozenset(wanted))
            if index is None:
                index = indices[frozenset(wanted)] = defaultdict(list)
                for engine in engines:
                    own = {**dict.fromkeys(upstream.MODEL_LABELS, engine.group.labels[0]), **engine.labels}
                    index[tuple((name, own.get(name, "")) for name in sorted(wanted))].append(engine)
            found = index.get(tuple(sorted(wanted.items())), ())
            return found[0] if len(found) == 1 else None

        return find


@dataclass(slots=True)
class _Cluster:
    """Identities that are one engine: some families may have fewer labels than others."""

    members: list[EngineIdentity]
    families: set[str]
    heaviest: EngineIdentity
    """The member with the most families: the name is remembered for it."""
    weight: int
    model: str
    labels: dict[str, str]

    def join(self, identity: EngineIdentity, families: Collection[str]) -> None:
        self.members.append(identity)
        self.families |= set(families)
        self.model = self.model or identity.model
        self.labels |= dict(identity.labels)
        if len(families) > self.weight:
            self.heaviest, self.weight = identity, len(families)


class Engines:
    """The engines of one target, and their names."""

    def __init__(self, limit: int = MAX_ENGINES) -> None:
        self._limit = limit
        self._names: OrderedDict[EngineIdentity, str] = OrderedDict()
        self._holders: dict[tuple[str, str], EngineIdentity] = {}
        self._extra_labels: list[str] = []
        """Unknown labels in which two engines were found to differ, in the order of their discovery."""

    def assign(self, found: Mapping[EngineIdentity, Collection[str]], served: str | None = None) -> Assigned:
        """Find the engines of the identities of a body, each with its families.

        `served` is the model's name for a body that does not contain it.
        """
        compared, refused = self._compared(found)
        clusters, ambiguous = _clusters(compared)
        refused |= ambiguous
        named: list[_Cluster] = []
        for cluster in clusters:
            cluster.model = cluster.model or served or ""
            if cluster.model:
                named.append(cluster)
            else:
                refused |= dict.fromkeys(cluster.members, UNATTRIBUTED)
        # Known engines first: new ones never take a name or a place from them.
        named.sort(key=lambda one: (self._key(one) not in self._names, one.heaviest))
        # Series without a model, next to the same series with the served one, may be of any engine.
        refused |= {one: UNATTRIBUTED for cluster in named for one in cluster.members}
        for cluster in named[self._limit :]:
            refused |= dict.fromkeys(cluster.members, TOO_MANY)
        engines: dict[EngineIdentity, Engine] = {}
        for cluster, name in self._name(named[: self._limit]):
            engine = Engine(Group(Scope.ENGINE, (cluster.model, name)), cluster.labels)
            engines |= dict.fromkeys(cluster.members, engine)
        return Assigned(engines, {one: why for one, why in refused.items() if one not in engines})

    def _compared(
        self, found: Mapping[EngineIdentity, Collection[str]]
    ) -> tuple[Mapping[EngineIdentity, Collection[str]], dict[EngineIdentity, str]]:
        """Return the identities that are compared with each other, known ones first, and those that are too many."""
        most = MAX_IDENTITIES * self._limit
        if len(found) <= most:
            return found, {}
        ranked = sorted(found, key=lambda one: (one not in self._names, -len(found[one])))
        kept = set(ranked[:most])
        return {one: families for one, families in found.items() if one in kept}, dict.fromkeys(ranked[most:], TOO_MANY)

    @staticmethod
    def _key(cluster: _Cluster) -> EngineIdentity:
        return EngineIdentity(cluster.model, cluster.heaviest.labels)

    def _name(self, clusters: Sequence[_Cluster]) -> Iterator[tuple[_Cluster, str]]:
        present = {self._key(cluster): cluster for cluster in clusters}
        self._find_extra_labels(clusters)
        for key, cluster in present.items():
            name = self._names.get(key)
            if name is None or not self._still_has(key, name, present):
                name = self._free_name(key, cluster, present)
            self._assign(key, name)
            yield cluster, name
        while len(self._names) > REMEMBERED * self._limit:
            old, name = self._names.popitem(last=False)
            if self._holders.get((old.model, name)) == old:
                del self._holders[old.model, name]

    def _find_extra_labels(self, clusters: Iterable[_Cluster]) -> None:
        """Find the labels that distinguish engines with the same known labels."""
        alike: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
        for cluster in clusters:
            alike[cluster.model, _base(cluster.labels)].append(cluster.labels)
        for several in alike.values():
            if len(several) > 1:
                self._distinguish(several)

    def _distinguish(self, several: Sequence[Mapping[str, str]]) -> None:
        """Select as few labels as possible; of labels that distinguish equally well, those with the shortest values."""

        def apart(names: Sequence[str]) -> int:
            return len({tuple(labels.get(name, "") for name in names) for labels in several})

        known = {*upstream.IDENTITY, *self._extra_labels}
        others = sorted({name for labels in several for name in labels} - known)[:MAX_EXTRA_LABELS]
        now = apart(self._extra_labels)
        while now < len(several) and others and len(self._extra_labels) < MAX_EXTRA_LABELS:
            lengths = {name: sum(len(labels.get(name, "")) for labels in several) for name in others}
            best = max(others, key=lambda name: (apart([*self._extra_labels, name]), -lengths[name]))
            better = apart([*self._extra_labels, best])
            if better == now:
                return
            self._extra_labels.append(best)
            others.remove(best)
            now = better

    def _still_has(self, key: EngineIdentity, name: str, present: Mapping[EngineIdentity, _Cluster]) -> bool:
        """Return whether an engine can use its name again; another may have taken it in its absence.

        If so, both exist at different times, as behind a load balancer; the labels in which they differ are used from
        now on.
        """
        holder = self._holders.get((key.model, name))
        if holder is None or holder == key:
            return True
        self._distinguish([dict(key.labels), dict(holder.labels)])
        if holder in present:
            return False
        self._names.pop(holder, None)
        return True

    def _free_name(self, key: EngineIdentity, cluster: _Cluster, present: Mapping[EngineIdentity, _Cluster]) -> str:
        for name in self._candidates(key, cluster.labels):
            holder = self._holders.get((key.model, name))
            if holder is None or holder == key or holder not in present:
                return name
        raise AssertionError("there is always one more candidate")

    def _candidates(self, key: EngineIdentity, labels: Mapping[str, str]) -> Iterator[str]:
        values = [labels[name] for name in self._extra_labels if labels.get(name)]
        full = "-".join([_base(labels), *values])
        yield _short(full)
        for salt in range(len(self._holders) + 1):
            digest = _digest(f"{salt or ''}{key!r}")
            yield f"{_clean(full)[: MAX_NAME - len(digest) - 1]}-{digest}"

    def _assign(self, key: EngineIdentity, name: str) -> None:
        self._names[key] = name
        self._names.move_to_end(key)
        self._holders[key.model, name] = key


def _clusters(found: Mapping[EngineIdentity, Collection[str]]) -> tuple[list[_Cluster], dict[EngineIdentity, str]]:
    """Group identities that are one engine, those with most labels first."""
    shapes = _shapes(found)
    cluster_of: dict[EngineIdentity, _Cluster] = {}
    clusters: list[_Cluster] = []
    refused: dict[EngineIdentity, str] = {}
    larger: list[tuple[frozenset[str], list[EngineIdentity]]] = []
    for index, (names, identities) in enumerate(shapes):
        if index >= MAX_SHAPES:
            refused |= dict.fromkeys(identities, UNATTRIBUTED)
            continue
        above = [_projected(names, others) for more, others in larger if names < more]
        for identity in identities:
            families = found[identity]
            around = (cluster_of.get(more) for index in above for more in index.get(identity, ()))
            matching = list({id(cluster): cluster for cluster in around if cluster}.values())
            if len(matching) > 1 and len(families) <= max(cluster.weight for cluster in matching):
                refused[identity] = UNATTRIBUTED  # it may belong to any of them, or to all
            elif len(matching) == 1 and not matching[0].families & set(families):
                matching[0].join(identity, families)
                cluster_of[identity] = matching[0]
            else:
                cluster = cluster_of[identity] = _Cluster(
                    [identity], set(families), identity, len(families), identity.model, dict(identity.labels)
                )
                clusters.append(cluster)
        larger.append((names, identities))
    return clusters, refused


_MODEL = ""
"""Represents the model in a set of label names."""


def _shapes(found: Iterable[EngineIdentity]) -> list[tuple[frozenset[str], list[EngineIdentity]]]:
    """Return identities by the names of their labels, those with most labels first."""
    shapes: dict[frozenset[str], list[EngineIdentity]] = defaultdict(list)
    for identity in found:
        names = frozenset(name for name, _ in identity.labels)
        shapes[names | {_MODEL} if identity.model else names].append(identity)
    return sorted(shapes.items(), key=lambda shape: (-len(shape[0]), sorted(shape[0])))


def _projected(
    names: frozenset[str], identities: Iterable[EngineIdentity]
) -> dict[EngineIdentity, list[EngineIdentity]]:
    """Return identities by the part of them that fewer labels leave."""
    index: dict[EngineIdentity, list[EngineIdentity]] = defaultdict(list)
    for identity in identities:
        labels = tuple(pair for pair in identity.labels if pair[0] in names)
        index[EngineIdentity(identity.model if _MODEL in names else "", labels)].append(identity)
    return index


def _base(labels: Mapping[str, str]) -> str:
    return "-".join(labels[name] for name in upstream.IDENTITY if labels.get(name)) or UNNUMBERED


def _short(text: str) -> str:
    """Return a text as a label value that is easy to type; a long one is cut and gets a hash."""
    cleaned = _clean(text)
    if len(cleaned) <= MAX_NAME:
        return cleaned
    digest = _digest(text)
    return f"{cleaned[: MAX_NAME - len(digest) - 1]}-{digest}"


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._:-]+", "_", text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


MAX_LABELS = 30
"""Most original labels of an engine that are exported."""
MAX_VALUE = 128
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def shown_labels(engine: Engine, taken: Collection[str]) -> dict[str, str]:
    """Return an engine's original labels as they can be exported next to those of the sidecar.

    A name that is `taken`, or reserved for service discovery, gets the prefix `exported_`, as in Prometheus; a value
    that is already the engine's name is left out.
    """
    shown: dict[str, str] = {}
    named = ((name, value) for name, value in sorted(engine.labels.items()) if _LABEL_NAME.fullmatch(name))
    for name, value in islice(named, MAX_LABELS):
        if name == "engine" and value == engine.group.labels[1]:
            continue
        free = name
        while free in taken or free in shown or free.startswith("__"):
            free = f"exported_{free}"
        shown[free] = value[:MAX_VALUE]
    return shown
