"""Totals of a server's requests in its window and before it, to compare their shape now with the past.

The past needs no memory: vLLM's own counters hold what happened since its start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.types import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_sidecar.series.readings import Reading
    from vllm_sidecar.series.store import WindowStore
    from vllm_sidecar.series.stored_reading import StoredReading

PROMPT, OUTPUT = "request_prompt_tokens", "request_generation_tokens"


@dataclass(frozen=True, slots=True)
class RequestTotals:
    """Counts of the server in one period; None where it does not count something."""

    seconds: float | None
    requests: float | None
    """Requests that finished."""
    prompt_tokens: float | None
    output_tokens: float | None
    queried_tokens: float | None
    """Tokens that were looked up in the prefix cache."""
    hit_tokens: float | None
    corrupted: float | None


class Periods(NamedTuple):
    """Totals of the window (None after one poll), and of the time from the server's start to the window."""

    recent: RequestTotals | None
    before: RequestTotals


def request_totals(windows: WindowStore, started: float | None) -> Periods | None:
    """Return the totals of all engines; `started` is on the clock of the windows. None without an engine."""
    engines = list(windows.of(Scope.ENGINE).values())
    if not engines:
        return None
    begin = min(window.now - window.seconds for window in engines)
    age = begin - started if started is not None and begin > started else None
    before = _sums(window.oldest for window in engines)
    recent = None
    if all(window.polls > 1 for window in engines):
        now = _sums(window.latest for window in engines)
        recent = {name: _grown(value, before[name]) for name, value in now.items()}
    return Periods(
        RequestTotals(windows.now - begin, **recent) if recent is not None else None, RequestTotals(age, **before)
    )


def _grown(now: float | None, before: float | None) -> float | None:
    """Return the growth of a total; None if it is not exposed, or fell because observations were negative."""
    grown = None if now is None else now - (before or 0.0)
    return grown if grown is None or grown >= 0.0 else None


def _sums(readings: Iterable[Reading | StoredReading]) -> dict[str, float | None]:
    found = list(readings)
    return {
        "requests": _sum(_count(each, PROMPT) for each in found),
        "prompt_tokens": _sum(_total(each, PROMPT) for each in found),
        "output_tokens": _sum(_total(each, OUTPUT) for each in found),
        "queried_tokens": _sum(each.counter("prefix_cache_queried_tokens_total") for each in found),
        "hit_tokens": _sum(each.counter("prefix_cache_hit_tokens_total") for each in found),
        "corrupted": _sum(each.counter("requests_corrupted_total") for each in found),
    }


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _count(reading: Reading | StoredReading, name: str) -> float | None:
    histogram = reading.histogram(name)
    return None if histogram is None else histogram.cumulative[-1]


def _total(reading: Reading | StoredReading, name: str) -> float | None:
    histogram = reading.histogram(name)
    return None if histogram is None else histogram.total
