"""How far off the sidecar's count of good observations is where a threshold is no bucket edge.

    python tests/bench/bench_slo.py [--seeds N]

The shapes of the accuracy suite, in three of vLLM's histograms at five rates, as a sidecar follows them for a minute.
The threshold lies at a third and at two thirds of the bucket that holds most. An error is that of the share of good
observations, in percentage points; beside it stands that of an even split of the bucket, as a straight line through it
says. At an edge both are 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).parent / "accuracy"))

from shapes import FAMILIES, SHAPES, WINDOW
from suite import observe

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.good_observations import Objective
from vllm_sidecar.series.readings import Dialect, Group, Reading, Readings
from vllm_sidecar.series.slo_counters import SloCounters
from vllm_sidecar.series.store import WindowStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shapes import Family

RATES = (0.2, 1.0, 5.0, 20.0, 100.0)
PLACES = (1 / 3, 2 / 3)
SEEDS = 2
NAME = "time_to_first_token_seconds"
ENGINE = Group(Scope.ENGINE, ("m", "0"))


class Error(NamedTuple):
    """Percentage points by which the share of good observations is off, and milliseconds that a poll took."""

    ours: float
    even: float
    milliseconds: float


def drawn(shape: str, family: Family, rate: float, seed: int) -> list[list[float]]:
    """Return what each poll of a minute observes."""
    rng = Random(f"slo/{shape}/{family.name}/{rate}/{seed}")
    draw = SHAPES[shape](rng, family)
    polls: list[list[float]] = [[] for _ in range(int(WINDOW))]
    at = rng.expovariate(rate)
    while at < WINDOW:
        polls[int(at)].append(draw(at))
        at += rng.expovariate(rate)
    return polls


def fullest(family: Family, polls: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the edges of the finite bucket that holds most; None where nothing was observed in any."""
    edges = list(pairwise((0.0, *family.bounds)))
    held = [sum(low < value <= high for poll in polls for value in poll) for low, high in edges]
    return edges[held.index(max(held))] if any(held) else None


def followed(family: Family, polls: Sequence[Sequence[float]], threshold: float) -> tuple[float, float]:
    """Return how many good observations a sidecar counts, and the milliseconds that a poll takes."""
    counters, windows = SloCounters([Objective("x", NAME, threshold)], availability=False), WindowStore(WINDOW, WINDOW)
    counts, total, spent = [0.0] * (len(family.bounds) + 1), 0.0, 0.0
    for i, values in enumerate([[], *polls]):
        new, added = observe(family.bounds, values)
        counts, total = [old + one for old, one in zip(counts, new, strict=True)], total + (added or 0.0)
        seen = Reading({}, {}, {NAME: Histogram(family.bounds, tuple(accumulate(counts)), total)})
        dialect = Dialect("vllm:", "v1", "python", multiprocess=False)
        readings = Readings({ENGINE: seen}, dialect, 1.0, {}, {}, None, {}, (), (), {})
        windows.append(float(i), readings)
        began = time.perf_counter()
        counters.follow(readings, windows)
        spent += time.perf_counter() - began
    good = next(value for name, _, value in counters.rows(up=True) if name == "slo_good_requests_total")
    return good, 1000.0 * spent / len(polls)


def errors(shape: str, seeds: int) -> Iterator[Error]:
    for family in FAMILIES:
        for rate in RATES:
            for seed in range(seeds):
                polls = drawn(shape, family, rate, seed)
                bucket = fullest(family, polls)
                if bucket is None:
                    continue
                values = [value for poll in polls for value in poll]
                below = sum(value <= bucket[0] for value in values)
                inside = sum(bucket[0] < value <= bucket[1] for value in values)
                for place in PLACES:
                    threshold = bucket[0] + place * (bucket[1] - bucket[0])
                    truth = sum(value <= threshold for value in values)
                    good, milliseconds = followed(family, polls, threshold)
                    scale = 100.0 / len(values)
                    even = below + inside * place
                    yield Error(scale * abs(good - truth), scale * abs(even - truth), milliseconds)


def tail(found: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return sorted(found)[ceil(0.95 * len(found)) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    print(f"{'shape':26} {'sidecar':>16} {'even split':>16}   points off: mean, 95th percentile")
    every: dict[str, list[Error]] = defaultdict(list)
    for shape in SHAPES:
        every[shape] = list(errors(shape, seeds))
    everything = [error for found in every.values() for error in found]
    for name, found in (*every.items(), ("all", everything)):
        ours, even = [error.ours for error in found], [error.even for error in found]
        print(f"{name:26} {fmean(ours):8.1f}{tail(ours):8.1f} {fmean(even):8.1f}{tail(even):8.1f}")
    spent = [error.milliseconds for error in everything]
    print(f"a poll takes {fmean(spent):.2f} ms, 95th percentile {tail(spent):.2f} ms")


if __name__ == "__main__":
    main()
