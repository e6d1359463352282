"""The state of a server in words, as an expression: the words and the order of the status page (`verdict.py`)."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.types import Colour, Word

SERVER_STATES = (
    Word(0, "idle", Colour.GOOD),
    Word(1, "serving", Colour.GOOD),
    Word(2, "gauges frozen", Colour.WATCH),
    Word(3, "asleep", Colour.WATCH),
    Word(4, "queueing", Colour.WATCH),
    Word(5, "KV cache full", Colour.BAD),
    Word(6, "failing", Colour.BAD),
    Word(7, "stalled", Colour.BAD),
    Word(8, "down", Colour.BAD),
)


def _any(condition: str, value: int) -> str:
    return f"max by (<<T>>) ({condition}) * 0 + {value}"


SERVER_STATE = " or ".join(
    (
        _any('~up{source="vllm"} == 0', 8),
        _any("~stalled == 1", 7),
        _any("~recent_error_ratio > <<VllmErrorRatioHigh.errors>>", 6),
        _any(
            "~kv_cache_pressure_ratio > <<VllmKvCachePressure.pressure>> and on (<<E>>) "
            "(~recent_preemptions_per_request > <<VllmKvCachePressure.preemptions>>)",
            5,
        ),
        _any("~live_queue_wait_seconds > <<VllmQueueWaitHigh.wait>>", 4),
        _any("~engine_sleeping == 1", 3),
        _any("~gauges_stale == 1", 2),
        _any("(~recent_requests_running_peak or ~requests_running) > 0", 1),
        _any('~up{source="vllm"} == 1', 0),
    )
)
"""The highest that applies; one series for each server that a sidecar was ever told of."""
