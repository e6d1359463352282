"""Saturation next to the truth: simulated servers at known shares of the load at which their objective breaks."""

from __future__ import annotations

from statistics import fmean

import pytest
from saturation_shapes import FIRST, HELD_OUT, SECOND, THIRD
from simulated_load import WARM, FollowedEngine, holds

from vllm_sidecar.derive.saturation import first_limit, saturation

pytestmark = pytest.mark.slow

SHAPES = {**FIRST, **HELD_OUT, **SECOND, **THIRD}
LIMITS = {
    "batch": "batch",
    "KV cache": "kv_cache",
    "prefill": "prefill",
    "adapter": "adapter",
    "two slots": "adapter",
    "documents": "kv_cache",
    "shared prefix": "kv_cache",
    "classification": "prefill",
}
SECONDS = 800


@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("name", LIMITS)
def test_the_signal_is_within_ten_points_of_the_truth_and_names_the_limit(name: str, share: float) -> None:
    followed, seen, named = FollowedEngine(SHAPES[name].look(share * SHAPES[name].guess, seed=5)), [], 0.0
    for at in range(1, int(WARM) + SECONDS):
        followed.poll(float(at))
        if at > WARM and at % 15 == 0:
            seen.extend(saturation(followed.engine).values())
            named += first_limit(followed.engine).get(LIMITS[name], 0.0)
    assert fmean(seen) == pytest.approx(share, abs=0.1)
    assert named > 0.9 * len(seen)


def test_the_objective_breaks_where_the_bench_found_it() -> None:
    shape = SHAPES["batch"]
    assert holds(shape, 0.85 * shape.guess, 300.0, seeds=(3, 4))
    assert not holds(shape, 1.2 * shape.guess, 300.0, seeds=(3, 4))
