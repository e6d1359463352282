"""The current queue: waiting requests, and the expected wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.derive.stalls import trusted

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.derive.inputs import EngineInputs
    from vllm_sidecar.series.readings import Key


def peak_of(gauge: Key) -> Callable[[EngineInputs], float | None]:
    """Make the derivation of a gauge's largest value in the window; None if the server does not expose it."""

    def peak(engine: EngineInputs) -> float | None:
        extent = engine.window.extent(gauge)
        return extent.peak if extent else None

    return peak


def mean_of(gauge: Key) -> Callable[[EngineInputs], float | None]:
    """Make the derivation of a gauge's mean over the polls of the window; None if the server does not expose it."""

    def mean(engine: EngineInputs) -> float | None:
        extent = engine.window.extent(gauge)
        return extent.mean if extent else None

    return mean


def live_wait_seconds(engine: EngineInputs) -> float | None:
    """Estimate how long a request that arrives now will wait: Little's law, waiting / admission rate.

    Admissions are counted as first tokens, in the window or since requests began to wait, whichever is shorter: the
    earlier rate is that of arrivals, not of admissions. The time since the last admission, while requests wait, is a
    lower bound, and the result if nothing was admitted. 0 while nothing waits, also if the gauge froze when the waiting
    clients left. None if the server does not expose the waiting requests, and if the gauge froze and it is unknown
    whether clients wait.
    """
    window, progress = engine.window, engine.window.progress
    waiting, live = window.latest.gauges.get("requests_waiting"), trusted(engine)
    if waiting is None or live is None:
        return None
    if progress.waiting_since is None or not live:
        return 0.0
    seconds, admitted = window.now - progress.waiting_since, progress.admitted_while_waiting
    since = window.now - max(progress.admission_at, progress.waiting_since)
    if seconds > window.seconds:
        recent = window.observed("time_to_first_token_seconds")
        seconds, admitted = window.seconds, recent.observations if recent else 0.0
    return max(since, waiting * seconds / admitted) if admitted > 0.0 else since
