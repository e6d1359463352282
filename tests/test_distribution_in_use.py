"""Percentiles through the whole program: what the status says of them, and that a scrape equals the function."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from readings import ENGINE, histogram, readings
from vllm_sidecar.derive.views import Settings
from vllm_sidecar.distribution import window_quantiles
from vllm_sidecar.health import Health
from vllm_sidecar.model import Identity, Readings
from vllm_sidecar.snapshot import Snapshot, Snapshotter
from vllm_sidecar.status import status
from vllm_sidecar.window import Windows

TTFT = "time_to_first_token_seconds"
POLLS = [((0, 0, 0, 0), 0.0), ((0, 3, 0, 0), 4.2), ((0, 3, 1, 0), 7.3), ((0, 9, 2, 1), 27.0)]


def snapshot() -> Snapshot:
    windows, made = Windows(60.0, 300.0), None
    for at, (counts, total) in enumerate(POLLS):
        made = readings({ENGINE: {TTFT: histogram(*counts, total=total)}})
        windows.append(float(at), made)
    assert isinstance(made, Readings)
    health = Health("vllm").succeeded(last_success=0.0, seconds=0.01)
    return Snapshotter("", (), Settings()).take(made, windows, Identity(), health)


def test_the_status_has_each_percentile_with_the_edges_of_its_bucket_and_the_observations() -> None:
    report = json.loads(json.dumps(status([snapshot()])))
    [series] = report["targets"][0]["signals"]["recent_time_to_first_token_seconds"]["series"]
    assert series["bounds"] == {"0.5": [1.0, 2.0], "0.9": [2.0, 4.0], "0.95": [4.0, None], "0.99": [4.0, None]}
    assert set(series["quantiles"]) == set(series["bounds"])
    assert (series["observations"], series["count"], series["sum"]) == (12, 12, 27.0)
    for q, (lower, upper) in series["bounds"].items():
        assert lower <= series["quantiles"][q]
        assert upper is None or series["quantiles"][q] <= upper


def test_the_window_gives_what_the_function_gives_of_all_its_polls() -> None:
    increments = [
        ([float(b - a) for a, b in zip(old, new, strict=True)], total - before)
        for (old, before), (new, total) in pairwise(POLLS)
    ]
    expected = window_quantiles((1.0, 2.0, 4.0), increments, (0.5, 0.9, 0.95, 0.99))
    [(_, summary)] = snapshot().samples["recent_time_to_first_token_seconds"]
    assert [value for _, value in summary.quantiles] == pytest.approx(expected, rel=1e-5)  # type: ignore[union-attr]
