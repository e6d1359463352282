"""Is it there, does it answer, does it answer rightly?"""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.types import (
    ENGINE,
    MODEL,
    NOT_ONE_ENGINE_PATTERN,
    REPLICA,
    STATUS,
    Alert,
    Severity,
    duration,
    number,
    ratio,
)

_UNREADABLE = (
    "http_401|http_403|http_404|http_4xx|http_other|redirect|credentials|tls|not_http|too_large|truncated|"
    "bad_encoding|empty|not_prometheus|no_vllm_metrics"
)
"""Reasons of failed polls that say: something answers, but it cannot be read."""

_ANSWERS = f"{_UNREADABLE}|{NOT_ONE_ENGINE_PATTERN}"
_LEAST = number("least_requests", 30, "Requests in five minutes below which no ratio is judged.")

SERVING: tuple[Alert, ...] = (
    Alert(
        name="VllmTargetDown",
        severity=Severity.PAGE,
        hold="1m",
        expr=(
            '~up{source="vllm"} == 0 '
            'and on (<<T>>) (~last_success_timestamp_seconds{source="vllm"} or ~up{source="vllm"} offset <<startup>>) '
            f'unless on (<<T>>) (increase(~poll_failures_total{{source="vllm",reason=~"{_ANSWERS}"}}[2m]) > 0)'
        ),
        thresholds=(duration("startup", 600, "Time that a server gets to load its model before its first answer."),),
        summary=f"vLLM behind {REPLICA} does not answer",
        description="Three polls of its /metrics failed in a row. One that never answered got <<startup>> to start.",
        cause="the process died or was killed for memory, the node is gone, or a release does not start",
        first="kubectl logs --previous POD, or journalctl -u vllm -n 200: read how the log ends",
        board="vllm-overview",
    ),
    Alert(
        name="VllmMetricsMissing",
        severity=Severity.PAGE,
        hold="5m",
        expr=(
            '~up{source="vllm"} == 0 '
            f'and on (<<T>>) (increase(~poll_failures_total{{source="vllm",reason=~"{_UNREADABLE}"}}[2m]) > 0)'
        ),
        summary=f"something answers for {REPLICA}, but gives no metrics of vLLM",
        description="The address is reached and what it says is of no use: nothing else about this server is watched.",
        cause="a missing token, another server at this address, or a front end that was started without metrics",
        first=f"{STATUS}: `failure` names the reason, and the README says what to do about each",
        board="vllm-sidecar",
    ),
    Alert(
        name="VllmTargetNotOneServer",
        severity=Severity.TICKET,
        hold="2m",
        expr=f'increase(~poll_failures_total{{source="vllm",reason=~"{NOT_ONE_ENGINE_PATTERN}"}}[2m]) > 0',
        summary=f"{REPLICA} is the address of no single vLLM server ({{{{ $labels.reason }}}})",
        description="A router, a gateway or a load balancer answers: what it says is not about one engine, so "
        "nothing is exported, and no server behind it is watched.",
        cause="the sidecar was given the address of a Service, an ingress or a router in place of a pod",
        first=f"{STATUS}: `failure` says what answers; run one sidecar in each pod, or discover the pods",
        board="vllm-sidecar",
    ),
    Alert(
        name="VllmEngineStalled",
        severity=Severity.PAGE,
        hold="30s",
        expr="~stalled == 1",
        summary=f"{ENGINE} makes no progress",
        description=(
            "Clients wait, and no token, prompt or finished request came for longer than progress.stall_after, though "
            "/health still says 200; or vLLM itself calls the engine failed. The gauges may say that it is idle. A "
            "sleeping engine and one that starts are not meant."
        ),
        cause="a hung collective of a tensor-parallel group, a dead worker, or an engine that takes no requests in",
        first=f"{STATUS}: see the witness of the stall and the GPUs; then restart the server",
        board="vllm-engine",
    ),
    Alert(
        name="VllmCrashLoop",
        severity=Severity.PAGE,
        hold="30s",
        keep="5m",
        expr=(
            "increase(~server_restarts_total[1h]) >= <<restarts>> and on (<<T>>) "
            "(increase(~server_restarts_total[15m]) > 0)"
        ),
        thresholds=(number("restarts", 3, "Restarts in an hour that make a loop."),),
        summary=f"vLLM behind {REPLICA} restarted {{{{ $value | humanize }}}} times in an hour",
        description="<<restarts>> restarts in an hour, the last within 15 minutes: each throws away what it worked at.",
        cause="out of memory while the CUDA graphs are captured, a failed GPU, or a bad release",
        first="kubectl logs --previous POD: read the last traceback before it restarts again",
        board="vllm-incident",
    ),
    Alert(
        name="VllmErrorRatioHigh",
        severity=Severity.PAGE,
        hold="1m",
        expr=(
            "~recent_error_ratio > <<errors>> and on (<<T>>) ("
            "sum by (<<T>>) (increase(~requests_finished_total[5m])) >= <<least_requests>> or "
            'sum by (<<T>>) (increase(~http_requests_total{method="POST"}[5m])) >= <<least_requests>>)'
        ),
        thresholds=(ratio("errors", 0.05, "Share of failed requests."), _LEAST),
        summary=f"{{{{ $value | humanizePercentage }}}} of the requests to {REPLICA} fail",
        description="More than <<errors>> end as an error of an engine or as HTTP 5xx; bad requests do not count.",
        cause="a release, a model that does not fit the template, or an engine that died",
        first="kubectl logs POD | grep -A20 Traceback: one traceback, many times, or many kinds",
        board="vllm-incident",
    ),
    Alert(
        name="VllmRejectionRatioHigh",
        severity=Severity.PAGE,
        hold="2m",
        expr=(
            "(sum without (reason) (rate(~requests_rejected_total[5m])) / ("
            "sum without (reason) (rate(~requests_rejected_total[5m])) + "
            "sum without (engine, finished_reason) (rate(~requests_finished_total[5m]))) > <<rejected>>) "
            "and on (<<M>>) (sum by (<<M>>) (increase(~requests_rejected_total[5m])) + "
            "sum by (<<M>>) (increase(~requests_finished_total[5m])) >= <<least_requests>>)"
        ),
        thresholds=(ratio("rejected", 0.01, "Share of requests that admission control refuses."), _LEAST),
        summary=f"{MODEL} refuses {{{{ $value | humanizePercentage }}}} of its requests",
        description="More than <<rejected>> get 503 because a limit of the queue is reached.",
        cause="more load than the replicas take; --max-num-queued-reqs or --max-num-queued-tokens is reached",
        first="PromQL: sum by (instance, reason) (rate(vllm_sidecar_requests_rejected_total[5m]))",
        board="vllm-engine",
    ),
    Alert(
        name="VllmRequestsCorrupted",
        severity=Severity.PAGE,
        hold="30s",
        keep="10m",
        expr="increase(~requests_corrupted_total[10m]) > <<corrupted>>",
        thresholds=(number("corrupted", 0, "Corrupted requests in ten minutes that are accepted."),),
        summary=f"{ENGINE} computes NaN",
        description="Requests have NaN in their logits: users get wrong text with status 200.",
        cause="a damaged weight file, a quantisation that overflows, or a GPU with errors in its memory",
        first="take the replica out of the router, then look at ECC and XID of its GPUs",
        board="vllm-incident",
    ),
    Alert(
        name="VllmAsleepWithRequests",
        severity=Severity.PAGE,
        hold="1m",
        expr="~engine_sleeping == 1 and on (<<E>>) (sum by (<<E>>) (~requests_waiting) > 0)",
        summary=f"{ENGINE} sleeps while requests wait",
        description="Nothing will answer them until somebody wakes it.",
        cause="the router does not know that it sleeps, or the call of /wake_up failed",
        first="curl -s http://VLLM/is_sleeping; wake it with POST /wake_up, or take it out of the router",
        board="vllm-engine",
    ),
)
