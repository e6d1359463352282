"""Recent latency quantiles, and the parts of the time to the first token."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from vllm_sidecar.catalog.derived import LATENCIES
from vllm_sidecar.exposition.metric_values import Summary
from vllm_sidecar.quantiles import bucket_bounds, estimates
from vllm_sidecar.series.window import between

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.derive.inputs import EngineInputs
    from vllm_sidecar.quantiles import Quantile
    from vllm_sidecar.series.window import Increase, Window

TTFT = "time_to_first_token_seconds"
QUANTILES = (0.5, 0.9, 0.95, 0.99)
BOUNDED_QUANTILE = 0.95
"""The quantile that is exported with the bounds of its bucket: the one for alerts."""


def quantiles_of(histogram: str) -> Callable[[EngineInputs], Summary | None]:
    """Make the derivation of the recent quantiles of one histogram.

    It returns None if the server does not expose the histogram. Quantiles are left out if the window has fewer
    observations than configured; sum and count are those since the server's start, as in any summary.
    """

    def summary(engine: EngineInputs) -> Summary | None:
        window = engine.window
        whole = window.latest.histograms.get(histogram)
        if whole is None:
            return None
        recent = window.observed(histogram)
        if not _are_enough(recent, engine.server.settings.min_observations):
            return Summary((), whole.total, whole.cumulative[-1], (), recent.observations if recent else 0.0)
        found = _estimated(window, {histogram: recent.bounds})[histogram]
        return Summary(
            tuple([(quantile.q, _rounded(quantile)) for quantile in found]),
            whole.total,
            whole.cumulative[-1],
            tuple([(quantile.lower, quantile.upper) for quantile in found]),
            recent.observations,
        )

    return summary


def prepare(window: Window, min_observations: float) -> None:
    """Estimate the recent quantiles of an engine together for later calls: the largest cost of a snapshot."""
    observed = [(histogram, window.observed(histogram)) for histogram in LATENCIES.values()]
    _estimated(window, {histogram: each.bounds for histogram, each in observed if _are_enough(each, min_observations)})


def _are_enough(recent: Increase | None, min_observations: float) -> TypeGuard[Increase]:
    return recent is not None and recent.observations >= max(1, min_observations)


def _estimated(window: Window, bounds: dict[str, tuple[float, ...]]) -> dict[str, list[Quantile]]:
    """Return the quantiles of the histograms with these bounds."""

    def make(names: Sequence[str]) -> list[list[Quantile]]:
        return estimates([(bounds[name], window.observed_by_poll(name)) for name in names], QUANTILES)

    return window.each_once(list(bounds), make)


def _rounded(quantile: Quantile) -> float:
    """Drop digits beyond the precision of the estimate, which would differ between machines; it stays in its bucket."""
    value = max(quantile.lower, float(f"{quantile.value:.6g}"))
    return value if quantile.upper is None else min(value, quantile.upper)


def observations(engine: EngineInputs) -> dict[str, float]:
    """Return the number of observations in the window behind each recent latency, by its name."""
    found = ((name, engine.window.observed(histogram)) for name, histogram in LATENCIES.items())
    return {name: recent.observations for name, recent in found if recent is not None}


def p95_bounds(engine: EngineInputs) -> dict[tuple[str, str], float]:
    """Return the bounds of the bucket that certainly contains the recent p95 of each latency, by name and side.

    The +Inf bucket has no upper bound, and without recent quantiles there is none.
    """
    found: dict[tuple[str, str], float] = {}
    for name, histogram in LATENCIES.items():
        recent = engine.window.observed(histogram)
        if _are_enough(recent, engine.server.settings.min_observations):
            lower, upper = bucket_bounds(recent.bounds, recent.counts, BOUNDED_QUANTILE)
            found[name, "lower"] = lower
            if upper is not None:
                found[name, "upper"] = upper
    return found


def _mean(engine: EngineInputs, histogram: str) -> float | None:
    recent = engine.window.observed(histogram)
    return (
        recent.total / recent.observations if recent and recent.observations > 0 and recent.total is not None else None
    )


def first_token_shares(engine: EngineInputs) -> dict[str, float]:
    """Split the mean time to the first token of finished requests into queue, prefill and other; they add up to 1.

    Other is the front end: tokenization, templates, and the way to the engine and back. If queue and prefill exceed the
    total they are scaled down to it. Empty without observations.
    """
    whole = _mean_before_decode(engine)
    queue = _mean(engine, "request_queue_seconds")
    prefill = _mean(engine, "request_prefill_seconds")
    if not whole or queue is None or prefill is None:
        return {}
    known = max(whole, queue + prefill)
    return {"queue": queue / known, "prefill": prefill / known, "other": max(0.0, known - queue - prefill) / known}


def _mean_before_decode(engine: EngineInputs) -> float | None:
    """Return the mean time to the first token of the requests that finished in the window, about.

    Queue and prefill are observed when a request finishes, and the first token when it arrives: earlier by the time of
    decoding. Over the same seconds they are those of other requests, and a queue that has just begun would look like
    time in the front end. None without observations.
    """
    window, decode = engine.window, _mean(engine, "request_decode_seconds")
    until = window.now - (decode or 0.0)
    first = last = None
    ended = window.now
    for at, reading in window.history() if decode else ():
        if first is None or at <= until - window.seconds:
            first = reading
        if last is None or at <= until:
            last, ended = reading, at
    are_close = until - ended < (decode or 0.0) / 2.0  # otherwise the polls are too far apart for that
    if first is not None and last is not None and are_close:
        seen = between(first.histogram(TTFT), last.histogram(TTFT))
        count = sum([count for _, count in seen.bins]) if seen else 0.0
        if seen and seen.total is not None and count > 0.0:
            return seen.total / count
    return _mean(engine, TTFT)
