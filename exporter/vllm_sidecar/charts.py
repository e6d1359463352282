"""Windows -> what the status page draws: the checklist's eight families over the kept polls, one column a series."""

from __future__ import annotations

from bisect import bisect_right
from operator import sub
from typing import TYPE_CHECKING

from vllm_sidecar.distribution import window_quantiles
from vllm_sidecar.model import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vllm_sidecar.model import Histogram, Reading
    from vllm_sidecar.window import Windows

    Poll = tuple[float, Reading]

SPAN = 15.0
"""Seconds before each point over which rates, ratios and quantiles are taken."""
LATENCIES = {
    "queue": "request_queue_seconds",
    "ttft": "time_to_first_token_seconds",
    "itl": "inter_token_latency_seconds",
}
RATES = {
    "prompt_tokens": "prompt_tokens_total",
    "generation_tokens": "generation_tokens_total",
    "preemptions": "preemptions_total",
}
GAUGES = {"running": "requests_running", "waiting": "requests_waiting", "kv_usage": "kv_cache_usage_ratio"}
HITS, QUERIES = "prefix_cache_hit_tokens_total", "prefix_cache_queried_tokens_total"
QUANTILES = (0.5, 0.95)

Column = list[float | None]


def charts(windows: Windows, offset: float, since: float, engine: str | None = None) -> list[dict[str, object]]:
    """Return the columns of every engine, or of those with one number.

    Args:
        windows: Those of the target.
        offset: What to add to the windows' monotonic times to get Unix times.
        since: Unix time; only later points are returned.
        engine: The label of the engines that are wanted; None for all.

    Returns:
        Per engine its model, its number, the Unix times of its points (`at`) and columns of the same length under
        `series`, in base units; None where nothing can be said.
    """
    return [
        {
            "model_name": group.labels[0],
            "engine": group.labels[1],
            "at": [round(at + offset, 3) for at, _ in polls[first:]],
            "series": _columns(polls, first),
        }
        for group, window in windows.of(Scope.ENGINE).items()
        if engine in (None, group.labels[1])
        for polls in (list(window.history()),)
        for first in (bisect_right(polls, since - offset, key=lambda poll: poll[0]),)
    ]


def _columns(polls: Sequence[Poll], first: int) -> dict[str, Column]:
    names = [*GAUGES, *RATES, "hit_ratio", *(f"{name}_p{q * 100:g}" for name in LATENCIES for q in QUANTILES)]
    columns: dict[str, Column] = {name: [] for name in names}
    for index in range(first, len(polls)):
        at, reading = polls[index]
        # The latest poll that is a span before; at the beginning the first of all.
        start = max(0, bisect_right(polls, at - SPAN, key=lambda poll: poll[0]) - 1)
        for name, value in _point(polls[start], (at, reading)):
            columns[name].append(None if value is None else float(f"{value:.6g}"))
    return columns


def _point(before: Poll, now: Poll) -> Iterable[tuple[str, float | None]]:
    seconds = now[0] - before[0]
    old, new = before[1], now[1]
    for name, gauge in GAUGES.items():
        yield name, new.gauges.get(gauge)
    for name, counter in RATES.items():
        grown = _grown(old, new, counter)
        yield name, grown / seconds if grown is not None and seconds > 0.0 else None
    hits, queries = _grown(old, new, HITS), _grown(old, new, QUERIES)
    yield "hit_ratio", hits / queries if hits is not None and queries else None
    for name, latency in LATENCIES.items():
        values = _quantiles(old.histograms.get(latency), new.histograms.get(latency))
        yield from zip((f"{name}_p{q * 100:g}" for q in QUANTILES), values, strict=True)


def _grown(old: Reading, new: Reading, counter: str) -> float | None:
    value = new.counters.get(counter)
    return None if value is None else value - old.counters.get(counter, 0.0)


def _quantiles(old: Histogram | None, new: Histogram | None) -> Sequence[float | None]:
    if new is None or new is old or (old is not None and old.bounds != new.bounds):
        return [None] * len(QUANTILES)
    then = old.cumulative if old is not None else (0.0,) * len(new.cumulative)
    grown = list(map(sub, new.cumulative, then))
    counts = [grown[0], *map(sub, grown[1:], grown)]
    if min(counts) < 0.0:
        return [None] * len(QUANTILES)
    before = 0.0 if old is None else old.total
    total = new.total - before if new.total is not None and before is not None else None
    return window_quantiles(new.bounds, [(counts, total if total is None or total >= 0.0 else None)], QUANTILES)
