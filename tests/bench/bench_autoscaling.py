"""Autoscalers over a day with a morning ramp and a noon burst: on saturation, on the queue, on the KV cache.

    python tests/bench/bench_autoscaling.py [--hours N] [--seeds N,N] [--service NAME] [--processes N] [SCALER ...]

Simulated servers, each of which takes minutes to load its model, behind a Service, under an autoscaler with the rules
of Kubernetes and the chart's `behavior`. With one seed, every scaler gets the same stream of requests. The clock begins
at 05:30. A scaler is SIGNAL@TARGET, with `+keda` for values that are as old as KEDA's pollingInterval. The first table
has the means over the seeds, and the worst 15 minutes of any; the second one the fewest and the most replicas.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from autoscaled_day import FIRST_HOUR, HOUR, HOURS, SERVICES, Day, Scaler, demand, needed_hours, scaled_day

DEFAULT = (
    "saturation@0.7",
    "waiting@5",
    "kv_cache_usage@0.7",
    "saturation@0.8",
    "saturation@0.7+keda",
    "saturation@0.6",
    "waiting@1+keda",
    "fixed@4",
)


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def row(name: str, days: list[Day]) -> str:
    in_time, worst = fmean(day.in_time for day in days), min(day.worst for day in days)
    hours, changes, turns = (
        fmean(getattr(day, each) for day in days) for each in ("replica_hours", "changes", "turns")
    )
    most = max(day.most for day in days)
    cells = (name, percent(in_time), percent(worst), f"{hours:.1f}", str(most), f"{changes:.0f}", f"{turns:.1f}")
    return f"| {' | '.join(cells)} |"


def replicas(days: list[Day], at: float) -> str:
    """Return how many replicas there were, as a range if the seeds differ."""
    numbers = [day.replicas_at(at) for day in days]
    fewest, most = min(numbers), max(numbers)
    return str(most) if fewest == most else f"{fewest} to {most}"


def clock(seconds: float) -> str:
    minutes = int(60 * FIRST_HOUR + seconds / 60)
    return f"{minutes // 60:02}:{minutes % 60:02}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=float, default=HOURS)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--service", choices=SERVICES, default="chat")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("scalers", nargs="*", default=DEFAULT)
    given = parser.parse_args()
    service, seeds = SERVICES[given.service], [int(seed) for seed in given.seeds.split(",")]
    print(f"one replica breaks its objective at {service.capacity:.2f} requests/s; with perfect foresight "
          f"{needed_hours(given.hours):.1f} replica-hours are needed\n")  # fmt: skip
    print("| Scaler | In time | Worst 15 minutes | Replica-hours | Most replicas | Changes | Turns |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    days: dict[str, list[Day]] = {}
    with ProcessPoolExecutor(given.processes) as processes:
        runs = {
            name: [
                processes.submit(scaled_day, Scaler.parse(name), given.hours * HOUR, seed, service) for seed in seeds
            ]
            for name in given.scalers
        }
        for name, found in runs.items():
            days[name] = [run.result() for run in found]
            print(row(name, days[name]), flush=True)
    marks = [step * HOUR / 2 for step in range(int(2 * given.hours) + 1)]
    print("\n| Time | Load | " + " | ".join(days) + " |")
    print("| --- " * (2 + len(days)) + "|")
    for mark in marks:
        cells = (replicas(found, mark) for found in days.values())
        print(f"| {clock(mark)} | {demand(mark):.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
