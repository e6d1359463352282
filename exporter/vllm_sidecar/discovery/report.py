"""How the sources are doing -> series, and the part `discovery` of the status; without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.discovery import SOURCE_HINTS, EntryState, SourceReason
from vllm_sidecar.exposition import labels_text

if TYPE_CHECKING:
    from vllm_sidecar.discovery.finder import Finder
    from vllm_sidecar.discovery.source import Source
    from vllm_sidecar.exposition.metric_values import Value


def samples(finder: Finder) -> dict[str, list[tuple[str, Value]]]:
    """Return signal -> its series."""
    found: dict[str, list[tuple[str, Value]]] = {}

    def add(signal: str, value: float, *labels: tuple[str, str]) -> None:
        found.setdefault(signal, []).append((labels_text(labels), float(value)))

    for source in finder.sources:
        place = ("discovery", source.place)
        outcome = finder.selection.outcomes.get(source.place)
        for state in EntryState:
            add("discovery_targets", outcome.counts[state] if outcome else 0, place, ("state", state.value))
        add("discovery_last_refresh_successful", source.is_current, place)
        if source.last_success is not None:
            add("discovery_last_success_timestamp_seconds", source.last_success, place)
        for reason in SourceReason:
            add("discovery_failures_total", source.failures[reason], place, ("reason", reason.value))
    return found


def status(finder: Finder) -> list[dict[str, object]]:
    """Return the status of all sources as plain JSON values."""
    return [_source(finder, source) for source in finder.sources]


def _source(finder: Finder, source: Source) -> dict[str, object]:
    outcome, error = finder.selection.outcomes.get(source.place), source.last_error
    return {
        "discovery": source.place,
        "current": source.is_current,
        "last_success": source.last_success,
        "last_error": {"reason": error.reason.value, "detail": error.detail, "hint": SOURCE_HINTS[error.reason]}
        if error
        else None,
        "targets": {state.value: outcome.counts[state] if outcome else 0 for state in EntryState},
        "refused": [{"address": one.address, "state": one.state.value, "why": one.why} for one in outcome.refused]
        if outcome
        else [],
    }
