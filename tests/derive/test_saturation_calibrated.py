"""Saturation next to the truth: simulated servers at known shares of the load at which their objective breaks."""

from __future__ import annotations

from statistics import fmean

import pytest
from simulated_load import WARM, FollowedEngine, Shape, holds

from vllm_sidecar.derive.saturation import first_limit, saturation

pytestmark = pytest.mark.slow

ALONE = {"prefix_tokens": 0, "shared_ratio": 0.0}
SHAPES = {
    "batch": Shape({"max_num_seqs": 16}, {**ALONE, "prompt_tokens": 200.0, "output_tokens": 300.0}, 3.85),
    "kv_cache": Shape({"max_num_seqs": 64}, {"prompt_tokens": 2500.0, "output_tokens": 700.0}, 1.14),
    "prefill": Shape(
        {"max_num_seqs": 64, "num_gpu_blocks": 16384},
        {**ALONE, "prompt_tokens": 3000.0, "prompt_sigma": 0.4, "output_tokens": 30.0},
        4.56,
    ),
    "adapter": Shape({"max_loras": 4, "adapters": 8}, {"adapters_wanted": 8, "output_tokens": 100.0}, 5.78),
}
"""With the rates at which `tests/bench/bench_saturation.py` found that the objective breaks."""
SECONDS = 400


@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("limit", SHAPES)
def test_the_signal_is_within_ten_points_of_the_truth_and_names_the_limit(limit: str, share: float) -> None:
    followed, seen, named = FollowedEngine(SHAPES[limit].look(share * SHAPES[limit].guess, seed=5)), [], 0.0
    for at in range(1, int(WARM) + SECONDS):
        followed.poll(float(at))
        if at > WARM and at % 15 == 0:
            seen.extend(saturation(followed.engine).values())
            named += first_limit(followed.engine).get(limit, 0.0)
    assert fmean(seen) == pytest.approx(share, abs=0.1)
    assert named > 0.9 * len(seen)


def test_the_objective_breaks_where_the_bench_found_it() -> None:
    shape = SHAPES["batch"]
    assert holds(shape, 0.85 * shape.guess, 300.0, seeds=(3, 4))
    assert not holds(shape, 1.2 * shape.guess, 300.0, seeds=(3, 4))
