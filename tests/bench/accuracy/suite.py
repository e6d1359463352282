"""Cases of the accuracy suite: values of a shape at a rate, as the polls of a window see them, and their quantiles."""

from __future__ import annotations

from bisect import bisect_left
from math import ceil
from random import Random

from shapes import SHAPES, WINDOW

QS = (0.5, 0.9, 0.95, 0.99)
RATES = (0.2, 1.0, 5.0, 20.0, 100.0, 500.0)


def make(shape, family, rate, seed):
    rng = Random(f"{shape}/{family.name}/{rate}/{seed}")
    draw = SHAPES[shape](rng, family)
    polls = [[[0.0] * (len(family.bounds) + 1), 0.0] for _ in range(int(WINDOW))]
    values = []
    at = rng.expovariate(rate)
    while at < WINDOW:
        v = draw(at)
        values.append(v)
        p = polls[int(at)]
        p[0][bisect_left(family.bounds, v)] += 1
        p[1] += v
        at += rng.expovariate(rate)
    if not values:
        return make(shape, family, rate, seed + 100000)
    values.sort()
    return (
        family.bounds,
        [tuple(p) for p in polls],
        [values[max(0, ceil(q * len(values)) - 1)] for q in QS],
        len(values),
    )
