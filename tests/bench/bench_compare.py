"""How often `compare` finds a difference between equal servers, and how often it finds a real one.

python tests/bench/bench_compare.py [--pairs 200] [--seconds 60]   # about 6 minutes
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from observed import windows

from vllm_sidecar.tools.compare.differences import differences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.tools.compare.differences import Difference
    from vllm_sidecar.tools.compare.observation import Observation

EQUAL = {"4 requests/s, nothing waits": {}, "8 requests/s, at times a queue": {"traffic.rate": 8.0}}
CHANGED = {
    f"{what} +{percent} %": {key: value * (1.0 + percent / 100.0)}
    for what, key, value in (
        ("steps slower", "traffic.slowdown", 1.0),
        ("prompts longer", "traffic.prompt_tokens", 350.0),
        ("outputs longer", "traffic.output_tokens", 200.0),
    )
    for percent in (10, 20, 50)
}
NAMES = ("ttft", "itl", "prompt_tokens", "output_tokens")


def compared(first: Sequence[Observation], second: Sequence[Observation]) -> list[list[Difference]]:
    return [differences(a, [b]) for a, b in zip(first, second, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    print(f"{given.seconds} s of each server, polled each second\n\n| Equal servers | Pairs | With any difference |")
    print("| --- | --- | --- |")
    for name, settings in EQUAL.items():
        pairs = given.pairs if not settings else given.pairs // 4
        first, second = (list(windows(seed, pairs, given.seconds, **settings)) for seed in (101, 202))
        found = compared(first, second)
        false = sum(any(row.is_different for row in rows) for rows in found)
        print(f"| {name} | {pairs} | {false} ({false / pairs:.1%}) |", flush=True)
        if not settings:
            calm, equal = first, found
    count = max(1, given.pairs // 10)
    print(f"\n| Change | Pairs | Any | {' | '.join(NAMES)} |\n|{' --- |' * (3 + len(NAMES))}")
    for number, (name, settings) in enumerate(CHANGED.items()):
        found = compared(calm[:count], list(windows(300 + number, count, given.seconds, **settings)))
        seen = Counter(row.measure.name for rows in found for row in rows if row.is_different)
        whole = sum(any(row.is_different for row in rows) for rows in found)
        print(
            f"| {name} | {count} | {whole / count:.0%} | {' | '.join(f'{seen[each] / count:.0%}' for each in NAMES)} |"
        )
    visible = {
        each: median(row.smallest for rows in equal for row in rows if row.measure.name == each and row.smallest)
        for each in NAMES
    }
    print(f"\nmedian smallest visible: {', '.join(f'{name} {value:.0%}' for name, value in visible.items())}")
    began = time.perf_counter()
    compared(calm[:10], calm[10:20])
    print(f"{(time.perf_counter() - began) * 100:.0f} ms for one comparison")


if __name__ == "__main__":
    main()
