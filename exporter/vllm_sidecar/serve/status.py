"""Snapshots -> the JSON of /api/v1/status: the known data, its sources, and missing signals. Contains no secrets."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar import __version__
from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.reasons import GPU_HINTS, HINTS
from vllm_sidecar.exposition.metric_values import Histogram, Summary
from vllm_sidecar.redaction import redact
from vllm_sidecar.serve.state import NO_GPUS, states_json
from vllm_sidecar.slices import at_once

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from vllm_sidecar.catalog.reasons import Reason
    from vllm_sidecar.exposition.metric_values import Value
    from vllm_sidecar.series.health import Health
    from vllm_sidecar.series.request_totals import Periods
    from vllm_sidecar.serve.snapshot import Snapshot
    from vllm_sidecar.serve.state import Samples, State

    Steps = Generator[None, None, dict[str, object]]


class NodeGpus(NamedTuple):
    """The GPUs of the node."""

    health: Health
    samples: Samples


def status(
    snapshots: Iterable[Snapshot],
    gpus: NodeGpus | None = None,
    without_targets: State | None = None,
    discovery: Sequence[Mapping[str, object]] = (),
    otlp: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return the status without a pause; see `status_steps`."""
    return at_once(status_steps(snapshots, gpus, without_targets, discovery, otlp))


def status_steps(
    snapshots: Iterable[Snapshot],
    gpus: NodeGpus | None = None,
    without_targets: State | None = None,
    discovery: Sequence[Mapping[str, object]] = (),
    otlp: Mapping[str, object] | None = None,
) -> Steps:
    """Return the status of everything as plain JSON values.

    Args:
        snapshots: Those of the targets.
        gpus: None if they are not watched.
        without_targets: Why there are no targets, if there are none and that is intended.
        discovery: The status of each source of servers.
        otlp: The status of the pushes over OTLP; None while there are none.
    """
    known = list(snapshots)
    # With several targets the owner of the GPUs is unknown.
    joined = gpus.samples if gpus and len(known) == 1 else NO_GPUS
    targets = []
    for snapshot in known:
        targets.append((yield from _target(snapshot, joined)))  # noqa: PERF401 - a comprehension cannot pause
    return {
        "version": __version__,
        "state": without_targets.as_json() if without_targets else None,
        "targets": targets,
        "gpus": (yield from _gpus(gpus)) if gpus else None,
        "discovery": list(discovery),
        "otlp": dict(otlp) if otlp else None,
    }


def _gpus(gpus: NodeGpus) -> Steps:
    health = gpus.health
    return {
        "up": health.up,
        "last_error": _error(health, GPU_HINTS),
        "misses": health.misses,
        "polls": health.polls,
        "last_success": health.last_success,
        "interval_seconds": health.interval,
        "poll_seconds": health.seconds,
        "signals": (yield from _signals(gpus.samples)),
    }


def _signals(samples: Samples) -> Steps:
    found: dict[str, object] = {}
    for name, series in samples.items():
        yield
        if SIGNALS[name].kind != "info":
            found[name] = {
                "unit": SIGNALS[name].unit.suffix,
                "series": [{"labels": labels, **_value(value)} for labels, value in series],
            }
    return found


def _target(snapshot: Snapshot, gpus: Samples) -> Steps:
    health, readings, scraped = snapshot.health, snapshot.readings, snapshot.scraped
    identity = snapshot.identity
    return {
        "target": snapshot.target or None,
        "up": health.up,
        **(yield from states_json(snapshot, gpus)),
        "last_error": _error(health, HINTS),
        "misses": health.misses,
        "polls": health.polls,
        "last_success": health.last_success,
        "interval_seconds": health.interval,
        "response_seconds": health.seconds,
        "server_time_ratio": health.server_time_ratio,
        "process": {
            "restarts_seen": snapshot.restarts,
            "recent_restarts": snapshot.recent_restarts,
            "started": readings.started if readings else None,
        },
        "request_totals": _periods(snapshot.request_totals),
        "dialect": asdict(readings.dialect) if readings else None,
        "identity": asdict(identity),
        "canary": list(snapshot.canary),
        "probes": {source: asdict(probe) for source, probe in snapshot.probes.items()},
        "cache_config": [
            dict(zip(group.scope.labels, group.labels, strict=True)) | dict(config)
            for group, config in readings.cache_config.items()
        ]
        if readings
        else [],
        "missing": list(readings.missing) if readings else [],
        "unknown": list(readings.unknown) if readings else [],
        "unknown_labels": list(readings.unknown_labels[:100]) if readings else [],
        "unattributed": list(readings.unattributed) if readings else [],
        "rejected_lines": [asdict(line) | {"text": redact(line.text)} for line in scraped.exposition.rejected]
        if scraped
        else [],
        "sources": {name: list(found) for name, found in readings.sources.items()} if readings else {},
        "signals": (yield from _signals(snapshot.samples)),
    }


def _periods(periods: Periods | None) -> dict[str, object]:
    if periods is None:
        return {"recent": None, "before": None}
    return {"recent": asdict(periods.recent) if periods.recent else None, "before": asdict(periods.before)}


def _error(health: Health, hints: Mapping[Reason, str]) -> dict[str, str] | None:
    if health.reason is None:
        return None
    return {"reason": health.reason.value, "detail": redact(health.detail), "hint": hints[health.reason]}


def _value(value: Value) -> dict[str, object]:
    if isinstance(value, Histogram):
        return {"count": value.cumulative[-1], "sum": value.total}
    if isinstance(value, Summary):
        return {
            "quantiles": dict(value.quantiles),
            "bounds": {q: list(around) for (q, _), around in zip(value.quantiles, value.bounds, strict=False)},
            "observations": value.recent,
            "count": value.observations,
            "sum": value.total,
        }
    return {"value": value if isfinite(value) else None}
