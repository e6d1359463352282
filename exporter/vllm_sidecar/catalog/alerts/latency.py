"""Waiting: in the queue, and between two tokens."""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.types import ENGINE, STATUS, Alert, Severity, latency, number

_AWAKE = " unless on (<<E>>) (~engine_sleeping == 1)"
_LIVE = f"{_AWAKE} unless on (<<E>>) (~gauges_stale == 1)"
"""The gauges of a server whose clients all left at once go on saying that they wait."""

LATENCY: tuple[Alert, ...] = (
    Alert(
        name="VllmQueueWaitHigh",
        severity=Severity.PAGE,
        hold="1m",
        expr="~live_queue_wait_seconds > <<wait>>" + _AWAKE,
        thresholds=(latency("wait", 10, "Wait of a request that arrives now.", interactive=2, batch=120),),
        summary=f"a request to {ENGINE} waits {{{{ $value | humanizeDuration }}}}",
        description="More than <<wait>> by what waits now and how fast it is admitted, not by what has finished.",
        cause=(
            "more load than one replica takes: vllm_sidecar_admission_limit names the limit (batch: --max-num-seqs or "
            "replicas; kv_cache: fewer or shorter requests; adapter: --max-loras; transfer: the KV connector)"
        ),
        first="PromQL: vllm_sidecar_admission_limit == 1; and " + STATUS,
        board="vllm-engine",
    ),
    Alert(
        name="VllmQueueBacklog",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            "sum without (reason) (~requests_waiting) > clamp_min(<<per_running>> * ~requests_running, <<requests>>)"
            + _LIVE
        ),
        thresholds=(
            number("per_running", 1, "Waiting requests per running one."),
            number("requests", 10, "Waiting requests below which a queue is none."),
        ),
        summary=f"{{{{ $value | humanize }}}} requests wait for {ENGINE}",
        description="More than run (and more than <<requests>>) for five minutes: it does not catch up by itself.",
        cause="load grew, answers became longer, or a replica less shares it",
        first="PromQL: sum by (instance) (vllm_sidecar_requests_waiting): one replica, or all of them?",
        board="vllm-overview",
    ),
    Alert(
        name="VllmCapacityWaiting",
        severity=Severity.TICKET,
        hold="10m",
        expr='min_over_time(~requests_waiting{reason="capacity"}[5m]) > <<requests>>' + _LIVE,
        thresholds=(number("requests", 0, "Requests that may always wait for capacity."),),
        summary=f"requests always wait for capacity of {ENGINE}",
        description="For a quarter of an hour there was no moment without: a replica more would be used at once.",
        cause="steady load at the limit of the batch or of the KV cache",
        first="PromQL: vllm_sidecar_admission_limit == 1: batch, or KV cache?",
        board="vllm-overview",
    ),
    Alert(
        name="VllmInterTokenLatencyRegressed",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            "(rate(~inter_token_latency_seconds_sum[10m]) / rate(~inter_token_latency_seconds_count[10m]) > <<factor>> "
            "* (rate(~inter_token_latency_seconds_sum[1d] offset 20m) / "
            "rate(~inter_token_latency_seconds_count[1d] offset 20m))) "
            "and increase(~inter_token_latency_seconds_count[10m]) >= <<least_tokens>>"
        ),
        thresholds=(
            number("factor", 2, "Mean of ten minutes over the mean of the day before."),
            number("least_tokens", 300, "Observations in ten minutes below which nothing is judged."),
        ),
        summary=f"tokens of {ENGINE} come {{{{ $value | humanizeDuration }}}} apart, slower than it ever was",
        description="The mean of ten minutes is more than <<factor>> times that of the day before.",
        cause="throttled GPUs, larger batches, long prompts in the same steps, or a changed flag",
        first='PromQL: vllm_sidecar_gpu_throttled{reason!~"idle|sw_power_cap"} == 1; then compare the flags',
        board="vllm-engine",
    ),
)
