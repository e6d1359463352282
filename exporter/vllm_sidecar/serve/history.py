"""Windows -> charts of the status page: the checklist's eight families over the stored polls, one column per series."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from math import inf, isfinite
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.quantiles import estimates
from vllm_sidecar.series.window import between

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from vllm_sidecar.exposition.metric_values import Histogram
    from vllm_sidecar.quantiles import Quantile
    from vllm_sidecar.series.readings import Group
    from vllm_sidecar.series.store import WindowStore
    from vllm_sidecar.series.stored_reading import StoredReading
    from vllm_sidecar.series.window import Window

    Poll = tuple[float, StoredReading]
    Ends = tuple[Histogram | None, Histogram | None]

SPAN = 15.0
"""Seconds before each point over which rates, ratios and quantiles are taken."""
CHARTED_LATENCIES = {
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
TOGETHER = 16
"""Histograms that are estimated in one call, without a pause: many cost much less together than one by one."""
COLUMNS = (*GAUGES, *RATES, "hit_ratio", *(f"{name}_p{q * 100:g}" for name in CHARTED_LATENCIES for q in QUANTILES))

Point = dict[str, float | None]
"""The values of one poll by column."""


class Span(NamedTuple):
    """Two polls: the one of a point, and the earlier one from which its rates and quantiles are computed."""

    before: Poll
    now: Poll


class History:
    """The columns of one target's engines; a point is cached as long as its poll is stored.

    A point is computed from two polls, which no longer change, so each poll costs one point however often the page is
    viewed. Missing points are computed in small batches, so that polls and scrapes continue in between.
    """

    def __init__(self) -> None:
        self._points: dict[Group, dict[float, Point]] = {}
        """Points by the monotonic time of their polls."""
        self._drawing = asyncio.Lock()

    async def draw(
        self, windows: WindowStore, offset: float, since: float, engine: str | None = None
    ) -> list[dict[str, object]]:
        """Return the columns of every engine, or of those with one number.

        Args:
            windows: Those of the target.
            offset: What to add to the windows' monotonic times to get Unix times.
            since: Unix time; only later points are returned.
            engine: The label of the engines that are wanted; None for all.

        Returns:
            Per engine its model, its number, the Unix times of its points (`at`) and columns of the same length under
            `series`, in base units; None if a value is unknown.
        """
        async with self._drawing:
            found = windows.of(Scope.ENGINE)
            self._points = {group: points for group, points in self._points.items() if group in found}
            wanted = {group: window for group, window in found.items() if engine in (None, group.labels[1])}
            return [await self._engine(group, window, offset, since) for group, window in wanted.items()]

    async def _engine(self, group: Group, window: Window, offset: float, since: float) -> dict[str, object]:
        polls = list(window.history())
        known = self._points.get(group, {})
        points = {at: point for at, _ in polls if (point := known.get(at)) is not None}
        self._points[group] = points
        first = bisect_right(polls, since - offset, key=lambda poll: poll[0])
        await _add_points(points, polls, first)
        shown = [points[at] for at, _ in polls[first:]]
        return {
            "model_name": group.labels[0],
            "engine": group.labels[1],
            "at": [round(at + offset, 3) for at, _ in polls[first:]],
            "series": {name: [point[name] for point in shown] for name in COLUMNS},
        }


async def _add_points(points: dict[float, Point], polls: Sequence[Poll], first: int) -> None:
    """Add the missing points of the polls from index `first` on."""
    # Each from the latest poll that is at least a span older, or from the first poll.
    spans = [
        Span(polls[max(0, bisect_right(polls, now[0] - SPAN, key=lambda poll: poll[0]) - 1)], now)
        for now in polls[first:]
        if now[0] not in points
    ]
    made = [{name: _short(value) for name, value in _values(span)} for span in spans]
    for name, latency in CHARTED_LATENCIES.items():
        since = next((at for at, reading in polls if reading.histogram(latency)), inf)
        ends = [_ends(span, latency, since) for span in spans]
        async for place, quantiles in _quantiles(ends):
            for rank, q in enumerate(QUANTILES):
                made[place][f"{name}_p{q * 100:g}"] = _short(quantiles[rank].value) if quantiles else None
    points.update(zip((span.now[0] for span in spans), made, strict=True))


def _short(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and isfinite(value) else None


def _values(span: Span) -> Iterable[tuple[str, float | None]]:
    seconds = span.now[0] - span.before[0]
    old, new = span.before[1], span.now[1]
    for name, gauge in GAUGES.items():
        yield name, new.gauge(gauge)
    for name, counter in RATES.items():
        grown = _grown(old, new, counter)
        yield name, grown / seconds if grown is not None and seconds > 0.0 else None
    hits, queries = _grown(old, new, HITS), _grown(old, new, QUERIES)
    yield "hit_ratio", hits / queries if hits is not None and queries else None


def _grown(old: StoredReading, new: StoredReading, counter: str) -> float | None:
    value = new.counter(counter)
    return None if value is None else value - (old.counter(counter) or 0.0)


def _ends(span: Span, latency: str, since: float) -> Ends:
    """Return a histogram at both ends of a span; nothing if the body lacked it at the first.

    `since` is when it was first exposed: a histogram that appears later began at 0, one that returns has kept counting.
    """
    old, new = (poll[1].histogram(latency) for poll in span)
    return (None, None) if old is None and span.before[0] >= since else (old, new)


async def _quantiles(ends: Sequence[Ends]) -> AsyncIterator[tuple[int, list[Quantile]]]:
    """Yield the quantiles of the observations between two readings; empty if they are unknown."""
    for first in range(0, len(ends), TOGETHER):
        seen = [(new.bounds if new else (), between(old, new)) for old, new in ends[first : first + TOGETHER]]
        found = estimates([(bounds, [poll] if poll else []) for bounds, poll in seen], QUANTILES)
        for place, quantiles in enumerate(found, first):
            yield place, quantiles
        await asyncio.sleep(0)
