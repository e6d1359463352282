"""Windows -> what the status page draws: the checklist's eight families over the kept polls, one column a series."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from vllm_sidecar.distribution import estimates
from vllm_sidecar.model import Scope
from vllm_sidecar.window import between

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vllm_sidecar.distribution import Quantile
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
TOGETHER = 32
"""Histograms that are estimated at once: many cost much less than each alone."""

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
    # From the latest poll that is a span before; at the beginning from the first of all.
    spans = [
        (polls[max(0, bisect_right(polls, now[0] - SPAN, key=lambda poll: poll[0]) - 1)], now) for now in polls[first:]
    ]
    points = [dict(_point(before, now)) for before, now in spans]
    columns = {name: [_short(point[name]) for point in points] for name in (*GAUGES, *RATES, "hit_ratio")}
    ends = [_ends(polls, latency, before, now) for latency in LATENCIES.values() for before, now in spans]
    found = iter(_quantiles(ends))
    for name in LATENCIES:
        mine = [next(found) for _ in spans]
        for place, q in enumerate(QUANTILES):
            columns[f"{name}_p{q * 100:g}"] = [_short(each[place].value) if each else None for each in mine]
    return columns


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


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


def _grown(old: Reading, new: Reading, counter: str) -> float | None:
    value = new.counters.get(counter)
    return None if value is None else value - old.counters.get(counter, 0.0)


def _ends(polls: Sequence[Poll], name: str, before: Poll, now: Poll) -> tuple[Histogram | None, Histogram | None]:
    """Return a histogram at both ends; none at the end where it was missing at the beginning, though it had come up."""
    old, new = before[1].histograms.get(name), now[1].histograms.get(name)
    if old is None and any(name in reading.histograms for at, reading in polls if at < before[0]):
        return None, None
    return old, new


def _quantiles(ends: Sequence[tuple[Histogram | None, Histogram | None]]) -> list[list[Quantile]]:
    """Return the quantiles of what histograms observed from one reading to another; empty where nothing can be said."""
    seen = [(new.bounds if new else (), between(old, new)) for old, new in ends]
    windows = [(bounds, [poll] if poll else []) for bounds, poll in seen]
    found: list[list[Quantile]] = []
    for first in range(0, len(windows), TOGETHER):
        found += estimates(windows[first : first + TOGETHER], QUANTILES)
    return found
