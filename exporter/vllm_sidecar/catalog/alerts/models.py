"""The alerts that page: a model's users are affected.

A model means all replicas that serve it in one namespace of one cluster. Alerts about one replica of several, a cause,
a GPU or the monitoring are tickets (see the other modules of this folder): a page means that a share of a model's
service is gone or bad.
"""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import (
    MODEL,
    OF_MODEL,
    PODS,
    STALE_SECONDS,
    YESTERDAY,
    Alert,
    Record,
    Severity,
    Threshold,
    latency,
    number,
    ratio,
)
from vllm_sidecar.catalog.alerts.replicas import MODEL_UP, UNCERTAIN

DOWN = '~up{source="vllm"} == 0'
_ASLEEP = "~engine_sleeping == 1 and on (<<E>>) (sum by (<<E>>) (~requests_waiting) > 0)"
_COUNTED = 'slo_requests_total{slo="availability"}'
_GOOD = 'slo_good_requests_total{slo="availability"}'
_KNOWN = '@replica_unavailable:ratio{model_name!=""} or @replica_unavailable:ratio{target=""}'
"""A named target whose model is unknown cannot be assigned to a model."""


def _either(**parts: str) -> str:
    """Take the larger of several counts of the same requests; each may be missing for a model."""
    found = " or ".join(f'label_replace({expr}, "from", "{source}", "", "")' for source, expr in parts.items())
    return f"max by (<<F>>) ({found})"


def _minus(whole: str, part: str) -> str:
    """Subtract a count that may be missing for a model."""
    return f"{whole} - ({part} or 0 * {whole})"


_REJECTED = "sum by (<<F>>) (increase(~requests_rejected_total[5m]))"
_EVERY = f"sum by (<<F>>) (increase(~{_COUNTED}[5m]))"
_BAD = f"sum by (<<F>>) (increase(~{_COUNTED}[5m]) - increase(~{_GOOD}[5m]))"
_ENDED = 'sum by (<<F>>) (increase(~requests_finished_total{finished_reason!="abort"}[5m]))'

MODEL_RECORDS: tuple[Record, ...] = (
    Record(
        "model_active_requests:sum",
        "<<F>>",
        # A counter is used only while its series exists: the rest of its range after that means nothing. Running
        # requests count only while tokens are generated: gauges freeze when all clients leave at once. vLLM counts
        # requests of the canary like those of users; a gateway may pass those of one replica to another one.
        "sum by (<<F>>) (((increase(~requests_finished_total[1m]) and ~requests_finished_total) "
        "or (~requests_running and on (<<E>>) (increase(~generation_tokens_total[1m]) > 0)) "
        f"or (increase(~{_COUNTED}[1m]) and ~{_COUNTED} unless on (<<M>>) ~requests_finished_total) "
        "or -(increase(~canary_requests_total[1m]) and ~canary_requests_total)) "
        f"unless on (<<T>>) ({DOWN}))",
    ),
    Record(
        "replica_unavailable:ratio",
        "<<M>>",
        f'max by (<<M>>) ((({MODEL_UP} == 0 and on (<<T>>) (max_over_time(~up{{source="vllm"}}[90s]) == 0) '
        'and on (<<T>>) ~last_success_timestamp_seconds{source="vllm"} '
        f"unless on (<<T>>) {UNCERTAIN}) + 1) "
        f"or avg by (<<M>>) (({_ASLEEP}) or ~stalled) "
        f"or 0 * ({MODEL_UP} == 1 or {MODEL_UP} and on (<<T>>) "
        '~last_success_timestamp_seconds{source="vllm"}))',
    ),
    Record("model_replicas:count", "<<F>>", f"count by (<<F>>) ({_KNOWN})"),
    Record("model_replicas_unavailable:sum", "<<F>>", f"sum by (<<F>>) ({_KNOWN})"),
    Record(
        "model_requests_failed:increase5m",
        "<<F>>",
        _either(
            engine='sum by (<<F>>) (increase(~requests_finished_total{finished_reason="error"}[5m]))',
            sidecar=f"clamp_min({_minus(_BAD, _REJECTED)}, 0)",
        ),
    ),
    Record("model_requests:increase5m", "<<F>>", _either(engine=_ENDED, sidecar=_EVERY)),
    Record(
        "model_aborted:ratio5m",
        "<<F>>",
        'sum by (<<F>>) (avg_over_time(~recent_requests{outcome="aborted"}[5m])) '
        "/ (sum by (<<F>>) (avg_over_time(~recent_requests[5m])) > 0)",
    ),
)
"""Records that the pages read, and the number of replicas of a model."""

