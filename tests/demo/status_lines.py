"""What the demo prints while it runs: one line every few seconds, made from the sidecar's status."""

from __future__ import annotations

import time
from typing import Any

HEAD = "time      phase            run  wait    KV  TTFT p95  ITL p95  tokens/s  preempted  prefix hits"


def line(status: dict[str, Any], phase: str) -> str:
    """Write one line about the only target."""
    target = status["targets"][0]
    signals = target["signals"]
    values = (
        f"{_total(signals, 'requests_running'):>5}{_total(signals, 'requests_waiting'):>6}",
        f"{_share(signals, 'kv_cache_usage_ratio'):>6}",
        f"{_p95(signals, 'recent_time_to_first_token_seconds'):>10}",
        f"{_p95(signals, 'recent_inter_token_latency_seconds'):>9}",
        f"{_total(signals, 'recent_generation_tokens_per_second'):>10}",
        f"{_total(signals, 'preemptions_total'):>11}",
        f"{_share(signals, 'recent_cache_hit_ratio'):>13}",
    )
    words = (target.get("state") or {}).get("text", "" if target["up"] else "down")
    return f"{time.strftime('%H:%M:%S')}  {phase:<14}{''.join(values)}  {words}".rstrip()


def _series(signals: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = signals.get(name, {}).get("series", [])
    return found


def _total(signals: dict[str, Any], name: str) -> str:
    values = [one["value"] for one in _series(signals, name) if one.get("value") is not None]
    return f"{sum(values):.0f}" if values else "-"


def _share(signals: dict[str, Any], name: str) -> str:
    values = [one["value"] for one in _series(signals, name) if one.get("value") is not None]
    return f"{100 * max(values):.0f} %" if values else "-"


def _p95(signals: dict[str, Any], name: str) -> str:
    quantiles = [one["quantiles"] for one in _series(signals, name)]
    values = [value for each in quantiles for q, value in each.items() if float(q) == 0.95]
    if not values:
        return "-"
    worst = max(values)
    return f"{worst:.2f} s" if worst >= 1.0 else f"{1000 * worst:.0f} ms"
