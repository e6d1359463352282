"""The queue as it is now: who waits, and for how long it will take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.derive.stalls import trusted

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.derive.inputs import EngineInputs
    from vllm_sidecar.series.readings import Key


def peak_of(gauge: Key) -> Callable[[EngineInputs], float | None]:
    """Make the derivation of a gauge's largest value in the window; None where the server does not give it."""

    def peak(engine: EngineInputs) -> float | None:
        extent = engine.window.extent(gauge)
        return extent.peak if extent else None

    return peak


def mean_of(gauge: Key) -> Callable[[EngineInputs], float | None]:
    """Make the derivation of a gauge's mean over the polls of the window; None where the server does not give it."""

    def mean(engine: EngineInputs) -> float | None:
        extent = engine.window.extent(gauge)
        return extent.mean if extent else None

    return mean


def live_wait_seconds(engine: EngineInputs) -> float | None:
    """Estimate how long a request that arrives now will wait: Little's law, waiting / admission rate.

    Admissions are counted as first tokens, in the window or since requests began to wait, whichever is shorter: the
    rate before that says how many came, not how many get in. Nobody gets in faster than the last one did: the time
    since the last admission, while requests wait, is a lower bound, and all there is to say when nothing was
    admitted. 0 while nothing waits, also where the gauge froze when those that waited left; None where the server does
    not tell how many wait, and where the gauge froze and nothing says whether anybody does.
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
