"""Autoscalers over a day with a morning ramp and a noon burst: on saturation, on the queue, on the KV cache.

    python tests/bench/bench_autoscaling.py [--hours N] [--seed N] [SCALER ...]

Simulated servers, each of which takes minutes to load its model, behind a Service, under an autoscaler with the rules
of Kubernetes and the chart's `behavior`. Every scaler gets the same stream of requests. The clock begins at 05:30. A
scaler is SIGNAL@TARGET, with `+keda` for values that are as old as KEDA's pollingInterval.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from autoscaled_day import CAPACITY, FIRST_HOUR, HOUR, HOURS, Day, Scaler, demand, needed_hours, scaled_day

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


def row(name: str, day: Day) -> str:
    cells = (name, percent(day.in_time), percent(day.worst), f"{day.replica_hours:.1f}", str(day.most),
             str(day.changes), str(day.turns))  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=float, default=HOURS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("scalers", nargs="*", default=DEFAULT)
    given = parser.parse_args()
    print(f"one replica breaks its objective at {CAPACITY:.2f} requests/s; with perfect foresight "
          f"{needed_hours(given.hours):.1f} replica-hours are needed\n")  # fmt: skip
    print("| Scaler | In time | Worst 15 minutes | Replica-hours | Most replicas | Changes | Turns |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    days: dict[str, Day] = {}
    for name in given.scalers:
        began = time.monotonic()
        days[name] = scaled_day(Scaler.parse(name), given.hours * HOUR, given.seed)
        print(row(name, days[name]), f"<!-- {time.monotonic() - began:.0f} s -->", flush=True)
    marks = [step * HOUR / 2 for step in range(int(2 * given.hours) + 1)]
    print("\n| Replicas at | " + " | ".join(f"{FIRST_HOUR + mark / HOUR:g}" for mark in marks) + " |")
    print("| --- |" + " --- |" * len(marks))
    print("| load, replicas at their limit | " + " | ".join(f"{demand(mark) / CAPACITY:.1f}" for mark in marks) + " |")
    for name, day in days.items():
        print(f"| {name} | " + " | ".join(str(day.replicas_at(mark)) for mark in marks) + " |")


if __name__ == "__main__":
    main()
