"""Series that a sidecar exported -> readings under canonical names, as those of a poll of vLLM itself."""

from __future__ import annotations

import re
from collections import defaultdict
from math import inf
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.types import PREFIX, Kind, Scope
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.readings import TARGET, Adapters, Dialect, Group, Reading, Readings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from vllm_sidecar.exposition.layout import Exposition
    from vllm_sidecar.series.readings import Key

Sample = tuple[str, "Mapping[str, str]", float]
"""Name without the prefix, labels and value."""
PARTS = ("bucket", "sum")
"""Series of a histogram that are read: its count is the bucket of +Inf."""
ADAPTERS = "lora_adapter_active"
WITH_LORA = ("lora_slots_used", "lora_adapters_omitted")
"""Signals of servers with LoRA, also while no adapter has requests: the first needs --max-loras, the second more than
the lean profile.
"""
BLOCK_SIZE, WAITING = "config_block_size_tokens", "requests_waiting"
_PART = re.compile(rf"(\w+)_({'|'.join(PARTS)})")
_SCOPES = frozenset((Scope.ENGINE, Scope.MODEL, Scope.TARGET))
_DIALECT = Dialect(PREFIX, "v1", "python", multiprocess=True)


def metrics(signals: Iterable[str]) -> frozenset[str]:
    """Return the names of the series of these signals, with the prefix."""
    return frozenset(PREFIX + name for signal in signals for name in _series(signal))


def _series(signal: str) -> tuple[str, ...]:
    return tuple(f"{signal}_{part}" for part in PARTS) if SIGNALS[signal].kind is Kind.HISTOGRAM else (signal,)


def own_labels(signals: Iterable[str]) -> frozenset[str]:
    """Return the labels that the sidecar writes into these signals; all others name the server."""
    return frozenset(("__name__", "le", *(label for name in signals for label in SIGNALS[name].label_names)))


def by_target(exposition: Exposition, wanted: Collection[str]) -> dict[str, list[Sample]]:
    """Return the samples of each target of a sidecar; the only one may have no name.

    Args:
        exposition: A body of its /metrics.
        wanted: Names of series, of `metrics`.
    """
    found: dict[str, list[Sample]] = {}
    for (name, pairs), value in zip(exposition.layout.series, exposition.values, strict=True):
        if name in wanted:
            labels = dict(pairs)
            found.setdefault(labels.get("target", ""), []).append((name.removeprefix(PREFIX), labels, value))
    return found


def readings_of(samples: Iterable[Sample]) -> Readings:
    """Return the readings of one server at one time: what the samples contain, and nothing about its process."""
    values: dict[Kind, dict[Group, dict[Key, float]]] = {kind: defaultdict(dict) for kind in Kind}
    buckets: dict[tuple[Group, str], dict[float, float]] = defaultdict(dict)
    sums: dict[tuple[Group, str], float] = {}
    for name, labels, value in samples:
        part = _PART.fullmatch(name)
        signal = SIGNALS.get(part[1] if part else name)
        if signal is None or signal.scope not in _SCOPES:
            continue
        group = Group(signal.scope, tuple(labels.get(label, "") for label in signal.scope.labels))
        if part is None:
            own = tuple(labels.get(label, "") for label in signal.labels)
            values[signal.kind][group][(name, *own) if own else name] = value
        elif part[2] == "sum":
            sums[group, signal.name] = value
        elif "le" in labels:
            buckets[group, signal.name][float(labels["le"])] = value
    histograms: dict[Group, dict[str, Histogram]] = defaultdict(dict)
    for (group, name), found in buckets.items():
        if inf in found:  # otherwise the count is unknown
            bounds = sorted(found)
            cumulative = tuple(found[bound] for bound in bounds)
            histograms[group][name] = Histogram(tuple(bounds[:-1]), cumulative, sums.get((group, name)))
    counters, gauges = values[Kind.COUNTER], values[Kind.GAUGE]
    _add_waiting(gauges.values())
    return Readings(
        groups={
            group: Reading(counters[group], gauges[group], histograms[group])
            for group in {*counters, *gauges, *histograms}
        },
        dialect=_DIALECT,
        started=None,
        created={},
        cache_config=_cache_config(gauges[TARGET]),
        adapters=_adapters(gauges[TARGET]),
        sources={},
        missing=(),
        unknown=(),
        anomalies={},
    )


def _add_waiting(groups: Iterable[dict[Key, float]]) -> None:
    """Add the sum over the reasons, which readings of vLLM have too."""
    for gauges in groups:
        parts = [value for key, value in gauges.items() if key[0] == WAITING]
        if parts:
            gauges[WAITING] = sum(parts)


def _cache_config(gauges: Mapping[Key, float]) -> dict[Group, dict[str, str]]:
    size = gauges.get(BLOCK_SIZE)
    return {} if size is None else {TARGET: {"block_size": f"{size:.0f}"}}


def _adapters(gauges: Mapping[Key, float]) -> Adapters | None:
    """Return the adapters with requests, all as running: a sidecar counts those that wait, too."""
    used = {key[1] for key in gauges if key[0] == ADAPTERS}
    return Adapters(tuple(sorted(used)), (), None) if used or any(name in gauges for name in WITH_LORA) else None
