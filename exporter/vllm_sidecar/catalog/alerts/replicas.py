"""One replica: does it answer, does it go on, does it start? Tickets, for the others take its load."""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import (
    ENGINE,
    NOT_ONE_ENGINE_PATTERN,
    OF_MODEL,
    PREVIOUS_LOGS,
    REPLICA,
    STALE_SECONDS,
    STATUS,
    WHERE,
    Alert,
    Measure,
    Severity,
    Threshold,
    duration,
    number,
    ratio,
)

UNREADABLE = (
    "http_401|http_403|http_404|http_4xx|http_other|redirect|credentials|tls|not_http|too_large|truncated|"
    "bad_encoding|empty|not_prometheus|no_vllm_metrics"
)
"""Reasons of failed polls that say: something answers, but it cannot be read."""
ANSWERS = f"{UNREADABLE}|{NOT_ONE_ENGINE_PATTERN}"
_POD = "cluster, namespace, pod, container"
"""Labels of what others export about a container: their instance is that of the exporter."""
_RESTARTS = 'kube_pod_container_status_restarts_total{container!~".*sidecar.*"}'
_BACKING_OFF = 'kube_pod_container_status_waiting_reason{reason="CrashLoopBackOff",container!~".*sidecar.*"}'
_OURS = "and on (cluster, namespace, pod) ~build_info"
"""Of pods that have a sidecar; kube-state-metrics and cAdvisor know all pods."""
_LEARNED = "group_left () (1.5 * max_over_time(@job_startup_seconds:max[1d]))"

REPLICAS: tuple[Alert, ...] = (
    Alert(
        name="VllmTargetDown",
        severity=Severity.TICKET,
        hold="1m",
        expr=(
            '~up{source="vllm"} == 0 and on (<<T>>) (~last_success_timestamp_seconds{source="vllm"} '
            'or (max_over_time(~up{source="vllm"}[<<startup>>]) == 0 and ~up{source="vllm"} offset <<startup>>) '
            "unless on (<<S>>) (time() - process_start_time_seconds{<<sidecar>>} "
            f"< on (cluster, namespace, job) {_LEARNED})) "
            f'unless on (<<T>>) (increase(~poll_failures_total{{source="vllm",reason=~"{ANSWERS}"}}[2m]) > 0)'
        ),
        thresholds=(
            duration(
                "startup",
                600,
                "Time that a server gets to load its model before its first answer; more where its job took more "
                "within a day.",
            ),
        ),
        summary=f"vLLM in {REPLICA} does not answer",
        description="Three polls of its /metrics failed in a row. One that never answered got <<startup>> to start, or "
        "half as much again as the slowest start of its job within a day.",
        cause="the process died or was killed for memory, the node is gone, or a release does not start",
        first=f"{PREVIOUS_LOGS}: read how the log ends",
        dashboard="vllm-overview",
    ),
    Alert(
        name="VllmMetricsMissing",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            '~up{source="vllm"} == 0 '
            f'and on (<<T>>) (increase(~poll_failures_total{{source="vllm",reason=~"{UNREADABLE}"}}[2m]) > 0)'
        ),
        summary=f"something answers for vLLM in {REPLICA}, but exposes no metrics of vLLM",
        description="Users may be served well; nothing else about this server is watched.",
        cause="a missing token, another server at this address, or a front end that was started without metrics",
        first=f"{STATUS}: `failure` names the reason, and the README says what to do about each",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmTargetNotOneServer",
        severity=Severity.TICKET,
        hold="2m",
        expr=f'increase(~poll_failures_total{{source="vllm",reason=~"{NOT_ONE_ENGINE_PATTERN}"}}[2m]) > 0',
        summary=f"the target of the sidecar in {REPLICA} is not a single vLLM server ({{{{ $labels.reason }}}})",
        description="A router, a gateway or a load balancer answers: what it exposes is not about one engine, so "
        "nothing is exported, and no server behind it is watched.",
        cause="the sidecar was given the address of a Service, an ingress or a router in place of a pod",
        first=f"{STATUS}: `failure` says what answers; run one sidecar in each pod, or discover the pods",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmEngineStalled",
        severity=Severity.TICKET,
        hold="30s",
        keep="2m",
        expr="~stalled == 1",
        summary=f"{ENGINE} makes no progress",
        description=(
            "Clients wait, and no token, prompt or finished request came for longer than progress.stall_after, though "
            "/health still says 200; or vLLM itself calls the engine failed. The gauges may say that it is idle. A "
            "sleeping engine and one that starts are not meant."
        ),
        cause="a hung collective of a tensor-parallel group, a dead worker, or an engine that takes no requests in",
        first=f"{STATUS}: see which signals corroborate the stall, and the GPUs; then restart the server",
        dashboard="vllm-engine",
    ),
    Alert(
        name="VllmAsleepWithRequests",
        severity=Severity.TICKET,
        hold="1m",
        expr="~engine_sleeping == 1 and on (<<E>>) (sum by (<<E>>) (~requests_waiting) > 0)",
        summary=f"{ENGINE} sleeps while requests wait",
        description="Nothing will answer them until somebody wakes it.",
        cause="the router does not know that it sleeps, or the call of /wake_up failed",
        first="{{ with $labels.pod }}kubectl -n {{ $labels.namespace }} port-forward {{ . }} 8000, then {{ end }}"
        "curl -X POST http://localhost:8000/wake_up; or take it out of the router",
        dashboard="vllm-engine",
    ),
    Alert(
        name="VllmCrashLoop",
        severity=Severity.TICKET,
        hold="30s",
        keep="5m",
        expr=(
            "(increase(~server_restarts_total[1h]) >= <<restarts>> and on (<<T>>) "
            "(increase(~server_restarts_total[15m]) > 0)) "
            "or (increase(~server_restarts_total[6h]) >= <<restarts>> and on (<<T>>) "
            "(increase(~server_restarts_total[1h]) > 0) and on (<<T>>) (~server_startup_seconds > <<slow_start>>)) "
            f"or ((max by ({_POD}) (increase({_RESTARTS}[1h]) >= <<restarts>> and increase({_RESTARTS}[15m]) > 0) "
            f"or <<restarts>> * max by ({_POD}) ({_BACKING_OFF} == 1)) {_OURS} "
            "unless on (cluster, namespace, pod) (increase(~server_restarts_total[1h]) >= <<restarts>>))"
        ),
        thresholds=(
            number("restarts", 3, "Restarts in an hour that make a loop; in six where a start takes longer."),
            Threshold("slow_start", Measure.SECONDS, 600, "Start from which on six hours are looked at."),
        ),
        summary=f"vLLM in {REPLICA} restarts again and again",
        description="<<restarts>> restarts in an hour or more, or Kubernetes waits before it starts it again: each "
        "throws away what it worked at. Where kube-state-metrics is scraped, a server that never answered is seen too.",
        cause="out of memory while the CUDA graphs are captured, a failed GPU, or a bad release",
        first=f"{PREVIOUS_LOGS}: read the last traceback before it restarts again",
        dashboard="vllm-incident",
    ),
    Alert(
        name="VllmHostMemoryNearLimit",
        severity=Severity.TICKET,
        hold="10m",
        expr=(
            f'max by ({_POD}, node) (container_memory_working_set_bytes{{container!~"|POD"}} '
            f'/ (container_spec_memory_limit_bytes{{container!~"|POD"}} > 0)) > <<used>> {_OURS}'
        ),
        thresholds=(ratio("used", 0.9, "Share of the container's memory limit that is in use."),),
        summary=f"container {{{{ $labels.container }}}} of pod {{{{ $labels.pod }}}}{WHERE} uses "
        "{{ $value | humanizePercentage }} of its memory limit",
        description="The memory of the host, not of the GPU. At the limit the kernel ends it (OOMKilled) with all "
        "requests that it serves. The metrics are those of cAdvisor.",
        cause="a leak, the multimodal cache, --swap-space or CPU offload, or a limit that is too near",
        first="kubectl -n {{ $labels.namespace }} top pod {{ $labels.pod }} --containers; restart it at a quiet hour",
        dashboard="vllm-incident",
    ),
)

