"""The state of a server in words, as an expression: the words and the order of the status page (`serve/state.py`)."""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import NOT_ONE_ENGINE_PATTERN
from vllm_sidecar.catalog.dashboards.panel import Color, Word

SERVER_STATES = (
    Word(0, "idle", Color.GOOD),
    Word(1, "serving", Color.GOOD),
    Word(2, "KV cache held", Color.WATCH),
    Word(3, "no progress", Color.WATCH),
    Word(4, "gauges frozen", Color.WATCH),
    Word(5, "asleep", Color.WATCH),
    Word(6, "queueing", Color.WATCH),
    Word(7, "KV cache full", Color.BAD),
    Word(8, "failing", Color.BAD),
    Word(9, "stalled", Color.BAD),
    Word(10, "down", Color.BAD),
    Word(11, "not one engine", Color.BAD),
)
_LEFT = " unless on (<<E>>) (~clients_left == 1)"


def _any(condition: str, value: int) -> str:
    return f"max by (<<T>>) ({condition}) * 0 + {value}"


SERVER_STATE = " or ".join(
    (
        _any(
            f'increase(~poll_failures_total{{source="vllm",reason=~"{NOT_ONE_ENGINE_PATTERN}"}}[5m]) > 0 '
            'and on (<<T>>) (~up{source="vllm"} == 0)',
            11,
        ),
        _any('~up{source="vllm"} == 0', 10),
        _any("~stalled == 1", 9),
        _any("~recent_error_ratio > <<VllmErrorRatioHigh.errors>>", 8),
        _any(
            "~kv_cache_pressure_ratio > <<VllmKvCachePressure.pressure>> and on (<<E>>) "
            "(~recent_preemptions_per_request > <<VllmKvCachePressure.preemptions>>)",
            7,
        ),
        _any("~live_queue_wait_seconds > <<VllmQueueWaitHigh.wait>>", 6),
        _any("~engine_sleeping == 1", 5),
        _any("~gauges_stale == 1" + _LEFT, 4),
        _any("~work_without_progress_seconds > 0", 3),
        _any("~kv_cache_held_ratio > <<VllmKvCacheHeld.held>>", 2),
        _any(
            "(~recent_requests_per_second > 0 or (~recent_requests_running_peak or ~requests_running) > 0)" + _LEFT, 1
        ),
        _any('~up{source="vllm"} == 1', 0),
    )
)
"""The highest value that applies; one series for each server that a sidecar polls."""
