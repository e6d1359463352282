"""Panels that many dashboards have, each made in one line."""

from __future__ import annotations

from typing import Any

from vllm_sidecar.catalog.dashboards.panel import WIDTH, Color, Panel, Query, Style
from vllm_sidecar.catalog.derived import LATENCIES
from vllm_sidecar.catalog.types import Unit

ENGINE = "{{instance}}/{{engine}} {{target}}"
SERVER = "{{instance}} {{target}}"
GPU = "{{instance}} GPU {{gpu}}"
FINISHED = (
    ("stop", Color.GOOD),
    ("length", Color.PROMPT),
    ("abort", Color.HISTOGRAM),
    ("repetition", Color.WATCH),
    ("error", Color.BAD),
)
STATUSES = (("2xx", Color.GOOD), ("3xx", Color.HISTOGRAM), ("4xx", Color.WATCH), ("5xx", Color.BAD))
PARTS = (("queue", Color.WAITING), ("prefill", Color.PROMPT), ("other", Color.HISTOGRAM))
REASONS = (
    ("capacity", Color.WAITING),
    ("deferred", Color.P95),
    ("swapped", Color.BAD),
    ("unspecified", Color.HISTOGRAM),
)
LIMIT_HELP = (
    "Batch: --max-num-seqs, or more replicas. KV cache: fewer or shorter requests, or a larger cache. Adapter: --max-loras. "
    "Transfer: KV blocks or a grammar that is not ready."
)
NO_SIDECAR = "Needs the sidecar: not available where Prometheus scrapes vLLM itself."
NO_SIDECAR_SHORT = "no sidecar"
"""The same where there is room for a number."""


def lines(title: str, text: str, unit: Unit, *queries: Query, **more: Any) -> Panel:
    """Make a panel of lines over time."""
    return Panel(title=title, help=text, style=Style.LINES, unit=unit, queries=queries, **more)


def number(title: str, text: str, unit: Unit, expr: str, plain: str = "", **more: Any) -> Panel:
    """Make a panel with the last value as a number; if there is none, it has room for a few words."""
    more = {"width": 4, "height": 4, **more}
    return Panel(
        title=title, help=text, style=Style.NUMBERS, unit=unit, queries=(Query(expr, "", plain=plain),), **more
    )


def table(title: str, text: str, *columns: Query, **more: Any) -> Panel:
    """Make a table of current values, with a column for each label and each query."""
    more = {"width": WIDTH, "height": 9, **more}
    return Panel(title=title, help=text, style=Style.TABLE, queries=columns, **more)


def states(title: str, text: str, *queries: Query, **more: Any) -> Panel:
    """Make bars over time that show states in words."""
    more = {"width": WIDTH, "height": 8, "least": None, **more}
    return Panel(title=title, help=text, style=Style.STATES, queries=queries, **more)


def bars(title: str, text: str, unit: Unit, *queries: Query, **more: Any) -> Panel:
    """Make horizontal bars of current values."""
    return Panel(title=title, help=text, style=Style.BARS, unit=unit, queries=queries, **more)


def heatmap(title: str, text: str, histogram: str, unit: Unit = Unit.SECONDS, **more: Any) -> Panel:
    """Make a heatmap of a histogram: how many observations fell into each bucket."""
    expr = f"sum by (le) (increase(~{histogram}_bucket[$__rate_interval]))"
    query = Query(expr, "{{le}}")
    return Panel(title=title, help=text, style=Style.HEATMAP, unit=unit, queries=(query,), least=None, **more)


def words(title: str, text: str, markdown: str, **more: Any) -> Panel:
    """Make a panel of text."""
    more = {"width": WIDTH, **more}
    return Panel(title=title, help=text, style=Style.TEXT, text=markdown, **more)


def by_histogram(quantile: float, histogram: str, by: str = "<<E>>") -> str:
    """Return Prometheus' quantile of a histogram, which assumes values spread evenly within wide buckets."""
    return f"histogram_quantile({quantile:g}, sum by ({by}, le) (rate(~{histogram}_bucket[$__rate_interval])))"


def quantiles(latency: str, legend: str = ENGINE) -> tuple[Query, ...]:
    """Return the recent p50, p95 and p99 of a latency, and the p95 of its histogram to compare."""
    recent = tuple(
        Query(f'~recent_{latency}{{quantile="{quantile:g}"}}', f"{name} {legend}", color)
        for quantile, name, color in ((0.5, "p50", Color.P50), (0.95, "p95", Color.P95), (0.99, "p99", Color.P99))
    )
    histogram = Query(by_histogram(0.95, latency), f"p95 by buckets {legend}", Color.HISTOGRAM, dashed=True)
    return (*recent, histogram)


def recent_p95(latency: str, legend: str, color: Color = Color.P95) -> Query:
    """Return the recent p95 of a latency; without the sidecar, that of its histogram."""
    return Query(f'~recent_{latency}{{quantile="0.95"}}', legend, color, by_histogram(0.95, latency))


def bounds(latency: str) -> tuple[Query, ...]:
    """Return the recent p95 and the bounds of the bucket that certainly holds it."""
    short = next(name for name, histogram in LATENCIES.items() if histogram == latency)
    found = tuple(
        Query(f'~recent_latency_bound_seconds{{latency="{short}",bound="{bound}"}}', f"{bound} {ENGINE}", Color.HISTOGRAM, dashed=True)
        for bound in ("upper", "lower")
    )  # fmt: skip
    return (Query(f'~recent_{latency}{{quantile="0.95"}}', f"p95 {ENGINE}", Color.P95), *found)