_LIVE = (
    " unless on (<<E>>) (~engine_sleeping == 1) unless on (<<E>>) (~gauges_stale == 1) "
    f"unless on (<<E>>) (~progress_age_seconds >= {STALE_SECONDS})"
)
"""The gauges of a server whose clients all left at once go on saying that they wait, and those of a stalled one too."""

QUEUE: tuple[Alert, ...] = (
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
        batch_hours=True,
        summary=f"{{{{ $value | humanize }}}} requests wait for {ENGINE}",
        description="More than run (and more than <<requests>>) all the time: it does not catch up by itself.",
        cause="load grew, answers became longer, or a replica less shares it",
        first="PromQL: sum by (pod, instance) "
        f"(vllm_sidecar_requests_waiting{{{OF_MODEL}}}): one replica, or all of them?",
        dashboard="vllm-overview",
    ),
    Alert(
        name="VllmCapacityWaiting",
        severity=Severity.TICKET,
        hold="10m",
        expr='min_over_time(~requests_waiting{reason=~"capacity|unspecified"}[5m]) > <<requests>>' + _LIVE,
        thresholds=(number("requests", 0, "Requests that may always wait for capacity."),),
        batch_hours=True,
        summary=f"requests always wait for capacity of {ENGINE}",
        description="For a quarter of an hour there was no moment without: one more replica would be used at once. "
        "vLLM before 0.20 does not tell what they wait for.",
        cause="steady load at the limit of the batch or of the KV cache",
        first=f"PromQL: vllm_sidecar_admission_limit{{{OF_MODEL}}} == 1: batch, or KV cache?",
        dashboard="vllm-overview",
    ),
)
