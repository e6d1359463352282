"""Data parallelism: the balance of work between the engines of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.derive.inputs import ModelInputs
    from vllm_sidecar.series.window import Window


def engines(model: ModelInputs) -> float:
    """Return how many engines the server reports for the model."""
    return float(len(model.windows))


def imbalance(model: ModelInputs) -> dict[str, float]:
    """Return 1 - mean / max over the engines, of requests (running and waiting) and of tokens generated per second.

    0 is balanced; one of n engines doing everything is 1 - 1/n. Only engines that share a load are compared: not the
    stages of a pipeline, and of several groups the worst counts. Empty for a single engine. A part is absent while all
    are idle, and tokens are absent until each engine has been polled twice.
    """
    sharing: dict[tuple[str, ...], list[Window]] = {}
    for name, window in model.windows.items():
        sharing.setdefault(model.work.get(name, ()), []).append(window)
    worst: dict[str, float] = {}
    for windows in sharing.values():
        for name, value in _imbalance(windows).items():
            worst[name] = max(value, worst.get(name, 0.0))
    return worst


def _imbalance(windows: Sequence[Window]) -> dict[str, float]:
    if len(windows) < 2:
        return {}
    requests: list[float] = []
    rates: list[float] = []  # an engine that has just started has a shorter window
    for window in windows:
        extents = [window.extent("requests_running"), window.extent("requests_waiting")]
        requests.append(sum(extent.mean for extent in extents if extent))
        tokens = window.increase("generation_tokens_total")
        if tokens is not None and window.seconds > 0.0:
            rates.append(tokens / window.seconds)
    parts = {"requests": requests, "generation_tokens": rates if len(rates) == len(windows) else []}
    return {
        name: 1.0 - sum(load) / len(load) / max(load) for name, load in parts.items() if max(load, default=0.0) > 0.0
    }
