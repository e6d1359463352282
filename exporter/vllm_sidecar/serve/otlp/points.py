"""Snapshots -> the values of the metrics that are pushed, each with its attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog import GPU_FIELDS, SIGNALS
from vllm_sidecar.catalog.otlp import GEN_AI_ATTRIBUTES, MODEL_ATTRIBUTE, OTLP_METRICS
from vllm_sidecar.catalog.types import Kind
from vllm_sidecar.catalog.upstream import UPSTREAM
from vllm_sidecar.exposition import number
from vllm_sidecar.exposition.grammar import parse_sample
from vllm_sidecar.exposition.metric_values import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vllm_sidecar.catalog.otlp import OtlpMetric
    from vllm_sidecar.exposition.metric_values import Histogram, Value
    from vllm_sidecar.serve.otlp.narrow import Exponential

    Samples = Mapping[str, Sequence[tuple[str, Value]]]
    Attributes = tuple[tuple[str, str], ...]

_OF_THE_SERVER = frozenset(entry.signal.name for entry in UPSTREAM)
_OF_THE_DRIVER = frozenset(entry.signal.name for entry in GPU_FIELDS)
_STARTED = "server_start_timestamp_seconds"
_MOST_TEXTS = 50_000
"""Texts of labels whose attributes are remembered."""


class Key(NamedTuple):
    """One series."""

    metric: OtlpMetric
    labels: str
    """Its labels as text; those of a quantile include the quantile."""


class Point(NamedTuple):
    """The value of one series."""

    key: Key
    attributes: Attributes
    value: float | Histogram | Exponential
    source: str
    """Name of its target, or of the GPUs."""
    began: float | None
    """Unix time at which its counter began at 0; None if unknown."""

    @property
    def is_counted(self) -> bool:
        """Whether it only grows, until its process ends."""
        return SIGNALS[self.key.metric.signal].kind in (Kind.COUNTER, Kind.HISTOGRAM)


class Points:
    """Makes the points of a push; remembers the attributes of labels."""

    def __init__(self, started: float) -> None:
        self._started = started
        """Unix time at which the sidecar's own counters began at 0."""
        self._attributes: dict[tuple[bool, str], Attributes] = {}

    def of(self, source: str, samples: Samples) -> Iterator[Point]:
        """Yield the points of a target, or of the GPUs."""
        if len(self._attributes) > _MOST_TEXTS:
            self._attributes.clear()
        server = next((value for _, value in samples.get(_STARTED, ()) if isinstance(value, float)), None)
        for metric in OTLP_METRICS:
            began = self._began(metric.signal, server)
            for labels, value in samples.get(metric.signal, ()):
                attributes = self._of_labels(metric.gen_ai, labels)
                if isinstance(value, Summary):
                    # As gauges: the summary of OTLP has sum and count, which the histogram has already.
                    for q, quantile in value.quantiles:
                        named = ("quantile", number(q))
                        key = Key(metric, f"{labels},{named[1]}")
                        yield Point(key, (*attributes, named), quantile, source, None)
                else:
                    yield Point(Key(metric, labels), attributes, value, source, began)

    def _began(self, signal: str, server: float | None) -> float | None:
        if signal in _OF_THE_SERVER:
            return server
        return None if signal in _OF_THE_DRIVER else self._started

    def _of_labels(self, gen_ai: bool, labels: str) -> Attributes:
        found = self._attributes.get((gen_ai, labels))
        if found is None:
            parsed = dict(parse_sample(f"series{{{labels}}} 0").series[1])
            if gen_ai:
                model = parsed.pop("model_name", "")
                parsed |= {**GEN_AI_ATTRIBUTES, **({MODEL_ATTRIBUTE: model} if model else {})}
            found = self._attributes[gen_ai, labels] = tuple(parsed.items())
        return found
