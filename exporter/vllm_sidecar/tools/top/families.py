"""The eight families of the checklist as rows and columns: where each value is read, and how those of engines combine.

Values are those of the sidecar's recent signals (the last minute) and of its gauges, as in `doctor` and the alerts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vllm_sidecar.tools.doctor.readings import Readings
from vllm_sidecar.tools.top.figures import Unit

Values = Mapping[str, float | None]
"""The values of an engine, a server or a fleet, by the key of their family; None if unknown."""
Read = Callable[[Readings, str], float | None]
Combine = Callable[[Sequence[Values], str], float | None]


class Family(NamedTuple):
    """One value of an engine."""

    key: str
    title: str
    header: str
    """Short, for a column."""
    unit: Unit
    column: str
    """Its column in /api/v1/history."""
    read: Read
    combine: Combine
    """One value of several engines or servers."""


def _quantile(signal: str) -> Read:
    return lambda readings, engine: readings.quantile(signal, engine, "0.95")


def _value(signal: str, **labels: str) -> Read:
    return lambda readings, engine: readings.value(signal, engine, **labels)


def _largest(rows: Sequence[Values], key: str) -> float | None:
    return max((value for row in rows if (value := row[key]) is not None), default=None)


def _sum(rows: Sequence[Values], key: str) -> float | None:
    known = [value for row in rows if (value := row[key]) is not None]
    return sum(known) if known else None


def _by_prompts(rows: Sequence[Values], key: str) -> float | None:
    """Combine ratios of prompt tokens: weighted by the prompt tokens of each second, which looked for a prefix."""
    known = [(value, row["prompt"] or 0.0) for row in rows if (value := row[key]) is not None]
    weight = sum(weight for _, weight in known)
    if weight:
        return sum(value * weight for value, weight in known) / weight
    return sum(value for value, _ in known) / len(known) if known else None


FAMILIES = (
    Family("queue", "queue time p95", "QUEUE", Unit.SECONDS, "queue_p95",
           _quantile("recent_request_queue_seconds"), _largest),
    Family("ttft", "TTFT p95", "TTFT", Unit.SECONDS, "ttft_p95",
           _quantile("recent_time_to_first_token_seconds"), _largest),
    Family("itl", "ITL p95", "ITL", Unit.SECONDS, "itl_p95",
           _quantile("recent_inter_token_latency_seconds"), _largest),
    Family("kv", "KV-cache usage", "KV", Unit.RATIO, "kv_usage", _value("kv_cache_usage_ratio"), _largest),
    Family("preempted", "preemptions/req", "PRE", Unit.RATE, "preemptions",
           _value("recent_preemptions_per_request"), _largest),
    Family("running", "running", "RUN", Unit.COUNT, "running", _value("requests_running"), _sum),
    Family("waiting", "waiting", "WAIT", Unit.COUNT, "waiting", _value("requests_waiting"), _sum),
    Family("hits", "prefix-cache hits", "HITS", Unit.RATIO, "hit_ratio",
           _value("recent_cache_hit_ratio", cache="local"), _by_prompts),
    Family("prompt", "prompt tokens/s", "IN/S", Unit.RATE, "prompt_tokens",
           _value("recent_prompt_tokens_per_second"), _sum),
    Family("output", "output tokens/s", "OUT/S", Unit.RATE, "generation_tokens",
           _value("recent_generation_tokens_per_second"), _sum),
)  # fmt: skip


def read(readings: Readings, engine: str) -> Values:
    """Return the values of an engine, given as the text of its labels."""
    return {family.key: family.read(readings, engine) for family in FAMILIES}


def combined(rows: Sequence[Values]) -> Values:
    """Combine the values of several engines or servers: sums of load, the worst of latencies."""
    return {family.key: family.combine(rows, family.key) for family in FAMILIES}
