"""What each constant of the estimate is worth: the mean error with half of it, as it is, and with twice as much.

    python tests/bench/bench_constants.py [--seeds N]

Errors are those of bench_accuracy.py: its suite, shapes and mixtures on which no constant was chosen, and the recorded
server. A part that can be left out is in the table as well. The seeds are others than those of bench_accuracy.py.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent / "accuracy"))

import numpy as np
from held_out import held_out, mixtures
from shapes import FAMILIES, SHAPES
from suite import QS, RATES, Case, real, synthetic

from vllm_sidecar.quantiles import fit, level, model, posterior, prior, window_quantiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

FIRST_SEED = 1000
WORST = 3.0
"""Larger relative errors count as this one."""
CONSTANTS: dict[ModuleType, tuple[str, ...]] = {
    prior: ("MISFIT", "_EMPTY", "_SLOPE", "_CURVE", "_HOLLOW", "_STEEPEST", "_CLEAR"),
    fit: ("_FREE", "_BETA", "_TRUST", "_NEAR", "_STILL", "_CHANCE"),
    level: ("_FEWEST", "_LEAST", "_STRAY", "_CLOSE", "_BROAD", "_MOVES"),
    posterior: ("_PRIOR", "_OUTSIDE", "_SMALL", "_APART", "_SLOW", "_BODY"),
}


def nothing(*_: object) -> None:
    return None


PARTS: dict[str, tuple[ModuleType, str, Any]] = {
    "drift shown by counts": (fit, "drifts", lambda evidence, *_: np.zeros(len(evidence.slot))),
    "drift shown by sums": (fit._Fit, "_drift", nothing),
    "ends of the values": (fit, "with_ends", lambda *given: given[1]),
    "the moving level": (model, "moving_level", nothing),
    "slow requests": (posterior, "_slow_requests", nothing),
    "what polls say of the densities": (posterior, "_PRIOR", 1e12),
    "the scale of first buckets": (prior, "_scale", lambda _, mean: np.ones(len(mean))),
}
"""What is put in the place of a part."""


def error(cases: list[Case]) -> float:
    """Return the mean error of some windows in percent."""
    found = [
        min(WORST, abs((value or 0.0) - truth) / truth)
        for case in cases
        for value, truth in zip(window_quantiles(case.bounds, case.polls, QS), case.truth, strict=True)
    ]
    return 100.0 * fmean(found)


def sets(seeds: int) -> dict[str, list[Case]]:
    mine = range(FIRST_SEED, FIRST_SEED + seeds)
    return {
        "suite": [synthetic(shape, family, rate, seed)
                  for shape in SHAPES for family in FAMILIES for rate in RATES for seed in mine],
        "held out": list(held_out(seeds)),
        "mixtures": list(mixtures(75 * seeds)),
        "recorded": [case for case, _ in real()],
    }  # fmt: skip


@contextmanager
def replaced(where: Any, name: str, by: Any) -> Iterator[None]:
    before = getattr(where, name)
    setattr(where, name, by)
    try:
        yield
    finally:
        setattr(where, name, before)


def main() -> None:
    parser = argparse.ArgumentParser(description="What each constant and each part of the estimate is worth.")
    parser.add_argument("--seeds", type=int, default=1)
    cases = sets(parser.parse_args().seeds)
    measured: Callable[[], str] = lambda: " | ".join(f"{error(mine):.2f}" for mine in cases.values())  # noqa: E731
    print(f"| | {' | '.join(cases)} |\n|{' --- |' * (len(cases) + 1)}\n| as it is | {measured()} |", flush=True)
    for name, (where, attribute, by) in PARTS.items():
        with replaced(where, attribute, by):
            print(f"| without {name} | {measured()} |", flush=True)
    for where, names in CONSTANTS.items():
        for name in names:
            for factor in (0.5, 2.0):
                with replaced(where, name, getattr(where, name) * factor):
                    print(f"| {where.__name__.rpartition('.')[2]}.{name} x {factor:g} | {measured()} |", flush=True)


if __name__ == "__main__":
    main()
