"""The push over OTLP: the metrics that are sent, why a push fails, and the metrics about pushes."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.types import PREFIX, Kind, Scope, Signal, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping


class OtlpMetric(NamedTuple):
    """One metric that is sent."""

    signal: str
    """The signal whose series it has."""
    name: str
    gen_ai: bool = False
    """It is one of the GenAI semantic conventions, and has their attributes."""


GEN_AI_METRICS = (
    OtlpMetric("time_to_first_token_seconds", "gen_ai.server.time_to_first_token", gen_ai=True),
    OtlpMetric("time_per_output_token_seconds", "gen_ai.server.time_per_output_token", gen_ai=True),
    OtlpMetric("request_seconds", "gen_ai.server.request.duration", gen_ai=True),
)
"""Metrics of model servers in the GenAI semantic conventions (open-telemetry/semantic-conventions-genai), in status
development."""

_OWN_NAMES = (
    "inter_token_latency_seconds",
    "request_queue_seconds",
    "request_prefill_seconds",
    "request_decode_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "prompt_tokens_total",
    "generation_tokens_total",
    "requests_finished_total",
    "requests_corrupted_total",
    "preemptions_total",
    "prefix_cache_queried_tokens_total",
    "prefix_cache_hit_tokens_total",
    "requests_running",
    "requests_waiting",
    "kv_cache_usage_ratio",
    "recent_time_to_first_token_seconds",
    "recent_inter_token_latency_seconds",
    "recent_request_seconds",
    "recent_requests_per_second",
    "recent_prompt_tokens_per_second",
    "recent_generation_tokens_per_second",
    "recent_cache_hit_ratio",
    "recent_error_ratio",
    "live_queue_wait_seconds",
    "kv_cache_pressure_ratio",
    "saturation_ratio",
    "progress_age_seconds",
    "stalled",
    "slo_requests_total",
    "slo_good_requests_total",
    "server_start_timestamp_seconds",
    "server_restarts_total",
    "up",
    "last_success_timestamp_seconds",
    "poll_failures_total",
    "gpu_utilization_ratio",
    "gpu_memory_used_bytes",
    "gpu_memory_total_bytes",
    "gpu_power_watts",
    "gpu_energy_joules_total",
    "gpu_temperature_celsius",
    "gpu_throttled",
    "gpu_lost",
    "gpu_xid_errors_total",
)
OTLP_METRICS = (*GEN_AI_METRICS, *(OtlpMetric(name, PREFIX + name) for name in _OWN_NAMES))

MODEL_ATTRIBUTE = "gen_ai.request.model"
"""Attribute of the GenAI conventions instead of the label `model_name`."""
GEN_AI_ATTRIBUTES: Mapping[str, str] = MappingProxyType(
    {"gen_ai.operation.name": "inference", "gen_ai.provider.name": "vllm"}
)
"""Attributes that the conventions require. vLLM's histograms contain chats and completions together, so the operation
is neither; values of one's own are allowed."""

UCUM: Mapping[Unit, str] = MappingProxyType(
    {
        Unit.NONE: "",
        Unit.SECONDS: "s",
        Unit.RATIO: "1",
        Unit.BYTES: "By",
        Unit.TOKENS: "{token}",
        Unit.TOKENS_PER_SECOND: "{token}/s",
        Unit.PER_SECOND: "{request}/s",
        Unit.TIMESTAMP: "s",
        Unit.WATTS: "W",
        Unit.JOULES: "J",
        Unit.TOKENS_PER_JOULE: "{token}/J",
        Unit.HERTZ: "Hz",
        Unit.CELSIUS: "Cel",
    }
)
"""Units in UCUM. None for plain numbers: receivers would append `_ratio` to the name of a gauge in `1`."""


class PushReason(StrEnum):
    """Why a push fails: a label value, so the set is closed."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS = "tls"
    CREDENTIALS = "credentials"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    INTERNAL = "internal"


PUSH_HINTS: Mapping[PushReason, str] = MappingProxyType(
    {
        PushReason.UNREACHABLE: "No connection to the receiver, or it ended without an answer. Check the host and port "
        "of otlp.url, and network policies for the sidecar's connections.",
        PushReason.TIMEOUT: "The receiver did not answer within otlp.timeout. Check its load, or raise the timeout.",
        PushReason.TLS: "TLS failed; the detail says why. Check ca_file, cert_file and the name in otlp.url.",
        PushReason.CREDENTIALS: "A file with a token, a header or a certificate cannot be read. Check its path, its "
        "permissions and its content.",
        PushReason.UNAUTHORIZED: "The receiver refuses the credentials (401 or 403). Check the token and the headers.",
        PushReason.NOT_FOUND: "The receiver has no OTLP on this path (404 or 405). otlp.url is the whole address, such "
        "as http://HOST:4318/v1/metrics; Prometheus needs --web.enable-otlp-receiver.",
        PushReason.TOO_LARGE: "The receiver refuses the size of a push (413). Raise its limit, or use more sidecars.",
        PushReason.THROTTLED: "The receiver wants fewer pushes (429). The sidecar waits as long as it demands; raise "
        "otlp.interval or the receiver's limit.",
        PushReason.UNAVAILABLE: "The receiver, or a proxy before it, cannot take metrics now (502, 503 or 504). The "
        "next push contains what this one would have.",
        PushReason.REFUSED: "The receiver refuses the push with another status. The detail has the receiver's message, "
        "which names the cause, such as a temporality or a kind of histogram that it does not support.",
        PushReason.INTERNAL: "This was not expected and may be a bug of the sidecar: report it with the detail from "
        "the log.",
    }
)
"""Advice for operators, by reason."""


def _signal(name: str, kind: Kind, text: str, *labels: str, unit: Unit = Unit.NONE) -> Signal:
    return Signal(name, kind, unit, text, Scope.SIDECAR, labels)


OTLP: tuple[Signal, ...] = (
    _signal("otlp_pushes_total", Kind.COUNTER, "Pushes over OTLP that ended, failed ones included."),
    _signal("otlp_push_failures_total", Kind.COUNTER, "Failed pushes over OTLP by reason.", "reason"),
    _signal("otlp_rejected_points_total", Kind.COUNTER,
            "Data points that the receiver left out of a push that it accepted; the log has its message."),
    _signal("otlp_last_success_timestamp_seconds", Kind.GAUGE, "Unix time of the last push that the receiver accepted.",
            unit=Unit.TIMESTAMP),
    _signal("otlp_push_duration_seconds", Kind.GAUGE, "Duration of the last push, from collecting to the answer.",
            unit=Unit.SECONDS),
    _signal("otlp_push_cpu_seconds_total", Kind.COUNTER, "CPU time of making the bodies of pushes.",
            unit=Unit.SECONDS),
    _signal("otlp_push_bytes", Kind.GAUGE, "Size of the body of the last push as it was sent.", unit=Unit.BYTES),
    _signal("otlp_push_points", Kind.GAUGE, "Data points of the last push."),
)  # fmt: skip
