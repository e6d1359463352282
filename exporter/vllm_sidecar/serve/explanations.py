"""How the recent quantiles came about, bucket by bucket: to understand a p95 that looks wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.derived import LATENCIES
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.derive.latency import QUANTILES
from vllm_sidecar.quantiles import explain

if TYPE_CHECKING:
    from vllm_sidecar.quantiles import BucketEstimate, Explanation
    from vllm_sidecar.series.store import WindowStore


async def explanations(windows: WindowStore) -> list[dict[str, object]]:
    """Return the explanation of each latency of each engine of a target, as plain JSON values; in seconds.

    Others run after each latency. A latency without observations in the window is left out.
    """
    found = []
    for group, window in windows.of(Scope.ENGINE).items():
        for name, histogram in LATENCIES.items():
            recent = window.observed(histogram)
            if recent is not None and recent.observations > 0:
                explained = explain(recent.bounds, window.observed_by_poll(histogram), QUANTILES)
                which = {"model_name": group.labels[0], "engine": group.labels[1], "latency": name}
                found.append(which | _json(explained))
                await asyncio.sleep(0)
    return found


def _json(explained: Explanation) -> dict[str, object]:
    quantiles = [
        {"quantile": each.q, "value": each.value, "interpolated": line, "bounds": [each.lower, each.upper]}
        for each, line in zip(explained.quantiles, explained.interpolated, strict=True)
    ]
    return {
        "quantiles": quantiles,
        "buckets": [_bucket(each) for each in explained.buckets],
        "moving_level_belief": explained.moving_level_belief,
    }


def _bucket(bucket: BucketEstimate) -> dict[str, object]:
    return {
        "bounds": [bucket.lower, bucket.upper],
        "observations": bucket.observations,
        "mean": bucket.mean,
        "deviation": bucket.deviation,
        "drift": bucket.drift,
        "exact_ratio": bucket.exact_ratio,
    }
