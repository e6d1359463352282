"""How far the recent quantiles are from the truth, beside `histogram_quantile` on the same windows.

    python tests/bench/bench_accuracy.py [--full] [--seeds N] [--first-seed N]

16 shapes of latency x 3 of vLLM's histograms x 6 rates of observations x seeds, 12 shapes that no constant was chosen
on, random mixtures, and windows of a real server. An error
is relative to the exact quantile of what was observed in the window. A cell is a shape at a rate in a histogram, and
one of p50, p90, p95, p99. `--full` takes ten times as many seeds, and adds how far off one would be who knew the true
distribution of each bucket and the counts, but no sums: no reader of the buckets can do better.
"""

from __future__ import annotations

import argparse
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from math import ceil
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).parent / "accuracy"))

from held_out import held_out, mixtures
from shapes import FAMILIES, SHAPES, WINDOW
from suite import QS, RATES, Case, real, synthetic

from vllm_sidecar.quantiles import window_quantiles
from vllm_sidecar.quantiles.buckets import interpolated, ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shapes import Family

SEEDS = 4
SHOWN = 12
MIXTURES = 75
"""Random mixtures per seed."""
DRAWS = 20_000


class Error(NamedTuple):
    """One quantile of one window; `known` is that of the reader who knows the distribution, where it was asked for."""

    shape: str
    family: str
    rate: float
    q: float
    ours: float
    prometheus: float
    known: float | None


def prometheus(case: Case) -> list[float]:
    """Return what `histogram_quantile` says of the window."""
    counts = [sum(column) for column in zip(*(poll[0] for poll in case.polls), strict=True)]
    return [interpolated(case.bounds, bucket, rank, counts[bucket]) for bucket, rank in ranks(counts, QS)]


def informed(case: Case, family: Family, seed: int) -> list[float]:
    """Return the quantiles of the bucket's true distribution at the ranks that the counts give."""
    rng = Random(f"{case.shape}/{family.name}/{case.rate}/{seed}")
    draw = SHAPES[case.shape](rng, family)
    buckets = defaultdict(list)
    for i in range(DRAWS):
        value = draw(WINDOW * (i + 0.5) / DRAWS)
        buckets[bisect_left(case.bounds, value)].append(value)
    counts = [sum(column) for column in zip(*(poll[0] for poll in case.polls), strict=True)]
    found = []
    for (bucket, rank), truth in zip(ranks(counts, QS), case.truth, strict=True):
        values = sorted(buckets[bucket])
        place = (max(1, ceil(rank)) - 0.5) / counts[bucket]
        found.append(values[min(len(values) - 1, int(place * len(values)))] if values else truth)
    return found


def errors(case: Case, known: list[float] | None = None) -> Iterator[Error]:
    ours = window_quantiles(case.bounds, case.polls, QS)
    known_or_not = known or [None] * len(QS)
    for q, value, theirs, truth, best in zip(QS, ours, prometheus(case), case.truth, known_or_not, strict=True):
        off = [None if x is None else abs(x - truth) / truth for x in (value, theirs, best)]
        yield Error(case.shape, case.family, case.rate, q, *off)


def all_errors(seeds: range, *, full: bool) -> Iterator[Error]:
    for shape in SHAPES:
        for family in FAMILIES:
            for rate in RATES:
                for seed in seeds:
                    case = synthetic(shape, family, rate, seed)
                    yield from errors(case, informed(case, family, seed) if full else None)


def high(values: Iterable[float]) -> float:
    """Return the 95th percentile."""
    found = sorted(values)
    return found[max(0, ceil(0.95 * len(found)) - 1)]


def line(name: str, found: list[Error]) -> str:
    ours, theirs = [e.ours for e in found], [e.prometheus for e in found]
    known = [e.known for e in found if e.known is not None]
    cells = [fmean(ours), high(ours), fmean(theirs), high(theirs)]
    text = "".join(f"{100 * min(x, 99.99):10.1f}" for x in cells)
    return f"{name:26}{text}" + (f"{100 * fmean(known):10.1f}{100 * high(known):10.1f}" if known else "")


def table(title: str, found: list[Error], key: Callable[[Error], object]) -> None:
    groups: dict[object, list[Error]] = defaultdict(list)
    for error in found:
        groups[key(error)].append(error)
    print(
        f"\n{title:26}{'ours':>10}{'p95':>10}{'Prometheus':>11}{'p95':>9}"
        + ("      known       p95" * any(e.known for e in found))
    )
    for name, group in groups.items():
        print(line(str(name), group))


def result(found: list[Error]) -> None:
    ours = [e.ours for e in found]
    print(f"\nmean {100 * fmean(ours):.2f} % (target 2), 95th percentile {100 * high(ours):.2f} % (target 8)")
    shapes: dict[str, list[Error]] = defaultdict(list)
    cells: dict[tuple[str, str, float, float], list[Error]] = defaultdict(list)
    for e in found:
        shapes[e.shape].append(e)
        cells[e.shape, e.family, e.rate, e.q].append(e)
    for name, group in shapes.items():
        mine, theirs = fmean(e.ours for e in group), fmean(e.prometheus for e in group)
        if theirs > 0.15:
            print(f"{name}: {theirs / max(mine, 1e-9):.1f} times below Prometheus (target 10)")
    gaps = sorted(((fmean(e.ours - e.prometheus for e in group), cell) for cell, group in cells.items()), reverse=True)
    worse = [gap for gap in gaps if gap[0] > 0.01]
    print(f"{len(worse)} of {len(cells)} cells are more than 1 percentage point worse than Prometheus (target 0)")
    for gap, (shape, family, rate, q) in worse[:SHOWN]:
        print(f"  {100 * gap:5.1f} points: {shape}, {family}, {rate:g}/s, p{100 * q:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="ten times as many seeds, and the informed reader")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    seeds = arguments.seeds * (10 if arguments.full else 1)
    began = time.process_time()
    found = list(all_errors(range(arguments.first_seed, arguments.first_seed + seeds), full=arguments.full))
    print(f"relative errors in percent, {seeds} seeds, {len(found)} quantiles")
    table("shape", found, lambda e: e.shape)
    table("observations a second", found, lambda e: e.rate)
    table("histogram", found, lambda e: e.family)
    table("quantile", found, lambda e: f"p{100 * e.q:g}")
    table("all", found, lambda _: "all")
    result(found)
    table("shapes held out", [e for case in held_out(seeds) for e in errors(case)], lambda e: e.shape)
    table("random mixtures", [e for case in mixtures(MIXTURES * seeds) for e in errors(case)], lambda _: "all")
    recorded = [error for case, _ in real() for error in errors(case)]
    table("a real vLLM 0.32", recorded, lambda e: e.shape)
    print(f"\n{time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
