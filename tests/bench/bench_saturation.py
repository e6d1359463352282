"""How near `saturation_ratio` is to the truth: the load as a share of the load at which the objective breaks.

    python tests/bench/bench_saturation.py [--known] [--seconds N] [--seeds N,N] [--processes N] [GROUP or SHAPE ...]

The rate at which fewer than 99 % of the requests of six runs of a simulated server get their first token within 2.5 s
is the truth for 100 %. Each row is one share of that rate, in runs with other seeds: the mean of the signal over the
readings of a scrape each 15 s, its error in points, 5th and 95th percentile, the load up to which the headroom reaches
in requests and in prompt tokens (100 % is the truth), how full the batch is (the usual measure), the requests that
wait, the limit that the sidecar expects and the share of the readings that name it, and the limit that was there: the
one whose doubling halves the late requests of a load 10 % above the limit, or the time for prompts or decoding.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from saturation_shapes import GROUPS
from simulated_load import REQUESTS, WARM, FollowedEngine, Shape, breaking_rate, late_requests

from vllm_sidecar.derive.saturation import first_limit, headroom_requests, headroom_tokens, saturation
from vllm_sidecar.derive.throughput import batch_occupancy

SHAPES = {name: shape for group in GROUPS.values() for name, shape in group.items()}
SHARES = (0.3, 0.5, 0.7, 0.9)
SCRAPE = 15
WITHIN = 0.1
ABOVE = 1.1
DOUBLED = {"batch": "max_num_seqs", "kv_cache": "num_gpu_blocks", "adapter": "max_loras"}


class Row(NamedTuple):
    """The readings at one share of the load."""

    saturation: list[float]
    requests: list[float]
    """Requests per second up to which the headroom reaches."""
    tokens: list[float]
    """The same in prompt tokens per second, divided by the mean prompt of the run."""
    batch: list[float]
    limits: Counter[str]
    waiting: list[float]

    def plus(self, other: Row) -> Row:
        """Return the readings of both."""
        return Row(*(one + more for one, more in zip(self, other, strict=True)))


EMPTY = Row([], [], [], [], Counter(), [])


def readings(shape: Shape, rate: float, seconds: int, seed: int) -> Row:
    """Follow an engine at a steady load."""
    look = shape.look(rate, seed)
    followed, row, tokens = FollowedEngine(look), EMPTY.plus(EMPTY), list[float]()
    for at in range(1, int(WARM) + seconds + 1):
        followed.poll(float(at))
        if at <= WARM:
            continue
        engine = followed.engine
        row.waiting.append(engine.window.latest.gauges["requests_waiting"])
        if at % SCRAPE:
            continue
        row.saturation.extend(saturation(engine).values())
        row.batch.append(batch_occupancy(engine) or 0.0)
        row.limits.update(name for name, value in first_limit(engine).items() if value)
        requests = headroom_requests(engine)
        if requests is not None:
            row.requests.append(rate + requests)
            tokens.append(headroom_tokens(engine)["prompt"])
    counters = look.engines[0].meters.counters
    prompt = (counters["prompt_tokens"] - counters["prompt_tokens_cached"]) / (rate * (WARM + seconds))
    row.tokens.extend(rate + more / prompt for more in tokens)
    return row


def true_limit(shape: Shape, rate: float) -> str:
    """Return the limit whose doubling halves the late requests; the time of the steps if none does."""
    settings = shape.settings()

    def late(changes: dict[str, float]) -> int:
        changed = shape._replace(server={**shape.server, **changes})
        return late_requests(changed, rate, REQUESTS / rate, 1, REQUESTS)

    before = late({})
    after = {
        limit: late({flag: 2 * getattr(settings, flag)})
        for limit, flag in DOUBLED.items()
        if limit != "adapter" or settings.max_loras
    }
    best = min(after, key=after.__getitem__)
    return best if after[best] <= 0.5 * before else "time of steps"


def measured(name: str, seconds: int, seeds: tuple[int, ...], *, known: bool) -> tuple[list[str], list[float]]:
    """Return the rows of a shape, and the errors of its means."""
    shape, lines, off = SHAPES[name], [], []
    breaks = shape.guess if known else breaking_rate(shape)
    limit = true_limit(shape, ABOVE * breaks)
    for share in SHARES:
        row = EMPTY
        for seed in seeds:
            row = row.plus(readings(shape, share * breaks, seconds, seed))
        lines.append(line(name, breaks, share, row, limit))
        off.append(fmean(row.saturation) - share)
    return lines, off


def line(name: str, breaks: float, share: float, row: Row, limit: str) -> str:
    """Return a row of the table."""
    ordered = sorted(row.saturation)
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    mean, (named, times) = fmean(ordered), row.limits.most_common(1)[0]
    cells = (
        name, f"{breaks:.2f}", f"{share:.0%}", f"{mean:.0%} ({low:.0%} to {high:.0%})", f"{100 * (mean - share):+.0f}",
        f"{fmean(row.requests) / breaks:.0%}", f"{fmean(row.tokens) / breaks:.0%}", f"{fmean(row.batch):.0%}",
        f"{fmean(row.waiting):.2f}", f"{named} {times / row.limits.total():.0%}", limit,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--known", action="store_true", help="take the rates that were found before as the truth")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seeds", default="7,8,9")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("wanted", nargs="*", default=list(GROUPS), metavar="GROUP or SHAPE")
    given = parser.parse_args()
    names = [name for each in given.wanted for name in GROUPS.get(each, {each: None})]
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; allowed: {', '.join((*GROUPS, *SHAPES))}")
    print("| Shape | Breaks at, requests/s | Load | Saturation (5 % to 95 %) | Error, points | Headroom to, requests "
          "| Headroom to, tokens | Batch | Waiting | Expected limit | Limit |")  # fmt: skip
    print("| --- " * 11 + "|")
    off: list[float] = []
    work = partial(measured, seconds=given.seconds, seeds=tuple(map(int, given.seeds.split(","))), known=given.known)
    with ProcessPoolExecutor(given.processes) as processes:
        for lines, errors in processes.map(work, names):
            print(*lines, sep="\n", flush=True)
            off.extend(errors)
    print(f"\nmean error {100 * fmean(map(abs, off)):.1f} points, from {100 * min(off):+.0f} to {100 * max(off):+.0f}; "
          f"within 10 points: {sum(abs(error) <= WITHIN for error in off)} of {len(off)}")  # fmt: skip


if __name__ == "__main__":
    main()
