"""One poll of a server under canonical names: the values of each engine, each model and the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from vllm_sidecar.catalog.types import Scope

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vllm_sidecar.exposition.metric_values import Histogram


T = TypeVar("T")

Key = str | tuple[str, ...]
"""Canonical signal name, or the name followed by the values of its labels beyond those of its scope."""


class Reading(NamedTuple):
    """The values of one group (an engine, a model, the server) at one poll, under canonical names."""

    counters: Mapping[Key, float]
    gauges: Mapping[Key, float]
    histograms: Mapping[str, Histogram]

    def counter(self, key: Key) -> float | None:
        """Return a counter; None without it."""
        return self.counters.get(key)

    def histogram(self, name: str) -> Histogram | None:
        """Return a histogram; None without it."""
        return self.histograms.get(name)


class Group(NamedTuple):
    """The group of a reading: the scope and the values of the scope's labels."""

    scope: Scope
    labels: tuple[str, ...]


TARGET = Group(Scope.TARGET, ())


MOST_ABSENT = 1000
"""Series of a group that are remembered although the last poll lacked them."""


def drop_absent(known: dict[Key, T], present: Collection[Key]) -> None:
    """Forget the series of a group that a poll lacks if they are too many: a server makes up new ones all the time."""
    if len(known) > len(present) + MOST_ABSENT:
        for key in known.keys() - set(present):
            del known[key]


class Engine(NamedTuple):
    """One engine: its group, and the labels of its series besides their own dimensions."""

    group: Group
    labels: Mapping[str, str]


class Adapters(NamedTuple):
    """The newest `lora_requests_info`: names of LoRA adapters with running and with waiting requests.

    `slots` is --max-loras, None if the front end does not expose it. From vLLM 0.11.1 each adapter with any request
    is in both lists, so equal lists do not distinguish running from waiting.
    """

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    slots: int | None


@dataclass(frozen=True, slots=True)
class Dialect:
    """The names and labels of this server, all read from the exposition, none from a version number."""

    prefix: str
    """Prefix of vLLM's own names, such as `vllm:` or `ray_vllm_`."""
    engine: str
    """`v1` if series have an engine label, otherwise `v0` (also for v1 of 0.7 and 0.8.0 to 0.8.2)."""
    front_end: str
    """`rust` or `python`."""
    multiprocess: bool
    """Several API servers (prometheus_client's multiprocess mode): no process metrics, no creation times."""


@dataclass(frozen=True, slots=True)
class Readings:
    """One poll of one target, normalized."""

    groups: Mapping[Group, Reading]
    dialect: Dialect
    started: float | None
    """Unix time of the API server's start, None where it is not exposed (multiprocess mode, Rust front end)."""
    created: Mapping[Group, float]
    """Unix time at which a group's counters were created, where the server exposes it."""
    cache_config: Mapping[Group, Mapping[str, str]]
    """Whitelisted labels of `cache_config_info` per engine; without a model if its engine is unknown."""
    adapters: Adapters | None
    """None if LoRA is off or has not been used."""
    sources: Mapping[str, tuple[str, ...]]
    """Canonical signal -> the name under which this server exposes it."""
    missing: tuple[str, ...]
    """Signals of the checklist that this server does not expose (or not yet)."""
    unknown: tuple[str, ...]
    """The first of the vLLM families that are not in the catalog: from a newer vLLM than this release."""
    anomalies: Mapping[str, int]
    """Values left out at this poll, by kind (see `vllm.normalize`)."""
    engines: Mapping[Group, Engine] = field(default_factory=dict)
    """The engines, with their original labels."""
    unknown_labels: tuple[str, ...] = ()
    """Labels of known families that are not in the catalog; they distinguish engines where they differ."""
    unattributed: tuple[str, ...] = ()
    """The first of the families with series that are left out because they belong to no engine, or to several."""
    not_an_engine: str = ""
    """Kind of the server if it is not an engine; empty if it is one, and if the kind is unknown."""
    unknown_count: int = 0
    """How many families are not in the catalog."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """How much this poll lacks because of a limit, by the name of the limit (see `catalog.limits`)."""
    jumped: frozenset[Group] = frozenset()
    """Groups with a counter that rose by more than a server can count, and stayed there: no increase spans it."""
