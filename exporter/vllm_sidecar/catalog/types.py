"""Types of the catalog; a signal that breaks a naming rule raises ValueError when the catalog is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum

PREFIX = "vllm_sidecar_"
RECORD_PREFIX = "vllm_sidecar:"
"""Prefix of the names of recording rules."""
RESERVED_LABELS = frozenset(
    (
        "instance",
        "job",
        "pod",
        "namespace",
        "container",
        "node",
        "service",
        "endpoint",
        "le",
        "quantile",
        "type",
        "target",
    )
)
"""Labels reserved by service discovery or the formats; the sidecar adds `target` itself if it has several targets."""


class Scope(StrEnum):
    """The object that a series describes; decides its labels."""

    ENGINE = "engine"
    """One data-parallel engine of one model: `model_name`, `engine`."""
    MODEL = "model"
    """All engines of one model: `model_name`."""
    TARGET = "target"
    """The server: no label of its own."""
    SIDECAR = "sidecar"
    """The sidecar's process: not even the labels of a target."""
    GPU = "gpu"
    """One GPU or MIG instance of the node: `gpu` (its index) and `uuid`; no labels of a target."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names that every series of the scope has."""
        return {"engine": ("model_name", "engine"), "model": ("model_name",), "gpu": ("gpu", "uuid")}.get(
            self.value, ()
        )


class Kind(StrEnum):
    """Type of a metric family as OpenMetrics names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    INFO = "info"


class Unit(Enum):
    """A unit: suffix of the metric's name, and its unit in Grafana."""

    NONE = ("", "short")
    SECONDS = ("seconds", "s")
    RATIO = ("ratio", "percentunit")
    BYTES = ("bytes", "bytes")
    TOKENS = ("tokens", "short")
    TOKENS_PER_SECOND = ("tokens_per_second", "count:tok/s")
    PER_SECOND = ("per_second", "reqps")
    TIMESTAMP = ("timestamp_seconds", "dateTimeAsIso")
    WATTS = ("watts", "watt")
    JOULES = ("joules", "joule")
    TOKENS_PER_JOULE = ("tokens_per_joule", "count:tok/J")
    HERTZ = ("hertz", "hertz")
    CELSIUS = ("celsius", "celsius")

    @property
    def suffix(self) -> str:
        """The end of the name of every metric in this unit (before `_total`)."""
        return self.value[0]

    @property
    def grafana(self) -> str:
        """Grafana's identifier of the unit."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Signal:
    """One exported metric family.

    `name` has no prefix and is how stages refer to it; `labels` are those beyond the scope's.
    `why_not_promql` explains why Prometheus could not compute a derived signal from the cumulative ones; it is None on
    signals that are not derived.
    """

    name: str
    kind: Kind
    unit: Unit
    help: str
    scope: Scope = Scope.ENGINE
    labels: tuple[str, ...] = ()
    why_not_promql: str | None = None
    further_labels: bool = False
    """An info that has labels chosen by the server, besides those that are named."""

    def __post_init__(self) -> None:
        stem = self.name.removesuffix("_total")
        problems = (
            (not re.fullmatch(r"[a-z][a-z0-9_]*", self.name), "has characters that a metric name must not have"),
            ((self.kind is Kind.COUNTER) != (stem != self.name), "ends in _total if and only if it is a counter"),
            ((self.kind is Kind.INFO) != self.name.endswith("_info"), "ends in _info if and only if it is an info"),
            (not stem.endswith(self.unit.suffix), f"does not end in its unit {self.unit.suffix}"),
            (bool(RESERVED_LABELS & set(self.labels)), "has a reserved label"),
            (self.further_labels and self.kind is not Kind.INFO, "has further labels and is not an info"),
            (not self.help.endswith("."), "has a help text that is not a sentence"),
        )
        for broken, text in problems:
            if broken:
                raise ValueError(f"signal {self.name} {text}")

    @property
    def metric(self) -> str:
        """Full name of the metric family, with `_total` or `_info`."""
        return PREFIX + self.name

    @property
    def label_names(self) -> tuple[str, ...]:
        """All label names but those of the target."""
        return self.scope.labels + self.labels


class Merge(StrEnum):
    """How series that differ only in labels that are not exported are merged."""

    SUM = "sum"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A signal that vLLM itself exposes.

    `aliases` are its names without prefix over vLLM's history, the best first; the first that is exposed is used,
    never two. Counters are matched with and without `_total` (Ray drops it).
    """

    signal: Signal
    aliases: tuple[str, ...]
    merge: Merge = Merge.SUM
    checklist: bool = False
    """A server that does not expose it is reported as missing it."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A signal that the sidecar computes from windows; `reads` are the upstream signals behind it.

    `derive.registry` has the function that computes it.
    """

    signal: Signal
    reads: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.signal.why_not_promql:
            raise ValueError(f"signal {self.signal.name} does not explain why Prometheus could not compute it")
