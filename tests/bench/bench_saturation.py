"""How near `saturation_ratio` is to the truth: the load as a share of the load at which the objective breaks.

    python tests/bench/bench_saturation.py [--held-out | --new] [--seconds N] [SHAPE ...]

The rate at which fewer than 99 % of the requests of six runs of a simulated server get their first token within 2.5 s
is the truth for 100 %. Each row is one share of that rate: the mean of the signal over the readings of a scrape each
15 s, 5th and 95th percentile of these, how full the batch is (the usual measure), and the limit that the sidecar
expects. The model was chosen on the first shapes; those of `--held-out` have other servers (slower and faster steps,
other flags) and other requests. The errors of their first six led to a second version of the model, so those of `--new`
were written after it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from simulated_load import WARM, FollowedEngine, Shape, breaking_rate

from vllm_sidecar.derive.saturation import first_limit, saturation
from vllm_sidecar.derive.throughput import batch_occupancy

SHARES = (0.3, 0.5, 0.7, 0.9)
SCRAPE = 15
ALONE = {"prefix_tokens": 0, "shared_ratio": 0.0}
SHAPES = {
    "batch": Shape({"max_num_seqs": 16}, {**ALONE, "prompt_tokens": 200.0, "output_tokens": 300.0}, 3.8),
    "KV cache": Shape({"max_num_seqs": 64}, {"prompt_tokens": 2500.0, "output_tokens": 700.0}, 0.95),
    "prefill": Shape(
        {"max_num_seqs": 64, "num_gpu_blocks": 16384},
        {**ALONE, "prompt_tokens": 3000.0, "prompt_sigma": 0.4, "output_tokens": 30.0},
        4.5,
    ),
    "adapter": Shape({"max_loras": 4, "adapters": 8}, {"adapters_wanted": 8, "output_tokens": 100.0}, 5.7),
    "mixed": Shape(
        {"max_num_seqs": 48, "num_gpu_blocks": 3072},
        {"prompt_tokens": 900.0, "prompt_sigma": 1.0, "output_tokens": 250.0, "output_sigma": 0.9},
        4.2,
    ),
}
HELD_OUT = {
    "large model, batch": Shape(
        {"max_num_seqs": 24, "step_seconds": 0.03, "sequence_seconds": 0.0008, "prefill_token_seconds": 0.0002},
        {"prompt_tokens": 300.0, "output_tokens": 150.0},
        2.8,
    ),
    "small model, decode": Shape(
        {"max_num_seqs": 64, "step_seconds": 0.02, "sequence_seconds": 0.001, "prefill_token_seconds": 0.00002},
        {**ALONE, "prompt_tokens": 100.0, "output_tokens": 120.0, "output_sigma": 0.8},
        4.5,
    ),
    "slow prefill": Shape(
        {"max_num_seqs": 128, "max_num_batched_tokens": 1024, "prefill_token_seconds": 0.0003, "step_seconds": 0.02},
        {**ALONE, "prompt_tokens": 800.0, "output_tokens": 40.0},
        2.5,
    ),
    "small cache": Shape(
        {"max_num_seqs": 128, "num_gpu_blocks": 1500, "step_seconds": 0.02},
        {"prompt_tokens": 700.0, "output_tokens": 300.0, "prompt_sigma": 0.8},
        1.0,
    ),
    "two slots": Shape(
        {"max_loras": 2, "adapters": 3, "step_seconds": 0.015}, {"adapters_wanted": 3, "output_tokens": 60.0}, 3.0
    ),
    "three slots": Shape(
        {"max_loras": 3, "adapters": 12, "step_seconds": 0.01}, {"adapters_wanted": 12, "output_tokens": 150.0}, 2.0
    ),
}
NEW = {
    "documents": Shape(
        {"max_num_seqs": 64, "num_gpu_blocks": 2500, "step_seconds": 0.025, "prefill_token_seconds": 0.00008},
        {**ALONE, "prompt_tokens": 1800.0, "prompt_sigma": 0.9, "output_tokens": 150.0, "output_sigma": 0.7},
        1.2,
    ),
    "shared prefix": Shape(
        {"max_num_seqs": 96, "num_gpu_blocks": 1000, "step_seconds": 0.03},
        {"prefix_tokens": 2000, "prompt_tokens": 250.0, "prompt_sigma": 0.7, "output_tokens": 120.0},
        2.0,
    ),
    "extraction": Shape(
        {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "prefill_token_seconds": 0.00015, "step_seconds": 0.015},
        {**ALONE, "prompt_tokens": 1500.0, "prompt_sigma": 0.8, "output_tokens": 20.0},
        1.8,
    ),
}
WITHIN = 0.1


class Row(NamedTuple):
    """The readings at one share of the load."""

    saturation: list[float]
    batch: list[float]
    limits: Counter[str]
    waiting: float


def readings(shape: Shape, rate: float, seconds: int, seed: int) -> Row:
    """Follow an engine at a steady load."""
    look = shape.look(rate, seed)
    followed, row, waits = FollowedEngine(look), Row([], [], Counter(), 0.0), []
    for at in range(1, int(WARM) + seconds + 1):
        followed.poll(float(at))
        if at <= WARM:
            continue
        waits.append(followed.engine.window.latest.gauges["requests_waiting"])
        if at % SCRAPE:
            continue
        row.saturation.extend(saturation(followed.engine).values())
        row.batch.append(batch_occupancy(followed.engine) or 0.0)
        row.limits.update(name for name, value in first_limit(followed.engine).items() if value)
    return row._replace(waiting=fmean(waits))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--held-out", action="store_true", help="other servers and other requests")
    parser.add_argument(
        "--new", action="store_true", help="shapes that were written after the last change of the model"
    )
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("shapes", nargs="*")
    given = parser.parse_args()
    shapes = NEW if given.new else HELD_OUT if given.held_out else SHAPES
    print("| Shape | Breaks at, requests/s | Load | Saturation (5 % to 95 %) | Batch | Waiting | Expected limit |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    off = []
    for name in given.shapes or shapes:
        breaks = breaking_rate(shapes[name])
        for share in SHARES:
            row = readings(shapes[name], share * breaks, given.seconds, seed=7)
            ordered = sorted(row.saturation)
            low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
            mean, limit = fmean(ordered), row.limits.most_common(1)[0][0] if row.limits else "-"
            off.append(abs(mean - share))
            print(
                f"| {name} | {breaks:.2f} | {share:.0%} | {mean:.0%} ({low:.0%} to {high:.0%}) | "
                f"{fmean(row.batch):.0%} | {row.waiting:.2f} | {limit} |",
                flush=True,
            )
    print(f"\nmean error {100 * fmean(off):.1f} points, largest {100 * max(off):.1f}; within 10 points: "
          f"{sum(error <= WITHIN for error in off)} of {len(off)}")  # fmt: skip


if __name__ == "__main__":
    main()
