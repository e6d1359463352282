"""How quantiles came about, for each latency of each engine."""

from __future__ import annotations

import json

import pytest
from readings import ENGINE, histogram, readings

from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.serve.explanations import explanations

TTFT = "time_to_first_token_seconds"


def store() -> WindowStore:
    windows = WindowStore(60.0, 300.0)
    for at, (counts, total) in enumerate([((0, 0, 0, 0), 0.0), ((0, 1, 0, 0), 1.25), ((0, 1, 2, 0), 7.25)]):
        windows.append(float(at), readings({ENGINE: {TTFT: histogram(*counts, total=total)}}))
    return windows


async def test_each_bucket_has_its_moments_and_each_quantile_that_of_prometheus() -> None:
    (found,) = json.loads(json.dumps(await explanations(store())))
    assert found["latency"] == "time_to_first_token"
    assert [each["quantile"] for each in found["quantiles"]] == [0.5, 0.9, 0.95, 0.99]
    first, second = found["buckets"]
    assert (first["bounds"], first["observations"], first["exact_ratio"]) == ([1.0, 2.0], 1.0, 1.0)
    assert first["mean"] == pytest.approx(1.25, abs=0.01)
    assert (second["bounds"], second["observations"], second["exact_ratio"]) == ([2.0, 4.0], 2.0, 0.0)
    assert second["mean"] == pytest.approx(3.0, abs=0.4)
    assert found["quantiles"][-1]["interpolated"] == pytest.approx(3.97)


async def test_a_target_without_observations_has_none() -> None:
    assert await explanations(WindowStore(60.0, 300.0)) == []
