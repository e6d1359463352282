"""Series of a sidecar, from its own /metrics or from Prometheus -> readings under canonical names."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import PREFIX, Scope
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.readings import TARGET, Adapters, Dialect, Group, Reading, Readings
from vllm_sidecar.tools.shape.traffic import FINISHED, HISTOGRAMS, HITS, HTTP, QUERIED, RUNNING, WAITING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Sample = tuple[str, Mapping[str, str], float]

ADAPTERS = "lora_adapter_active"
BLOCK_SIZE = "config_block_size_tokens"
LABELS = {
    FINISHED: ("finished_reason",),
    WAITING: ("reason",),
    HTTP: ("handler", "method", "status"),
    ADAPTERS: ("lora_adapter", "state"),
    **dict.fromkeys((RUNNING, HITS, QUERIED, BLOCK_SIZE), ()),
}
"""Signals other than histograms that a shape reads, with their labels."""
NAMES = (
    *(PREFIX + name for name in LABELS),
    *(f"{PREFIX}{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum")),
)
"""Names of all series that are read."""
OWN_LABELS = frozenset(
    ("__name__", "le", "model_name", "engine", *(label for each in LABELS.values() for label in each))
)
"""Labels of the series themselves; all others name the server."""
_GAUGES = frozenset((RUNNING, WAITING))


def readings_of(samples: Iterable[Sample]) -> Readings:
    """Return the readings of one server at one time; only what a shape reads."""
    counters: dict[Group, dict[str | tuple[str, ...], float]] = defaultdict(dict)
    gauges: dict[Group, dict[str | tuple[str, ...], float]] = defaultdict(dict)
    buckets: dict[tuple[Group, str], dict[float, float]] = defaultdict(dict)
    sums: dict[tuple[Group, str], float] = {}
    adapters: set[str] = set()
    block_size: dict[Group, dict[str, str]] = {}
    for metric, labels, value in samples:
        name = metric.removeprefix(PREFIX)
        group = _group(labels)
        if name == ADAPTERS:
            adapters.add(labels.get("lora_adapter", ""))
        elif name == BLOCK_SIZE:
            block_size[group] = {"block_size": f"{value:.0f}"}
        elif name in LABELS:
            values = tuple(labels.get(label, "") for label in LABELS[name])
            (gauges if name in _GAUGES else counters)[group][(name, *values) if values else name] = value
        else:
            stem, _, part = name.rpartition("_")
            if part == "bucket" and "le" in labels:
                buckets[group, stem][float(labels["le"])] = value
            elif part == "sum":
                sums[group, stem] = value
    histograms: dict[Group, dict[str, Histogram]] = defaultdict(dict)
    for (group, name), found in buckets.items():
        bounds = sorted(found)
        finite = tuple(bound for bound in bounds if bound != float("inf"))
        if len(finite) < len(bounds):
            cumulative = tuple(found[bound] for bound in bounds)
            histograms[group][name] = Histogram(finite, cumulative, sums.get((group, name)))
    groups = {
        group: Reading(counters[group], gauges[group], histograms[group]) for group in {*counters, *gauges, *histograms}
    }
    return Readings(
        groups=groups,
        dialect=Dialect(PREFIX, "v1", "python", multiprocess=True),
        started=None,
        created={},
        cache_config=block_size,
        adapters=Adapters(tuple(sorted(adapters)), (), None) if adapters else None,
        sources={},
        missing=(),
        unknown=(),
        anomalies={},
    )


def _group(labels: Mapping[str, str]) -> Group:
    if "engine" in labels:
        return Group(Scope.ENGINE, (labels.get("model_name", ""), labels["engine"]))
    return Group(Scope.MODEL, (labels["model_name"],)) if "model_name" in labels else TARGET
