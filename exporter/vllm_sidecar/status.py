"""Snapshots -> the JSON of /api/v1/status: what is known, where from, and what is missing. Holds no secret."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING

from vllm_sidecar import __version__
from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.model import Histogram, Summary
from vllm_sidecar.remedy import REMEDY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_sidecar.model import Value
    from vllm_sidecar.snapshot import Snapshot


def status(snapshots: Iterable[Snapshot]) -> dict[str, object]:
    """Return the status of all targets as plain JSON values."""
    return {"version": __version__, "targets": [_target(snapshot) for snapshot in snapshots]}


def _target(snapshot: Snapshot) -> dict[str, object]:
    health, readings, polled = snapshot.health, snapshot.readings, snapshot.polled
    identity = snapshot.identity
    return {
        "target": snapshot.target or None,
        "up": health.up,
        "last_error": _error(snapshot),
        "misses": health.misses,
        "polls": health.polls,
        "last_success": health.last_success,
        "interval_seconds": health.interval,
        "response_seconds": health.seconds,
        "server_time_ratio": health.server_time_ratio,
        "filtered": health.filtered,
        "life": {"restarts_seen": snapshot.restarts, "started": readings.started if readings else None},
        "dialect": asdict(readings.dialect) if readings else None,
        "identity": asdict(identity),
        "cache_config": dict(readings.cache_config) if readings else {},
        "missing": list(readings.missing) if readings else [],
        "unknown": list(readings.unknown) if readings else [],
        "rejected_lines": [asdict(line) for line in polled.exposition.rejected] if polled else [],
        "sources": dict(readings.sources) if readings else {},
        "signals": {
            name: {
                "unit": SIGNALS[name].unit.suffix,
                "series": [{"labels": labels, **_value(value)} for labels, value in series],
            }
            for name, series in snapshot.samples.items()
            if SIGNALS[name].kind != "info"
        },
    }


def _error(snapshot: Snapshot) -> dict[str, str] | None:
    health = snapshot.health
    if health.reason is None:
        return None
    return {"reason": health.reason.value, "detail": health.detail, "remedy": REMEDY[health.reason]}


def _value(value: Value) -> dict[str, object]:
    if isinstance(value, Histogram):
        return {"count": value.cumulative[-1], "sum": value.total}
    if isinstance(value, Summary):
        return {
            "quantiles": dict(value.quantiles),
            "bounds": {q: list(edges) for (q, _), edges in zip(value.quantiles, value.bounds, strict=False)},
            "observations": value.recent,
            "count": value.observations,
            "sum": value.total,
        }
    return {"value": value if isfinite(value) else None}
