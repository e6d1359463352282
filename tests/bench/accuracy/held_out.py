"""Shapes of latency on which no constant of the estimate was chosen, and random mixtures that nobody chose."""

from __future__ import annotations

from math import exp
from random import Random
from typing import TYPE_CHECKING

from shapes import FAMILIES, SHAPES, WINDOW
from suite import Case, exact, observe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shapes import Family

    Draw = Callable[[float], float]

RATES = (0.5, 3.0, 20.0, 100.0)
FEWEST = 5
"""Observations of a window below which percentiles mean little."""


def weibull(rng: Random, family: Family) -> Draw:
    return lambda _: family.scale * rng.weibullvariate(1.0, 0.7)


def shifted(rng: Random, family: Family) -> Draw:
    return lambda _: family.scale * (0.5 + rng.expovariate(2.0))


def two_modes_that_move(rng: Random, family: Family) -> Draw:
    return lambda at: family.scale * (1.0 + 0.5 * at / WINDOW) * rng.choice((rng.gauss(0.5, 0.05), rng.gauss(2.0, 0.3)))


def gamma(rng: Random, family: Family) -> Draw:
    return lambda _: family.scale * rng.gammavariate(4.0, 0.25)


def three_modes(rng: Random, family: Family) -> Draw:
    return lambda _: family.scale * rng.choice((rng.gauss(0.3, 0.02), rng.gauss(0.9, 0.06), rng.gauss(1.4, 0.05)))


def slow_ones_in_the_first_bucket(rng: Random, family: Family) -> Draw:
    first = family.bounds[0]
    return lambda _: first * (1e-4 * exp(rng.gauss(0.0, 0.3)) if rng.random() < 0.9 else rng.uniform(0.3, 0.9))


def short_queue(rng: Random, family: Family) -> Draw:
    return lambda _: 0.25 * family.bounds[0] * rng.expovariate(1.0)


def stutter(rng: Random, family: Family) -> Draw:
    return lambda at: family.scale * (rng.gauss(3.0, 0.2) if int(at) % 13 == 0 else exp(rng.gauss(0.0, 0.15)))


def log_logistic(rng: Random, family: Family) -> Draw:
    def draw(_: float) -> float:
        share = rng.random()
        return family.scale * float((share / (1.0 - share)) ** 0.35)

    return draw


def triangular(rng: Random, family: Family) -> Draw:
    return lambda _: family.scale * rng.triangular(0.2, 2.5, 0.4)


def sawtooth(rng: Random, family: Family) -> Draw:
    return lambda at: family.scale * (0.6 + 0.9 * (at % 15.0) / 15.0) * exp(rng.gauss(0.0, 0.25))


def cache_hits(rng: Random, family: Family) -> Draw:
    return lambda _: family.scale * (rng.gauss(0.12, 0.01) if rng.random() < 0.6 else exp(rng.gauss(0.0, 0.5)))


HELD_OUT: dict[str, Callable[[Random, Family], Draw]] = {
    "Weibull": weibull,
    "shifted exponential": shifted,
    "two modes that move": two_modes_that_move,
    "gamma": gamma,
    "three modes": three_modes,
    "slow ones in the first bucket": slow_ones_in_the_first_bucket,
    "short queue": short_queue,
    "stutter": stutter,
    "log-logistic": log_logistic,
    "triangular": triangular,
    "sawtooth": sawtooth,
    "cache hits": cache_hits,
}


def window(shape: str, family: Family, rate: float, rng: Random, draw: Draw) -> Case | None:
    """Draw a window of Poisson arrivals; None if it has too few."""
    polls: list[list[float]] = [[] for _ in range(int(WINDOW))]
    at = rng.expovariate(rate)
    while at < WINDOW:
        polls[int(at)].append(max(1e-7, draw(at)))
        at += rng.expovariate(rate)
    values = sorted([value for poll in polls for value in poll])
    seen = [observe(family.bounds, poll) for poll in polls]
    return Case(shape, family.name, rate, family.bounds, seen, exact(values)) if len(values) >= FEWEST else None


def held_out(seeds: int) -> Iterator[Case]:
    """Yield windows of shapes that no constant was chosen on."""
    for shape, make in HELD_OUT.items():
        for family in FAMILIES:
            for rate in RATES:
                for seed in range(seeds):
                    rng = Random(f"{shape}/{family.name}/{rate}/{seed}")
                    case = window(shape, family, rate, rng, make(rng, family))
                    if case:
                        yield case


def mixture(rng: Random, family: Family) -> tuple[str, Draw]:
    """Draw a mixture of one to three lognormal, gamma, even or narrow parts, and how it moves within the window."""
    parts = []
    for _ in range(rng.choice((1, 1, 2, 2, 3))):
        scale, spread = family.scale * exp(rng.gauss(0.0, 1.0)), rng.uniform(0.1, 0.7)
        kinds: tuple[Callable[[float, float], float], ...] = (
            lambda scale, spread: scale * exp(rng.gauss(0.0, spread)),
            lambda scale, spread: scale * rng.gammavariate(spread**-2.0, spread**2.0),
            lambda scale, spread: scale * rng.uniform(1.0 - spread, 1.0 + spread),
            lambda scale, _: scale * max(0.1, rng.gauss(1.0, 0.04)),
        )
        parts.append((rng.choice((1.0, 1.0, 0.3, 0.05)), rng.choice(kinds), scale, spread))
    way, to = rng.choice(("still", "still", "line", "step", "saw")), rng.uniform(0.5, 2.0) - 1.0
    levels: dict[str, Draw] = {
        "still": lambda _: 1.0,
        "line": lambda at: 1.0 + to * at / WINDOW,
        "step": lambda at: 1.0 + to * (at > WINDOW / 2.0),
        "saw": lambda at: 1.0 + to * (at % 20.0) / 20.0,
    }
    weights = [part[0] for part in parts]

    def draw(at: float) -> float:
        _, kind, scale, spread = rng.choices(parts, weights)[0]
        return kind(scale, spread) * levels[way](at)

    return f"{len(parts)} parts, {way}", draw


def mixtures(many: int) -> Iterator[Case]:
    """Yield windows of random mixtures."""
    for seed in range(many):
        rng = Random(f"mixture {seed}")
        family, rate = rng.choice(FAMILIES), rng.choice((1.0, 3.0, 8.0, 30.0, 100.0))
        shape, draw = mixture(rng, family)
        case = window(shape, family, rate, rng, draw)
        if case:
            yield case


assert not HELD_OUT.keys() & SHAPES.keys()
