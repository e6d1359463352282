"""Mapping of one layout: the slots of a body behind each canonical value."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.series.readings import Adapters, Dialect, Engine, Group, Key
from vllm_sidecar.vllm.plausible import MOST_RATIO, most_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vllm_sidecar.exposition.layout import Labels
    from vllm_sidecar.vllm.plausible import Growing

    Pick = Callable[[Sequence[float]], tuple[float, ...]]


class Merged(NamedTuple):
    """A value made of several series: the largest of each inner list, then `merge` over the outer, times `factor`.

    The inner lists are series that differ in `pid` only: in prometheus_client's multiprocess mode every API server
    writes its own copy of one engine's gauge.
    """

    key: Key
    slots: list[list[int]]
    merge: Callable[[Iterable[float]], float]
    factor: float
    members: tuple[Labels, ...] = ()
    """For a counter that is a sum of several: the labels of each inner list. Members may appear and disappear."""


@dataclass(slots=True)
class ScalarMapping:
    """The slots of the counters or gauges of one group."""

    keys: tuple[Key, ...] = ()
    pick: Pick = field(default=lambda _: ())
    merged: list[Merged] = field(default_factory=list)
    ratios: tuple[Key, ...] = ()
    """Keys of ratios, which are at most 1."""


class HistogramMapping(NamedTuple):
    """The slots of one histogram of one group; `others` are further series to add up (copies of API servers)."""

    name: str
    bounds: tuple[float, ...]
    pick: Pick
    total: int | None
    others: list[tuple[Pick, int | None]]
    members: tuple[Labels, ...] = ()
    """Labels that distinguish it from the others, and the others from each other, if there are any."""


@dataclass(slots=True)
class GroupMapping:
    """All values of one group."""

    group: Group
    counters: ScalarMapping
    gauges: ScalarMapping
    histograms: list[HistogramMapping]
    waiting_sum: tuple[Key, ...]
    """The parts that add up to all waiting requests."""


@dataclass(slots=True)
class BodyMapping:
    """Mapping of one layout, as `normalize` uses it."""

    groups: list[GroupMapping]
    dialect: Dialect
    started: int | None
    created: list[tuple[Group, int]]
    engines: dict[Group, Engine]
    cache_config: dict[Group, dict[str, str]]
    adapters: list[list[tuple[int, Adapters]]]
    """LoRA infos by the engine that wrote them."""
    sources: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    unknown_labels: tuple[str, ...]
    unattributed: tuple[str, ...]
    not_an_engine: str
    anomalies: dict[str, int]
    unknown_count: int
    limits: dict[str, int]
    """How much was left out because of a limit, by the name of the limit."""
    growing: dict[int, Growing]
    counts: Pick
    """The `_count` of each histogram that has one."""
    totals: Pick
    """The +Inf bucket of each of these histograms, which is the same number."""

    def newest_adapters(self, values: Sequence[float]) -> Adapters | None:
        """Return the newest LoRA info of each engine by its value, a time; older ones remain exposed."""
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


def pick(slots: Sequence[int]) -> Pick:
    """Return a function that returns the values in these slots."""
    if len(slots) == 1:
        only = slots[0]
        return lambda values: (values[only],)
    return itemgetter(*slots) if slots else lambda _: ()


def bucket_bound(text: str) -> float | None:
    """Return the bound in a label `le`; None if it is not a number."""
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if bound != bound else bound


MAX_BUCKETS = 128
"""Most finite buckets of a histogram; vLLM has 40 at most. Of more, every few are merged: estimates take the square of
their number."""


def histogram_mapping(name: str, slots: dict[float, int], total: int | None) -> HistogramMapping | None:
    """Make the mapping of one histogram; None without finite bounds, or without +Inf."""
    edges = sorted(slots)
    if len(edges) < 2 or edges[-1] != inf:
        return None
    if len(edges) > MAX_BUCKETS + 1:
        # Buckets are cumulative, so without a bound two neighbors are one; the last finite bound stays.
        finite = len(edges) - 1
        edges = [*(edges[(place + 1) * finite // MAX_BUCKETS - 1] for place in range(MAX_BUCKETS)), inf]
    return HistogramMapping(name, tuple(edges[:-1]), pick([slots[bound] for bound in edges]), total, [])


def scalar_mapping(entries: Iterable[Merged]) -> ScalarMapping:
    """Make the mapping of counters or gauges: those of one series are picked at once, the others merged one by one."""
    single: list[Merged] = []
    merged: list[Merged] = []
    for entry in entries:
        alone = len(entry.slots) == 1 and len(entry.slots[0]) == 1 and entry.factor == 1.0 and not entry.members
        (single if alone else merged).append(entry)
    keys = tuple(entry.key for entry in single)
    ratios = tuple(key for key in (*keys, *(entry.key for entry in merged)) if most_of(key) == MOST_RATIO)
    return ScalarMapping(keys, pick([entry.slots[0][0] for entry in single]), merged, ratios)
