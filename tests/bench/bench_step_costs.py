"""CPU of a poll with and without learning the costs of steps, alternating on the same bodies of a simulated server."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import fmean, median

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from bench_cycle import Cycle
from simulated_load import Shape

from vllm_sidecar.series.step_costs import StepCosts
from vllm_sidecar.simulator.body import exposition

SECONDS, WARM_UP = 600, 20


class NotLearning(StepCosts):
    """Costs that are never learned."""

    def follow(self, at: float, reading: object) -> None:
        """Take nothing."""


def main() -> None:
    look = Shape({}, {}, 4.0).look(4.0, seed=1)
    learning, plain = [], []
    cycles = ((Cycle(), StepCosts.follow, learning), (Cycle(), NotLearning.follow, plain))
    shipped = StepCosts.follow
    for second in range(1, SECONDS + 1):
        look.advance(float(second))
        body = exposition(look)
        # The first of two polls of the same bytes is the slower one, so they take turns.
        for cycle, follow, seconds in cycles if second % 2 else reversed(cycles):
            StepCosts.follow = follow  # type: ignore[method-assign]
            began = time.process_time()
            cycle.poll(body)
            seconds.append(time.process_time() - began)
    StepCosts.follow = shipped  # type: ignore[method-assign]
    one, other = learning[WARM_UP:], plain[WARM_UP:]
    print(f"a poll {1e3 * fmean(one):.3f} ms, {1e3 * fmean(other):.3f} ms without learning: "
          f"{fmean(one) / fmean(other):.3f} times, median {median(one) / median(other):.3f} times")  # fmt: skip


if __name__ == "__main__":
    main()
