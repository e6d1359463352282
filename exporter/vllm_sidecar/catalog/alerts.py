"""The alerts, as typed values; `generate.rules` writes them as Prometheus rules.

They read signals of the sidecar, which compare values of one poll and see what happens between two scrapes; so the
expressions stay short. Every ratio has a traffic guard in the signal itself: without traffic it is absent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from vllm_sidecar.catalog.types import PREFIX


class Severity(StrEnum):
    """What an alert asks of people."""

    PAGE = "page"
    """Somebody gets up: users feel it now."""
    TICKET = "ticket"
    """Somebody looks at it in working hours."""
    WATCHDOG = "watchdog"
    """Nobody does anything as long as it fires: it shows that alerts arrive."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `hold` is how long the expression must hold before it fires (`for`), as Prometheus writes it.

    `summary` and `description` are templates of Prometheus: `$value` and `$labels`.
    """

    name: str
    expr: str
    hold: str
    severity: Severity
    summary: str
    description: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"Vllm[A-Za-z]+", self.name):
            raise ValueError(f"alert {self.name} must be named Vllm...")

    @property
    def signals(self) -> frozenset[str]:
        """Names of the sidecar's metrics that the expression reads, without prefix."""
        return frozenset(re.findall(rf"\b{PREFIX}([a-z0-9_]+)", self.expr))


def _alert(name: str, expr: str, hold: str, severity: Severity, summary: str, description: str) -> Alert:
    """Write an alert whose expression has `~` in place of the prefix of the metrics."""
    return Alert(name, expr.replace("~", PREFIX), hold, severity, summary, description)


WHO = "{{ $labels.model_name }} engine {{ $labels.engine }} on {{ $labels.instance }}"

ALERTS: tuple[Alert, ...] = (
    _alert(
        "VllmTargetDown", '~up{source="vllm"} == 0', "1m", Severity.PAGE,
        "vLLM behind {{ $labels.instance }} does not answer",
        "Three polls of its /metrics failed in a row; the sidecar's log and status page say why.",
    ),
    _alert(
        "VllmEngineStalled", "~stalled == 1", "30s", Severity.PAGE,
        f"{WHO} makes no progress",
        "It has work, and no token, prompt or finished request came for longer than progress.stall_after. "
        "/health still says 200. See which witness says so in vllm_sidecar_stall_witness, then restart the server.",
    ),
    _alert(
        "VllmCrashLoop", "increase(~server_restarts_total[5m]) >= 3", "0s", Severity.PAGE,
        "vLLM behind {{ $labels.instance }} restarted {{ $value | humanize }} times in 5 minutes",
        "Read the end of its log before it restarts again: out of memory, a failed GPU, or a bad release.",
    ),
    _alert(
        "VllmQueueWaitHigh",
        "~live_queue_wait_seconds > 10 unless on (instance, model_name, engine) ~engine_sleeping == 1",
        "1m", Severity.PAGE,
        f"a request to {WHO} waits {{{{ $value | humanizeDuration }}}}",
        "More arrives than is admitted. If KV-cache usage is near 1 the cache is the limit (shorter prompts, more "
        "memory), else --max-num-seqs or the number of replicas.",
    ),
    _alert(
        "VllmKvCachePressure", "~kv_cache_pressure_ratio > 0.3 and ~recent_preemptions_per_request > 0.05", "1m",
        Severity.PAGE,
        f"the KV cache of {WHO} is full and requests are preempted",
        "Preempted requests are computed again. Long prompts or answers are the usual cause: compare the token "
        "histograms with yesterday's.",
    ),
    _alert(
        "VllmInterTokenLatencyHigh", '~recent_inter_token_latency_seconds{quantile="0.95"} > 0.05', "1m",
        Severity.PAGE,
        f"tokens of {WHO} come {{{{ $value | humanizeDuration }}}} apart (95th percentile)",
        "Steps became slower: throttled GPUs, larger batches, long prompts in the same steps, or a changed flag.",
    ),
    _alert(
        "VllmErrorRatioHigh", "~recent_error_ratio > 0.05", "1m", Severity.PAGE,
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.instance }} fail",
        "Engine errors or HTTP 5xx; the server's log has the exceptions.",
    ),
    _alert(
        "VllmPrefixHitRatioDropped",
        '~recent_cache_hit_ratio{cache="local"} < 0.3 * avg_over_time(~recent_cache_hit_ratio{cache="local"}[1h]) '
        'and avg_over_time(~recent_cache_hit_ratio{cache="local"}[1h]) > 0.1',
        "1m", Severity.TICKET,
        f"prefix-cache hits of {WHO} fell to {{{{ $value | humanizePercentage }}}}",
        "Something changed at the beginning of the prompts, such as a time in the system prompt or a new template, "
        "or the router no longer keeps conversations together.",
    ),
    _alert(
        "VllmSpecDecodeAcceptanceLow", "~recent_spec_decode_acceptance_ratio < 0.2", "1m", Severity.TICKET,
        f"{WHO} throws away most of its draft tokens",
        "Only {{ $value | humanizePercentage }} are accepted: speculation costs more than it gives.",
    ),
    _alert(
        "VllmGaugesStale", "~gauges_stale == 1", "1m", Severity.TICKET,
        f"the gauges of {WHO} froze",
        "They say that requests run, nothing moves and nothing else says that there is work: do not scale by them.",
    ),
    _alert(
        "VllmDataParallelImbalance",
        '~recent_data_parallel_imbalance_ratio{load="generation_tokens"} > 0.5 '
        "and on (instance, model_name) sum by (instance, model_name) (~requests_running) > 4",
        "1m", Severity.TICKET,
        "the data-parallel engines of {{ $labels.model_name }} on {{ $labels.instance }} are unevenly loaded",
        "One of them does most of the work: look at the router and at sticky sessions.",
    ),
    _alert(
        "VllmLoraSlotsExhausted",
        "(~lora_slots_used >= ~lora_slots) and on (instance) sum by (instance) "
        '(~requests_waiting{reason="deferred"}) > 0',
        "1m", Severity.TICKET,
        "requests to {{ $labels.instance }} wait for a LoRA slot",
        "More adapters are wanted at once than --max-loras: raise it, or send adapters to replicas of their own.",
    ),
    _alert(
        "VllmAsleepWithRequests",
        "~engine_sleeping == 1 and on (instance, model_name, engine) "
        "sum by (instance, model_name, engine) (~requests_waiting) > 0",
        "30s", Severity.PAGE,
        f"{WHO} sleeps while requests wait",
        "The router sends requests to a sleeping engine, or nobody woke it.",
    ),
    _alert(
        "VllmWatchdog", "vector(1)", "0s", Severity.WATCHDOG,
        "alerts arrive",
        "It always fires; when it stops, Prometheus or Alertmanager does not work.",
    ),
)  # fmt: skip
