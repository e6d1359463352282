"""Signals of the service levels that the sidecar counts itself, poll by poll."""

from __future__ import annotations

from vllm_sidecar.catalog.types import Kind, Scope, Signal, Unit

AVAILABILITY = "availability"
"""Name of the objective that is counted from how requests end; it has no threshold."""

COUNTED = (
    "counted since the sidecar started, over restarts of the server. For latencies these are observations (of "
    "inter_token_latency: outputs, each of several tokens with speculation; use time_per_output_token there), for "
    "availability requests that finished, failed or were rejected, but not aborted ones; it has no engine label."
)

SLO: tuple[Signal, ...] = (
    Signal("slo_requests_total", Kind.COUNTER, Unit.NONE, f"Requests that an objective is about, {COUNTED}",
           Scope.MODEL, ("engine", "slo")),
    Signal("slo_good_requests_total", Kind.COUNTER, Unit.NONE,
           "Requests of slo_requests_total that met the objective: exact where its threshold is a bucket bound, "
           "otherwise estimated within the bucket of the threshold from counts and sums of the polls (see slo_exact).",
           Scope.MODEL, ("engine", "slo")),
    Signal("slo_exact", Kind.GAUGE, Unit.NONE,
           "1 where the threshold of a latency objective is a bucket bound, so that good requests are counted exactly, "
           "0 where they are estimated.",
           Scope.MODEL, ("engine", "slo")),
    Signal("slo_threshold_seconds", Kind.GAUGE, Unit.SECONDS,
           "Configured threshold up to which an observation of a latency objective is good.",
           Scope.MODEL, ("slo",)),
)  # fmt: skip
