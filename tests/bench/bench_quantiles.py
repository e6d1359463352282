"""What the recent quantiles cost: CPU of one estimate against polls, buckets and rate, and of all latencies of one.

They are made when a snapshot is asked for, so once per scrape and not per poll; a poll only keeps what it observed.

    python tests/bench/bench_quantiles.py [--before CHECKOUT]

With a checkout of another commit the 7 latencies of an engine are estimated by both in turns, in processes of their
own, and the ratio is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from statistics import median

sys.path.insert(0, str(Path(__file__).parent / "accuracy"))

from shapes import TTFT
from suite import QS, Case, observe, real

from vllm_sidecar.quantiles import estimates
from vllm_sidecar.series.increases import Observed

ROUNDS, TURNS = 15, 7


def cost(*windows: tuple[tuple[float, ...], list[tuple[list[float], float | None]]]) -> float:
    """Return milliseconds of CPU of one estimate of some histograms together, the median of some."""
    sparse = [(bounds, [observed(*poll) for poll in polls]) for bounds, polls in windows]
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        estimates(sparse, QS)
        found.append(time.process_time() - began)
    return 1e3 * median(found)


def observed(counts: list[float], total: float | None) -> Observed:
    return Observed(tuple((bucket, count) for bucket, count in enumerate(counts) if count), total)


def spread(rng: Random, polls: int, rate: int, width: float) -> float:
    """Return the cost of a window of lognormal values."""
    seen = [observe(TTFT.bounds, [rng.lognormvariate(-1.0, width) for _ in range(rate)]) for _ in range(polls)]
    return cost((TTFT.bounds, seen))


def recorded() -> dict[str, tuple[tuple[float, ...], list[tuple[list[float], float | None]]]]:
    """Return the last window of each latency of a real vLLM 0.32 at 3 requests a second."""
    last: dict[str, Case] = {}
    for case, _ in real():
        last.setdefault(case.family, case)
    return {name: (case.bounds, case.polls) for name, case in last.items()}


def compare(before: Path) -> None:
    """Print what the latencies of an engine cost in this checkout and in another one."""
    found: dict[str, list[float]] = {"now": [], "before": []}
    for _ in range(TURNS):
        for name, checkout in (("now", Path(__file__).parents[2]), ("before", before)):
            command = [sys.executable, __file__, "--cost"]
            variables = os.environ | {"PYTHONPATH": str(checkout / "exporter"), "OPENBLAS_NUM_THREADS": "1"}
            found[name].append(float(subprocess.run(command, env=variables, capture_output=True, check=True).stdout))
    now, then = median(found["now"]), median(found["before"])
    print(f"7 latencies together: {now:.2f} ms of CPU, before {then:.2f} ms, ratio {now / then:.2f} "
          f"(medians of {TURNS} turns)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="What the recent quantiles cost.")
    parser.add_argument("--before", type=Path, help="checkout of another commit to compare with")
    parser.add_argument("--cost", action="store_true", help="print only what the latencies of one engine cost")
    options = parser.parse_args()
    if options.cost:
        print(cost(*recorded().values()))
    elif options.before:
        compare(options.before)
    else:
        show()


def show() -> None:
    rng = Random(0)
    print("milliseconds of CPU per estimate of four quantiles")
    for polls in (15, 60, 300):
        print(f"  {polls:3} polls of 5 observations     {spread(rng, polls, 5, 0.5):6.2f}")
    for rate in (1, 5, 50, 500):
        print(f"  60 polls of {rate:3} observations    {spread(rng, 60, rate, 0.5):6.2f}")
    for width, buckets in ((0.05, "1 to 2"), (0.5, "about 8"), (1.2, "about 15")):
        print(f"  60 polls of 50 in {buckets:9} buckets{spread(rng, 60, 50, width):6.2f}")
    windows = recorded()
    alone = [cost(window) for window in windows.values()]
    for name, one in zip(windows, alone, strict=True):
        print(f"  a real vLLM 0.32 at 3 requests a second, {name:8}{one:6.2f}")
    whole = cost(*windows.values())
    print(f"  its {len(windows)} latencies, one after the other {sum(alone):6.2f}")
    print(f"  its {len(windows)} latencies together, as in a scrape {whole:6.2f}; {sum(alone) / whole:.1f} times less")
    print(
        f"  8 such engines together  {cost(*windows.values(), *[w for _ in range(7) for w in windows.values()]):6.2f}"
    )
    print(
        f"  per engine and poll of 1 s: {whole / 15:.2f} where it is scraped each 15 s, {whole / 5:.2f} where each 5 s"
    )


if __name__ == "__main__":
    main()
