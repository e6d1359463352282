"""One replica that does not answer, progress or start: tickets, because the other replicas take over its load."""

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
from vllm_sidecar.catalog.reasons import NOT_READ

_NOT_READ_PATTERN = "|".join(NOT_READ)
_UNCERTAIN_PATTERN = f"{_NOT_READ_PATTERN}|{NOT_ONE_ENGINE_PATTERN}"
UNCERTAIN = f'(increase(~poll_failures_total{{source="vllm",reason=~"{_UNCERTAIN_PATTERN}"}}[2m]) > 0)'
"""Servers with failures that do not show that they are down."""
MODEL_UP = '(~model_up or on (<<T>>) ~up{source="vllm"})'
"""Whether the server of each model is up; `up` names only the first of its models, or none before it has answered."""
_POD = "cluster, namespace, pod, container"
"""Labels of a container in metrics of other exporters, whose `instance` is that of the exporter."""
_OTHER = 'container!~".*(sidecar|proxy).*"'
_RESTARTS = f"kube_pod_container_status_restarts_total{{{_OTHER}}}"
_BACKING_OFF = f'kube_pod_container_status_waiting_reason{{reason="CrashLoopBackOff",{_OTHER}}}'
_CONTAINER = "cluster, namespace, pod, crashed_container"
"""`container` would be the one of the sidecar in series that the sidecar exports."""
_WATCHED = 'and on (cluster, namespace, pod) (~build_info or ~up{source="vllm"})'
"""Only pods with a sidecar or a server of a gateway; kube-state-metrics and cAdvisor expose all pods."""
_WAS_DOWN = 'and on (cluster, namespace, pod) (min_over_time(~up{source="vllm"}[15m]) == 0)'
"""Only pods whose server was down: a container next to vLLM may restart without it."""
_CRASHED = "{{ with $labels.crashed_container }}container {{ . }}{{ else }}vLLM{{ end }}"
_CRASHED_LOGS = PREVIOUS_LOGS.replace(
    "-c vllm", "-c {{ with $labels.crashed_container }}{{ . }}{{ else }}vllm{{ end }}"
)
_LEARNED = "group_left () (1.5 * max_over_time(@job_startup_seconds:max[1d]))"

