"""How far every derived signal is from the request log of the server, over all variations of tests/truth.

    python tests/bench/bench_truth.py

Minutes. An error is relative to the truth, or in the unit of the signal; the last column is the largest one that the
tests allow.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

from truth.play import play  # noqa: E402 - the packages of the tests are beside this folder
from truth.table import TRUTHS  # noqa: E402
from truth.variations import VARIATIONS  # noqa: E402


def main() -> None:
    found: dict[str, list[float]] = defaultdict(list)
    for variation in VARIATIONS:
        errors = asyncio.run(play(variation))
        for name in TRUTHS:
            found[name] += [each[0] for each in errors[name].found]
    print("| Signal | Comparisons | Mean error | Largest error | Allowed |\n| --- | --- | --- | --- | --- |")
    for name, truth in TRUTHS.items():
        values, kind = found[name], "relative" if truth.floor else "absolute"
        print(f"| `{name}` | {len(values)} | {fmean(values or [0.0]):.2g} | {max(values, default=0.0):.2g} {kind} "
              f"| {truth.most:g} |")  # fmt: skip


if __name__ == "__main__":
    main()
