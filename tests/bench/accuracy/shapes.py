"""Latency shapes: what a server's values could look like over a window, as a function of the time of each value.

Every shape is drawn for one family of vLLM's buckets (TTFT, ITL, queue), around a scale that is usual for it. A value
may depend on when it was observed: then the latency drifts or jumps inside the window.
"""

from __future__ import annotations

from itertools import pairwise
from math import exp, pi, sin
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

WINDOW = 60.0
"""Seconds of the window, polled each second."""

Draw = "Callable[[float], float]"


class Family(NamedTuple):
    """One of vLLM's histograms: its buckets, and a value in the middle of what it usually observes."""

    name: str
    bounds: tuple[float, ...]
    scale: float


TTFT = Family(
    "TTFT",
    (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
     160.0, 640.0, 2560.0),
    0.35,
)  # fmt: skip
ITL = Family(
    "ITL",
    (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    0.021,
)  # fmt: skip
QUEUE = Family(
    "queue",
    (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
     1920.0, 7680.0),
    1.7,
)  # fmt: skip
FAMILIES = (TTFT, ITL, QUEUE)


def bucket_of(family: Family, value: float) -> tuple[float, float]:
    """Return the edges of the finite bucket that holds a value."""
    return next(edges for edges in pairwise((0.0, *family.bounds)) if value <= edges[1])


def lognormal(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda _: family.scale * exp(rng.gauss(0.0, 0.5))


def wide(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda _: family.scale * exp(rng.gauss(0.0, 1.2))


def tight(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda _: family.scale * max(0.1, rng.gauss(1.0, 0.05))


def two_modes_apart(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda _: family.scale * (rng.gauss(5.0, 0.4) if rng.random() < 0.3 else rng.gauss(0.6, 0.05))


def two_modes_in_one_bucket(rng: Random, family: Family) -> Callable[[float], float]:
    lower, upper = bucket_of(family, family.scale)
    return lambda _: lower + (upper - lower) * (rng.gauss(0.8, 0.02) if rng.random() < 0.4 else rng.gauss(0.25, 0.02))


def drift(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda at: family.scale * (0.6 + 1.2 * at / WINDOW) * exp(rng.gauss(0.0, 0.1))


def step(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda at: family.scale * (0.7 if at < 40.0 else 2.1) * exp(rng.gauss(0.0, 0.1))


def heavy_tail(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda _: 0.4 * family.scale * rng.paretovariate(1.3)


def uniform(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda _: family.scale * rng.uniform(0.2, 2.0)


def constant(rng: Random, family: Family) -> Callable[[float], float]:
    value = family.scale * rng.uniform(0.6, 1.6)
    return lambda _: value


def timeouts(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda _: 60.0 if rng.random() < 0.03 else family.scale * exp(rng.gauss(0.0, 0.4))


def below_the_first_bound(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda _: 1e-4 * family.bounds[0] * exp(rng.gauss(0.0, 0.4))


def beyond_the_last_bound(rng: Random, family: Family) -> Callable[[float], float]:
    last = family.bounds[-1]
    return lambda _: last * (1.0 + 0.5 * rng.expovariate(1.0)) if rng.random() < 0.3 else last * rng.uniform(0.2, 0.9)


def discrete(rng: Random, family: Family) -> Callable[[float], float]:
    return lambda _: family.scale * rng.choice((0.5, 0.8, 0.8, 1.3, 1.3, 1.3, 3.1))


def load_wave(rng: Random, family: Family) -> Callable[[float], float]:
    phase = rng.uniform(0.0, 2.0 * pi)
    return lambda at: family.scale * (0.8 + 0.35 * sin(phase + at * 2.0 * pi / 25.0)) * exp(rng.gauss(0.0, 0.15))


def each_second_its_own(rng: Random, family: Family) -> Callable[[float], float]:
    lower, upper = bucket_of(family, family.scale)
    levels = [rng.uniform(0.2, 0.8) for _ in range(int(WINDOW) + 1)]
    return lambda at: lower + (upper - lower) * levels[int(at)] * exp(rng.gauss(0.0, 0.08))


SHAPES: dict[str, Callable[[Random, Family], Callable[[float], float]]] = {
    "lognormal": lognormal,
    "lognormal, wide": wide,
    "tight": tight,
    "two modes apart": two_modes_apart,
    "two modes in one bucket": two_modes_in_one_bucket,
    "drift": drift,
    "step": step,
    "heavy tail": heavy_tail,
    "uniform": uniform,
    "constant": constant,
    "3 % timeouts": timeouts,
    "below the first bound": below_the_first_bound,
    "beyond the last bound": beyond_the_last_bound,
    "discrete": discrete,
    "load wave": load_wave,
    "each second its own": each_second_its_own,
}
