"""The KV cache of one engine: pressure that harms requests, and blocks that are never freed."""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import (
    ENGINE,
    LOGS,
    OF_MODEL,
    STALE_SECONDS,
    Alert,
    Severity,
    latency,
    number,
    ratio,
)

CACHE: tuple[Alert, ...] = (
    Alert(
        name="VllmKvCachePressure",
        severity=Severity.TICKET,
        hold="2m",
        expr=(
            "~kv_cache_pressure_ratio > <<pressure>> and on (<<E>>) "
            "(~recent_preemptions_per_request > <<preemptions>> or (~live_queue_wait_seconds > <<wait>> "
            "and on (<<E>>) (~recent_kv_cache_usage_peak_ratio > <<full>>))) "
            f"unless on (<<E>>) (~progress_age_seconds >= {STALE_SECONDS})"
        ),
        thresholds=(
            ratio(
                "pressure",
                0.5,
                "Score of KV pressure; above 0.5 only if requests are preempted, or wait for a nearly full cache.",
            ),
            number("preemptions", 0.05, "Preemptions per finished request."),
            latency("wait", 10, "Wait of a request that arrives now.", interactive=2, batch=120),
            ratio(
                "full",
                0.9,
                "KV-cache usage above which requests may wait for the cache, and not for a place in the batch.",
            ),
        ),
        summary=f"the KV cache of {ENGINE} is full and requests suffer",
        description="Requests are preempted and computed again, or wait longer than <<wait>> while the cache is nearly "
        "full. A full batch is a different limit: see vllm_sidecar_admission_limit.",
        cause="long prompts or long answers: compare the token histograms with yesterday's",
        first="PromQL: vllm_sidecar_recent_preemptions_per_request{" + OF_MODEL + "} and "
        "vllm_sidecar_kv_cache_free_tokens",
        dashboard="vllm-kv-cache",
    ),
    Alert(
        name="VllmPreemptionStorm",
        severity=Severity.TICKET,
        hold="2m",
        expr=(
            "~recent_preemptions_per_request > <<per_request>> "
            "and on (<<E>>) (increase(~preemptions_total[5m]) >= <<least_preemptions>>)"
        ),
        thresholds=(
            number("per_request", 0.5, "Preemptions per finished request."),
            number("least_preemptions", 30, "Below this many preemptions in five minutes it does not fire."),
        ),
        summary=f"{ENGINE} preempts {{{{ $value | humanize }}}} times per request",
        description="More than <<per_request>> preemptions per finished request: the GPU computes the same tokens "
        "again.",
        cause="too many sequences for the KV cache: --max-num-seqs is too high for these lengths",
        first="PromQL: rate(vllm_sidecar_preemptions_total{" + OF_MODEL + "}[5m]) next to "
        "vllm_sidecar_requests_running",
        dashboard="vllm-kv-cache",
    ),
    Alert(
        name="VllmKvCacheHeld",
        severity=Severity.TICKET,
        hold="2m",
        expr="~kv_cache_held_ratio > <<held>>",
        thresholds=(ratio("held", 0.5, "KV-cache usage while nothing runs or waits."),),
        summary=f"{{{{ $value | humanizePercentage }}}} of the KV cache of {ENGINE} is in use although nothing runs",
        description="These blocks are not freed: new requests find less and less room, and in the end none.",
        cause="prompts that a decode node never fetched from this prefill node, a leak, or frozen gauges",
        first=f"{LOGS}, and look for transfer, expired and nixl; then send one short request and look again",
        dashboard="vllm-kv-cache",
    ),
)
