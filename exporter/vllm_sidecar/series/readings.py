"""One poll of a server under canonical names: what each engine, each model and the server exposed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.types import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.exposition.metric_values import Histogram


Key = str | tuple[str, ...]
"""Canonical signal name, or the name followed by the values of the labels that it has beyond its scope's."""


class Reading(NamedTuple):
    """What one group (an engine, a model, the server) said at one poll, under canonical names."""

    counters: Mapping[Key, float]
    gauges: Mapping[Key, float]
    histograms: Mapping[str, Histogram]


class Group(NamedTuple):
    """Whose reading it is: the scope and the values of the scope's labels."""

    scope: Scope
    labels: tuple[str, ...]


TARGET = Group(Scope.TARGET, ())


class Engine(NamedTuple):
    """One engine: its group, and the labels that its series have beside their own dimensions."""

    group: Group
    labels: Mapping[str, str]


class Adapters(NamedTuple):
    """The newest `lora_requests_info`: names of LoRA adapters with running and with waiting requests.

    `slots` is --max-loras, None where the front end does not tell. From vLLM 0.11.1 each adapter with any request
    stands in both lists, so lists that are equal do not tell running from waiting.
    """

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    slots: int | None


@dataclass(frozen=True, slots=True)
class Dialect:
    """How this server speaks: all of it read off the exposition, none from a version number."""

    prefix: str
    """What stands before vLLM's own names, such as `vllm:` or `ray_vllm_`."""
    engine: str
    """`v1` where series have an engine label, else `v0` (also the v1 of 0.7 and 0.8.0 to 0.8.2)."""
    front_end: str
    """`rust` or `python`."""
    multiprocess: bool
    """Several API servers (prometheus_client's multiprocess mode): no process metrics, no creation times."""


@dataclass(frozen=True, slots=True)
class Readings:
    """One poll of one target, normalised."""

    groups: Mapping[Group, Reading]
    dialect: Dialect
    started: float | None
    """Unix time of the API server's start, None where it does not tell (multiprocess mode, Rust front end)."""
    created: Mapping[Group, float]
    """Unix time at which a group's counters were made, where the server tells."""
    cache_config: Mapping[Group, Mapping[str, str]]
    """Whitelisted labels of `cache_config_info` per engine; without a model where it is of no engine known."""
    adapters: Adapters | None
    """None where LoRA is off or has not been used."""
    sources: Mapping[str, str]
    """Canonical signal -> the name it was read from, in this server's own dialect."""
    missing: tuple[str, ...]
    """Signals of the checklist that this server does not give (or not yet)."""
    unknown: tuple[str, ...]
    """vLLM families that the catalog does not know: a newer vLLM than this release."""
    anomalies: Mapping[str, int]
    """Values left out at this poll, by kind (see `normalise`)."""
    engines: Mapping[Group, Engine] = field(default_factory=dict)
    """The engines, with the labels that tell them apart as the server wrote them."""
    unknown_labels: tuple[str, ...] = ()
    """Labels of known families that the catalog does not know; they tell engines apart where they differ."""
    unattributed: tuple[str, ...] = ()
    """The first of the families with series that are left out because they are of no engine, or of several."""
    not_an_engine: str = ""
    """What the server is where it is no engine; empty where it is one, and where nothing tells."""