REPLICAS: tuple[Alert, ...] = (
    Alert(
        name="VllmTargetDown",
        severity=Severity.TICKET,
        hold="1m",
        expr=(
            '~up{source="vllm"} == 0 and on (<<T>>) (~last_success_timestamp_seconds{source="vllm"} '
            'or (max_over_time(~up{source="vllm"}[<<startup>>]) == 0 and ~up{source="vllm"} offset <<startup>>) '
            "unless on (<<T>>) (time() - ~watched_since_timestamp_seconds "
            f"< on (cluster, namespace, job) {_LEARNED})) "
            f"unless on (<<T>>) {UNCERTAIN}"
        ),
        thresholds=(
            duration(
                "startup",
                600,
                "Time that a server may take to load its model before its first answer; more if its job took more "
                "within a day.",
            ),
        ),
        summary=f"vLLM in {REPLICA} does not answer",
        description="Three polls of its /metrics failed in a row. A server that has never answered gets <<startup>> to "
        "start, or 1.5 times the slowest start of its job within a day if that is longer.",
        cause="the process died or was killed for memory, the node was lost, or a release does not start",
        first=f"{PREVIOUS_LOGS}: read how the log ends",
        dashboard="vllm-overview",
    ),
    Alert(
        name="VllmMetricsMissing",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            '~up{source="vllm"} == 0 '
            f'and on (<<T>>) (increase(~poll_failures_total{{source="vllm",reason=~"{_NOT_READ_PATTERN}"}}[2m]) > 0)'
        ),
        summary=f"the metrics of vLLM in {REPLICA} cannot be read",
        description="Something answers, but not with metrics of vLLM, or the sidecar itself has a fault. Users may "
        "still be served, but this server is not monitored.",
        cause="a missing token, another server or a proxy at this address, or a front end without metrics",
        first=f"{STATUS}: `last_error` has the reason; docs/troubleshooting.md has a hint for each",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmTargetNotOneServer",
        severity=Severity.TICKET,
        hold="2m",
        expr=(
            f'increase(~poll_failures_total{{source="vllm",reason=~"{NOT_ONE_ENGINE_PATTERN}"}}[2m]) > 0 '
            'and on (<<T>>) (~up{source="vllm"} == 0)'
        ),
        summary=f"the target of the sidecar in {REPLICA} is not a single vLLM server ({{{{ $labels.reason }}}})",
        description="A router, a gateway or a load balancer answers. Its metrics do not describe one engine, so "
        "nothing is exported, and the servers behind it are not monitored.",
        cause="the sidecar was given the address of a Service, an ingress or a router instead of a pod",
        first=f"{STATUS}: `last_error` shows what answers; run one sidecar in each pod, or discover the pods",
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
            "Clients wait, and there was no token, prompt or finished request for longer than progress.stall_after, "
            "although /health still returns 200; or vLLM itself reports the engine as failed. The gauges may show an "
            "idle engine. Sleeping and starting engines do not count."
        ),
        cause="a hung collective of a tensor-parallel group, a dead worker, or an engine that accepts no requests",
        first=f"{STATUS}: see which signals corroborate the stall, and the GPUs; then restart the server",
        dashboard="vllm-engine",
    ),
    Alert(
        name="VllmAsleepWithRequests",
        severity=Severity.TICKET,
        hold="1m",
        expr="~engine_sleeping == 1 and on (<<E>>) (sum by (<<E>>) (~requests_waiting) > 0)",
        summary=f"{ENGINE} sleeps while requests wait",
        description="They are not served until the engine is woken up.",
        cause="a router that is unaware of it, or a failed call of /wake_up",
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
            f"or (max by ({_CONTAINER}) (label_replace("
            f"(increase({_RESTARTS}[1h]) >= <<restarts>> and increase({_RESTARTS}[15m]) > 0) "
            f"or <<restarts>> * ({_BACKING_OFF} == 1), "
            f'"crashed_container", "$1", "container", "(.+)")) {_WAS_DOWN} '
            "unless on (cluster, namespace, pod) (increase(~server_restarts_total[1h]) >= <<restarts>>))"
        ),
        thresholds=(
            number("restarts", 3, "Restarts in an hour that make a loop; in six hours if starts are slow."),
            Threshold(
                "slow_start", Measure.SECONDS, 600, "Duration of a start above which restarts of six hours count."
            ),
        ),
        summary=f"{_CRASHED} in {REPLICA} keeps restarting",
        description="<<restarts>> or more restarts in an hour (in six if starts are slow), or Kubernetes delays the "
        "next one. Each loses the requests in progress. With kube-state-metrics, servers that never answered are seen "
        "too.",
        cause="out of memory while the CUDA graphs are captured, a failed GPU, or a bad release",
        first=f"{_CRASHED_LOGS}: read the last traceback before it restarts again",
        dashboard="vllm-incident",
    ),
    Alert(
        name="VllmHostMemoryNearLimit",
        severity=Severity.TICKET,
        hold="10m",
        expr=(
            f'max by ({_POD}, node) (container_memory_working_set_bytes{{container!~"|POD"}} '
            f'/ (container_spec_memory_limit_bytes{{container!~"|POD"}} > 0)) > <<used>> {_WATCHED}'
        ),
        thresholds=(ratio("used", 0.9, "Share of the container's memory limit that is in use."),),
        summary=f"container {{{{ $labels.container }}}} of pod {{{{ $labels.pod }}}}{WHERE} uses "
        "{{ $value | humanizePercentage }} of its memory limit",
        description="This is host memory, not GPU memory. At the limit the kernel kills the container "
        "(OOMKilled) with all requests that it serves. The metrics are those of cAdvisor.",
        cause="a leak, the multimodal cache, --swap-space or CPU offload, or a limit that is too low",
        first="kubectl -n {{ $labels.namespace }} top pod {{ $labels.pod }} --containers; restart it at a quiet hour",
        dashboard="vllm-incident",
    ),
)

_LIVE = (
    " unless on (<<E>>) (~engine_sleeping == 1) unless on (<<E>>) (~gauges_stale == 1) "
    f"unless on (<<E>>) (~progress_age_seconds >= {STALE_SECONDS})"
)
"""Gauges of a server whose clients all left at once still show waiting requests, and so do those of a stalled one."""

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
            number("requests", 10, "Below this many waiting requests it does not fire."),
        ),
        batch_hours=True,
        summary=f"{{{{ $value | humanize }}}} requests wait for {ENGINE}",
        description="More requests wait than run (and more than <<requests>>) all the time: it does not catch up by "
        "itself.",
        cause="more load, longer answers, or one replica fewer",
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
        description="There were waiting requests at every moment of a quarter of an hour: one more replica would be "
        "used at once. vLLM before 0.20 does not report what they wait for.",
        cause="steady load at the limit of the batch or of the KV cache",
        first=f"PromQL: vllm_sidecar_admission_limit{{{OF_MODEL}}} == 1: batch, or KV cache?",
        dashboard="vllm-overview",
    ),
)
