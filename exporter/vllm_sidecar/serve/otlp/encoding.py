"""Data points -> the request of OTLP as protobuf, and the answer to it; needs the extra `otlp`.

The messages of `opentelemetry-proto` are used without OpenTelemetry's SDK: its instruments count what they observe
themselves, and its data classes have no flag for the end of a series.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, DataPointFlags

from vllm_sidecar import __version__
from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.otlp import UCUM
from vllm_sidecar.catalog.types import Kind
from vllm_sidecar.exposition.metric_values import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.proto.metrics.v1.metrics_pb2 import (
        ExponentialHistogramDataPoint,
        HistogramDataPoint,
        Metric,
        NumberDataPoint,
        ScopeMetrics,
    )

    from vllm_sidecar.catalog.otlp import OtlpMetric
    from vllm_sidecar.serve.otlp.narrow import Exponential
    from vllm_sidecar.serve.otlp.points import Attributes
    from vllm_sidecar.serve.otlp.streams import Collected, Sent

    AnyPoint = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint

_ENDED = DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
_MOST_ATTRIBUTES = 50_000
"""Attributes of series that are remembered as messages."""


class Encoder:
    """Writes requests with one resource; remembers the messages of attributes."""

    def __init__(self, resource: Mapping[str, str], window_seconds: float, *, delta: bool) -> None:
        self._resource = [_pair(name, value) for name, value in resource.items()]
        self._window = f"{window_seconds:g} s"
        self._temporality = (
            AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
            if delta
            else AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        )
        self._attributes: dict[Attributes, list[KeyValue]] = {}

    def encode(self, collected: Collected) -> bytes:
        """Return the bytes of a request."""
        request = ExportMetricsServiceRequest()
        resource = request.resource_metrics.add()
        resource.resource.attributes.extend(self._resource)
        scope = resource.scope_metrics.add()
        scope.scope.name, scope.scope.version = "vllm-sidecar", __version__
        metrics: dict[tuple[str, type], Metric] = {}
        at = _nanoseconds(collected.at)
        for rows, flags in ((collected.sent, 0), (collected.ended, _ENDED)):
            for sent in rows:
                point = self._add(metrics, scope, sent)
                point.time_unix_nano = at
                point.attributes.extend(self._pairs(sent.point.attributes))
                if sent.point.is_counted:
                    point.start_time_unix_nano = _nanoseconds(sent.start)
                point.flags = flags
        return request.SerializeToString()

    def _add(self, metrics: dict[tuple[str, type], Metric], scope: ScopeMetrics, sent: Sent) -> AnyPoint:
        """Add a point with its value to its metric, which the first point adds."""
        which = (sent.point.key.metric.name, type(sent.value))
        metric = metrics.get(which)
        if metric is None:
            metric = metrics[which] = scope.metrics.add()
            self._describe(metric, sent.point.key.metric)
        value = sent.value
        if isinstance(value, float):
            if not sent.point.is_counted:
                return metric.gauge.data_points.add(as_double=value)
            metric.sum.aggregation_temporality, metric.sum.is_monotonic = self._temporality, True
            return metric.sum.data_points.add(as_double=value)
        if isinstance(value, Histogram):
            metric.histogram.aggregation_temporality = self._temporality
            return _explicit(metric.histogram.data_points.add(), value)
        metric.exponential_histogram.aggregation_temporality = self._temporality
        return _exponential(metric.exponential_histogram.data_points.add(), value)

    def _describe(self, metric: Metric, of: OtlpMetric) -> None:
        signal = SIGNALS[of.signal]
        metric.name, metric.unit = of.name, UCUM[signal.unit]
        if signal.kind is Kind.COUNTER and not metric.unit:
            metric.unit = "{count}"
        metric.description = signal.help.replace("{window}", self._window)

    def _pairs(self, attributes: Attributes) -> list[KeyValue]:
        found = self._attributes.get(attributes)
        if found is None:
            if len(self._attributes) > _MOST_ATTRIBUTES:
                self._attributes.clear()
            found = self._attributes[attributes] = [_pair(name, value) for name, value in attributes]
        return found


def rejected(body: bytes) -> tuple[int, str]:
    """Return how many points the receiver left out, and its message, according to the body of its answer."""
    answer = ExportMetricsServiceResponse()
    try:
        answer.ParseFromString(body)
    except DecodeError:  # some receivers answer with text
        return 0, ""
    return answer.partial_success.rejected_data_points, answer.partial_success.error_message


def _pair(name: str, value: str) -> KeyValue:
    return KeyValue(key=name, value=AnyValue(string_value=value))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _explicit(point: HistogramDataPoint, value: Histogram) -> HistogramDataPoint:
    counts = [round(count) for count in value.cumulative]
    point.explicit_bounds.extend(value.bounds)
    point.bucket_counts.extend([counts[0], *(after - before for before, after in pairwise(counts))])
    point.count = counts[-1]
    if value.total is not None:
        point.sum = value.total
    return point


def _exponential(point: ExponentialHistogramDataPoint, value: Exponential) -> ExponentialHistogramDataPoint:
    point.scale, point.zero_count, point.count = value.scale, value.zeros, value.observations
    if value.total is not None:
        point.sum = value.total
    if value.buckets:
        first = min(value.buckets)
        point.positive.offset = first
        point.positive.bucket_counts.extend(value.buckets.get(i, 0) for i in range(first, max(value.buckets) + 1))
    return point