_N = "[[@model_replicas_unavailable:sum]] of [[@model_replicas:count]]"
_REPLICAS = ratio("replicas", 0.3, "Share of a model's replicas; one of one exceeds the default, one of four does not.")


def _least(name: str, text: str) -> Threshold:
    return number(name, 10, f"Below this many {text} in five minutes it does not fire.")


def _waits(wait: str) -> str:
    """Count the replicas on which a request waits so long, of those that make progress."""
    return (
        f"count by (<<F>>) (count by (<<M>>) (~live_queue_wait_seconds > {wait} "
        f"unless on (<<E>>) (~progress_age_seconds >= {STALE_SECONDS}) unless on (<<E>>) (~engine_sleeping == 1)))"
    )


MODELS: tuple[Alert, ...] = (
    Alert(
        name="VllmModelGone",
        severity=Severity.PAGE,
        hold="2m",
        expr=(
            "last_over_time(@model_active_requests:sum[6h]) >= <<requests>> "
            "unless on (<<F>>) @model_active_requests:sum unless on (<<F>>) @model_replicas:count"
        ),
        thresholds=(
            number("requests", 1, "Requests in progress or finished in its last minute; with fewer it does not fire."),
        ),
        summary=f"{MODEL} is gone: it had requests, and none of its replicas is seen anymore",
        description="All its replicas disappeared without being drained: in the last minute {{ $value | humanize }} "
        "requests, without those of the canary, were in progress or finished. A model that ends without requests, "
        "for example by scaling to zero, does not count; a model whose only replica is being replaced does, until the "
        "new one answers.",
        cause="its pods are Pending (no GPU, lost node, image, quota); or only the sidecars are gone: if users are "
        "served, only the monitoring is missing",
        first=PODS,
        dashboard="vllm-overview",
    ),
    Alert(
        name="VllmReplicasUnavailable",
        severity=Severity.PAGE,
        hold="30s",
        expr="@model_replicas_unavailable:sum / (@model_replicas:count > 0) > <<replicas>>",
        thresholds=(_REPLICAS,),
        summary=f"{_N} replicas of {MODEL} do not serve",
        description="More than <<replicas>> are down, stalled, or asleep while requests wait: "
        "[[list: topk(5, @replica_unavailable:ratio > 0)]]. A replica that has never answered is still "
        "loading and does not count.",
        cause="VllmTargetDown, VllmEngineStalled or VllmAsleepWithRequests: see the tickets of the replicas",
        first=PODS,
        dashboard="vllm-overview",
    ),
    Alert(
        name="VllmQueueWaitHigh",
        severity=Severity.PAGE,
        hold="1m",
        expr=(
            f"{_waits('<<wait>>')} / (count by (<<F>>) (count by (<<M>>) (~live_queue_wait_seconds)) > 0) "
            "> <<replicas>>"
        ),
        thresholds=(latency("wait", 10, "Wait of a request that arrives now.", interactive=2, batch=120), _REPLICAS),
        batch_hours=True,
        summary=f"requests to {MODEL} wait more than <<wait>>",
        description="On {{ $value | humanizePercentage }} of [[count(count by (<<T>>) (~live_queue_wait_seconds))]] "
        "replicas, estimated from waiting requests and the rate of admission; up to "
        "[[max(~live_queue_wait_seconds)]] s on [[list: topk(1, ~live_queue_wait_seconds)]].",
        cause=(
            "more load than the replicas can take: vllm_sidecar_admission_limit names the limit (batch: --max-num-seqs "
            "or replicas; kv_cache: fewer or shorter requests; adapter: --max-loras; transfer: the KV connector)"
        ),
        first=f"PromQL: sum by (limit) (vllm_sidecar_admission_limit{{{OF_MODEL}}})",
        dashboard="vllm-engine",
    ),
    Alert(
        name="VllmErrorRatioHigh",
        severity=Severity.PAGE,
        hold="1m",
        expr=(
            "@model_requests_failed:increase5m / (@model_requests:increase5m > 0) > <<errors>> "
            "and on (<<F>>) (@model_requests_failed:increase5m >= <<least_failed>>)"
        ),
        thresholds=(ratio("errors", 0.05, "Share of failed requests."), _least("least_failed", "failures")),
        summary=f"{{{{ $value | humanizePercentage }}}} of the requests to {MODEL} fail",
        description="[[@model_requests_failed:increase5m]] requests in five minutes ended with an engine error or HTTP "
        "5xx; refused and bad requests do not count. Most engine errors: "
        '[[list: topk(1, sum by (<<T>>) (increase(~requests_finished_total{finished_reason="error"}[5m])) > 0)]].',
        cause="a release, a model that does not fit the template, or an engine that died",
        first=PODS + "; then the log of the replica with most errors",
        dashboard="vllm-incident",
    ),
    Alert(
        name="VllmRejectionRatioHigh",
        severity=Severity.PAGE,
        hold="1m",
        expr=(
            f"{_REJECTED} / (({_REJECTED} + ({_ENDED} or 0 * {_REJECTED})) > 0) > <<rejected>> "
            f"and on (<<F>>) ({_REJECTED} >= <<least_rejected>>)"
        ),
        thresholds=(
            ratio("rejected", 0.05, "Share of requests that admission control refuses."),
            _least("least_rejected", "refused requests"),
        ),
        summary=f"{MODEL} refuses {{{{ $value | humanizePercentage }}}} of its requests",
        description=f"[[{_REJECTED}]] requests in five minutes got HTTP 503 because a limit of the queue was reached.",
        cause="more load than the replicas can take; --max-num-queued-reqs or --max-num-queued-tokens is reached",
        first=f"PromQL: sum by (pod, reason) (rate(vllm_sidecar_requests_rejected_total{{{OF_MODEL}}}[5m]))",
        dashboard="vllm-engine",
    ),
    Alert(
        name="VllmAbortRatioHigh",
        severity=Severity.PAGE,
        hold="2m",
        expr=(
            "((@model_aborted:ratio5m > <<aborted>> and on (<<F>>) "
            f"(@model_aborted:ratio5m > <<factor>> * avg_over_time(@model_aborted:ratio5m[1h] {YESTERDAY}))) "
            "or (@model_aborted:ratio5m > <<factor>> * <<aborted>> unless on (<<F>>) "
            f"avg_over_time(@model_aborted:ratio5m[1h] {YESTERDAY}))) "
            'and on (<<F>>) (5 * sum by (<<F>>) (avg_over_time(~recent_requests{outcome="aborted"}[5m])) '
            ">= <<least_aborted>>)"
        ),
        thresholds=(
            ratio("aborted", 0.3, "Share of requests whose clients leave before the end."),
            number("factor", 2, "Multiple of the share of the same hour yesterday; if that is unknown, of `aborted`."),
            number("least_aborted", 20, "Below this many aborted requests in five minutes it does not fire."),
        ),
        batch_hours=True,
        summary=f"clients of {MODEL} give up {{{{ $value | humanizePercentage }}}} of their requests",
        description="They disconnect before the answer is complete, more than <<factor>> times as often as at this "
        "hour yesterday if that is known. A timeout of a gateway looks like this.",
        cause="answers that take longer than a client or gateway waits, or a client release that cancels",
        first="compare the timeout of the gateway with PromQL: "
        f'vllm_sidecar_recent_request_seconds{{{OF_MODEL},quantile="0.99"}}',
        dashboard="vllm-incident",
    ),
    Alert(
        name="VllmRequestsCorrupted",
        severity=Severity.PAGE,
        hold="30s",
        keep="10m",
        expr="sum by (<<F>>) (increase(~requests_corrupted_total[10m])) > <<corrupted>>",
        thresholds=(number("corrupted", 0, "Corrupted requests in ten minutes that are accepted."),),
        summary=f"{MODEL} computes NaN",
        description="{{ $value | humanize }} requests in ten minutes have NaN in their logits: users get wrong text "
        "with status 200. Replicas: "
        "[[list: topk(5, sum by (<<T>>) (increase(~requests_corrupted_total[10m])) > 0)]].",
        cause="a damaged weight file, a quantization that overflows, or a GPU with errors in its memory",
        first="take the replica out of its Service (runbook), then look at ECC errors and XIDs of its GPUs",
        dashboard="vllm-incident",
    ),
)
