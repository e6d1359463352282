"""Series of a sidecar, from its own endpoint or from Prometheus -> the compared values of one server."""

from __future__ import annotations

import re
from collections import defaultdict
from math import inf
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.tools.compare.measures import COUNTERS, GAUGES, HISTOGRAMS
from vllm_sidecar.tools.compare.observation import Values, add_gauges

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vllm_sidecar.tools.compare.observation import EngineKey

Sample = tuple[str, "Mapping[str, str]", float]
"""Name without the prefix, labels and value."""
_PART = re.compile(r"(\w+)_(bucket|sum|count)")


def canonical(name: str) -> str | None:
    """Return a name without the sidecar's prefix; None if it is another program's."""
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


def values_from(samples: Iterable[Sample]) -> Values:
    """Return the compared values among the series of one server at one time."""
    counters: dict[EngineKey, float] = {}
    gauges: dict[str, float] = {}
    buckets: dict[EngineKey, dict[float, float]] = defaultdict(dict)
    totals: dict[EngineKey, float] = {}
    for name, labels, value in samples:
        engine = (labels.get("model_name", ""), labels.get("engine", ""))
        part = _PART.fullmatch(name)
        if name in COUNTERS:
            counters[engine, (name, *(labels.get(each, "") for each in SIGNALS[name].labels))] = value
        elif name in GAUGES:
            add_gauges(gauges, [(name, value)])
        elif part and part[1] in HISTOGRAMS:
            key = (engine, (part[1],))
            if part[2] == "bucket":
                buckets[key][float(labels.get("le", "inf"))] = value
            elif part[2] == "sum":
                totals[key] = value
    histograms = {key: _histogram(found, totals.get(key)) for key, found in buckets.items() if inf in found}
    return Values(counters, histograms, gauges)


def _histogram(buckets: Mapping[float, float], total: float | None) -> Histogram:
    bounds = sorted(buckets)
    return Histogram(tuple(bounds[:-1]), tuple(buckets[bound] for bound in bounds), total)
