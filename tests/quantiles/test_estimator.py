"""Quantiles from the counts and sums of every poll of a window."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, pairwise
from math import isfinite, log
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

import pytest
from exactly import counted, exact, polled
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples

from vllm_sidecar.quantiles import estimate, estimates, window_quantiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.quantiles.buckets import Observed

QS = (0.5, 0.9, 0.95, 0.99)
MANY = (0.0, 0.001, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
Polls = list[tuple[list[float], float | None]]


def poll(*values: float, bounds: tuple[float, ...] = BOUNDS) -> tuple[list[float], float]:
    """Make what one poll sees of these values."""
    return counted(values, bounds)


def observed(polls: Polls) -> list[Observed]:
    return [polled(counts, total) for counts, total in polls]


VALUES = st.floats(1e-6, 40.0)
EDGES = st.lists(st.floats(-10, 1e4, allow_subnormal=False), min_size=1, max_size=8, unique=True).map(sorted)


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[float], Polls]:
    """Draw any bounds and polls at all: sums that no values have, none, counts of any size."""
    bounds = draw(EDGES)
    counts = st.one_of(st.just(0.0), st.integers(0, 3).map(float), st.integers(0, 10**6).map(float))
    total = st.one_of(st.none(), st.floats(-1e6, 1e9), st.floats(allow_nan=False, allow_infinity=False))
    polls = draw(
        st.lists(st.tuples(st.lists(counts, min_size=len(bounds) + 1, max_size=len(bounds) + 1), total), max_size=12)
    )
    return bounds, polls


@settings(deadline=None)
@given(st.lists(windows(), max_size=3), st.integers(0, 3))
def test_no_other_histogram_whatever_it_holds_touches_what_one_gets(
    others: list[tuple[list[float], Polls]], place: int
) -> None:
    rng = Random(1)
    mine = BOUNDS, observed([poll(*(rng.lognormvariate(0.0, 0.5) for _ in range(4))) for _ in range(20)])
    beside = [(bounds, observed(polls)) for bounds, polls in others]
    found = estimates([*beside[:place], mine, *beside[place:]], QS)
    expected = estimate(*mine, QS)
    at = min(place, len(beside))
    assert [each.value for each in found[at]] == pytest.approx([each.value for each in expected], rel=1e-9)
    for each, (_, polls) in zip(found[:at] + found[at + 1 :], beside, strict=True):
        assert len(each) == (len(QS) if any(one.bins for one in polls) else 0)
        assert all(isfinite(quantile.value) for quantile in each)


@settings(deadline=None)
@given(windows(), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6).map(sorted))
def test_a_quantile_is_finite_grows_with_q_and_never_leaves_the_bucket_of_its_rank(
    window: tuple[list[float], Polls], qs: list[float]
) -> None:
    bounds, polls = window
    found = window_quantiles(bounds, polls, qs)
    counts = [sum(column) for column in zip(*(p[0] for p in polls), strict=True)]
    if not sum(counts):
        assert found == [None] * len(qs)
        return
    values = [value for value in found if value is not None]
    assert len(values) == len(qs)
    assert all(isfinite(value) for value in values)
    assert all(low <= high for low, high in pairwise(values))
    cumulative = list(accumulate(counts))
    for q, value in zip(qs, values, strict=True):
        bucket = bisect_left(cumulative, max(q * cumulative[-1], 1e-300))
        assert value >= (bounds[bucket - 1] if bucket else min(0.0, bounds[0]))
        assert bucket == len(bounds) or value <= bounds[bucket]


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=60))
def test_quantiles_are_exact_where_every_poll_saw_one_observation(values: list[float]) -> None:
    found = window_quantiles(BOUNDS, [poll(value) for value in values], MANY)
    assert found == [exact(values, q) for q in MANY]


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=20), st.lists(st.integers(0, 20), max_size=20))
def test_polls_that_saw_nothing_change_nothing(values: list[float], places: list[int]) -> None:
    polls: Polls = [poll(value, value / 2) for value in values]
    more = list(polls)
    for i, place in enumerate(places):
        more.insert(place, ([0.0] * (len(BOUNDS) + 1), (0.0, None)[i % 2]))
    assert window_quantiles(BOUNDS, more, MANY) == window_quantiles(BOUNDS, polls, MANY)


@given(windows(), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6).map(sorted))
def test_without_any_sum_it_is_the_line_that_prometheus_draws(
    window: tuple[list[float], Polls], qs: list[float]
) -> None:
    bounds, polls = window
    counts = [sum(column) for column in zip(*(p[0] for p in polls), strict=True)]
    found = window_quantiles(bounds, [(p[0], None) for p in polls], qs)
    if not sum(counts):
        assert found == [None] * len(qs)
        return
    cumulative = list(accumulate(counts))
    for q, value in zip(qs, found, strict=True):
        rank = q * cumulative[-1]
        bucket = bisect_left(cumulative, max(rank, 1e-300))
        if bucket == len(bounds):
            assert value == bounds[-1]
            continue
        lower = bounds[bucket - 1] if bucket else min(0.0, bounds[0])
        below = cumulative[bucket - 1] if bucket else 0.0
        expected = lower + (bounds[bucket] - lower) * (rank - below) / counts[bucket]
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)


@examples(60)
@given(
    st.lists(st.lists(VALUES, min_size=1, max_size=6), min_size=1, max_size=20),
    st.integers(0, 19),
    st.sampled_from((1e-9, -1e-9)),
)
def test_a_sum_that_differs_a_little_makes_quantiles_that_differ_a_little(
    polls: list[list[float]], which: int, by: float
) -> None:
    before: Polls = [poll(*values) for values in polls]
    after = list(before)
    counts, total = after[which % len(after)]
    assert total is not None
    after[which % len(after)] = (counts, total * (1.0 + by))
    for one, other in zip(window_quantiles(BOUNDS, before, MANY), window_quantiles(BOUNDS, after, MANY), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def one_shape(rng: Random, seed: int) -> float:
    """Draw a value of one of four shapes: lognormal, two groups in a bucket, even, or slow ones among small ones."""
    if seed % 4 == 0:
        return rng.lognormvariate(0.3, 0.4)
    if seed % 4 == 1:
        return rng.gauss(1.1, 0.01) if rng.random() < 0.4 else rng.gauss(1.4, 0.01)
    if seed % 4 == 2:
        return rng.uniform(0.4, 2.2)
    return 1e-4 * rng.lognormvariate(0.0, 0.4) if rng.random() < 0.95 else rng.uniform(0.02, 0.25)


def jump(at: Callable[[float], list[float]], steps: int = 8) -> float:
    """Return by what ratio values jump where they move most on the way from 0 to 1, halved again and again."""

    def apart(one: list[float], other: list[float]) -> float:
        return max(abs(a - b) / max(a, b) for a, b in zip(one, other, strict=True))

    found = [at(step / steps) for step in range(steps + 1)]
    _, place = max((apart(one, other), place) for place, (one, other) in enumerate(pairwise(found)))
    low, high, below, above = place / steps, (place + 1) / steps, found[place], found[place + 1]
    while high - low > 1e-10:
        middle = (low + high) / 2.0
        half = at(middle)
        if apart(below, half) < apart(half, above):
            low, below = middle, half
        else:
            high, above = middle, half
    return apart(below, above)


@pytest.mark.parametrize("seed", range(16))
def test_sums_that_move_on_and_on_never_make_quantiles_jump(seed: int) -> None:
    rng = Random(seed)
    seen = [poll(*(one_shape(rng, seed) for _ in range(rng.choice((1, 2, 4, 8))))) for _ in range(40)]
    ways = [total * rng.gauss(0.0, 0.03) for _, total in seen]

    def at(part: float) -> list[float]:
        polls: Polls = [(counts, total + part * way) for (counts, total), way in zip(seen, ways, strict=True)]
        return [value or 0.0 for value in window_quantiles(BOUNDS, polls, QS)]

    assert jump(at) < 1e-4


@pytest.mark.parametrize("seed", range(8))
def test_a_poll_that_takes_longer_and_longer_among_small_waits_makes_no_quantile_jump(seed: int) -> None:
    """Ever more of its requests have to be slow for that, or those of other buckets."""
    rng = Random(seed)
    many, level = rng.choice((4, 6, 12, 20)), 10.0 ** rng.uniform(-5.0, -2.5)
    waits = [[rng.lognormvariate(log(level), 0.3) for _ in range(many)] for _ in range(rng.choice((12, 30)))]
    for number in range(rng.randrange(1, 4)):
        waits[number][0] = rng.uniform(0.01, 0.29)
    seen = [poll(*values) for values in waits]
    counts, _ = poll(*waits[-1], *(0.4 for _ in range(rng.randrange(3))))

    def at(part: float) -> list[float]:
        total = 2e-3 * 1e3**part
        return [value or 0.0 for value in window_quantiles(BOUNDS, [*seen, (counts, total)], QS)]

    assert jump(at, 24) < 1e-4


@examples(60)
@given(
    st.lists(st.lists(VALUES, min_size=1, max_size=6), min_size=1, max_size=20),
    st.sampled_from((2.0, 1024.0, 1 / 4096)),
)
def test_the_unit_does_not_matter(polls: list[list[float]], unit: float) -> None:
    bounds = tuple(bound * unit for bound in BOUNDS)
    one = window_quantiles(BOUNDS, [poll(*values) for values in polls], QS)
    other = window_quantiles(bounds, [poll(*(v * unit for v in values), bounds=bounds) for values in polls], QS)
    assert other == pytest.approx([value * unit for value in one if value is not None], rel=1e-3)


@examples(60)
@given(value=st.floats(0.001, 30.0), counts=st.lists(st.integers(1, 40), min_size=12, max_size=60))
def test_values_that_are_all_equal_are_found(value: float, counts: list[int]) -> None:
    found = window_quantiles(BOUNDS, [poll(*[value] * count) for count in counts], QS)
    assert found == pytest.approx([value] * 4, rel=0.01)


def test_light_queues_are_of_the_order_of_their_mean_not_of_their_bucket() -> None:
    rng = Random(1)
    polls = [poll(*(rng.uniform(15e-6, 25e-6) for _ in range(3))) for _ in range(60)]
    found = window_quantiles(BOUNDS, polls, QS)
    assert all(value is not None and 10e-6 < value < 40e-6 for value in found)


@pytest.mark.parametrize("rate", [1, 20, 500])
def test_drift_of_the_mean_is_told_from_the_spread_at_each_moment(rate: int) -> None:
    rng = Random(2)
    polls, values = [], []
    for i in range(60):
        seen = [1.05 + 0.4 * i / 60 + rng.gauss(0.0, 0.01) for _ in range(rate)]
        values += seen
        polls.append(poll(*seen))
    for q, value in zip(QS, window_quantiles(BOUNDS, polls, QS), strict=True):
        assert value == pytest.approx(exact(values, q), rel=0.06)


def test_beyond_the_last_bound_the_sum_tells_the_mean() -> None:
    rng = Random(3)
    values = [[30.0 + rng.uniform(-1.0, 1.0) for _ in range(5)] for _ in range(60)]
    found = window_quantiles(BOUNDS, [poll(*seen) for seen in values], (0.5,))
    assert found == [pytest.approx(30.0, rel=0.02)]


def test_sums_that_fell_in_some_polls_cost_only_those() -> None:
    rng = Random(4)
    values = [[rng.gauss(1.1, 0.01) for _ in range(4)] for _ in range(60)]
    polls: Polls = [poll(*seen) for seen in values]
    polls[::7] = [(counts, None) for counts, _ in polls[::7]]
    found = window_quantiles(BOUNDS, polls, (0.5,))
    assert found == [pytest.approx(1.1, rel=0.02)]


def test_one_poll_in_the_window_gives_its_mean_in_the_middle() -> None:
    found = window_quantiles(BOUNDS, [([0.0] * 4 + [99.0] + [0.0] * 5, 99 * 1.2)], (0.05, 0.5, 0.95))
    low, middle, high = (value for value in found if value is not None)
    assert middle == pytest.approx(1.2, rel=0.05)
    assert 1.0 < low < middle < high < 1.5


@examples(40)
@given(st.lists(st.lists(VALUES, min_size=1, max_size=9), min_size=1, max_size=20))
def test_the_bounds_beside_a_quantile_hold_what_was_observed(polls: list[list[float]]) -> None:
    values = [value for seen in polls for value in seen]
    for found in estimate(BOUNDS, observed([poll(*seen) for seen in polls]), QS):
        true = exact(values, found.q)
        assert found.lower <= true
        assert found.upper is None or true <= found.upper
        assert found.lower <= found.value
        assert found.upper is None or found.value <= found.upper
        assert (found.upper is None) == (found.lower == BOUNDS[-1])


@pytest.mark.parametrize("rate", [0.2, 5.0, 200.0])
def test_a_lognormal_is_read_better_than_from_its_buckets_alone(rate: float) -> None:
    ours, theirs = [], []
    for seed in range(5):
        rng = Random(seed)
        window: list[list[float]] = [[] for _ in range(60)]
        for _ in range(max(2, int(60 * rate))):
            window[rng.randrange(60)].append(rng.lognormvariate(0.3, 0.5))
        values = [value for seen in window for value in seen]
        polls: Polls = [poll(*seen) for seen in window]
        for q, one, other in zip(
            QS,
            window_quantiles(BOUNDS, polls, QS),
            window_quantiles(BOUNDS, [(counts, None) for counts, _ in polls], QS),
            strict=True,
        ):
            true = exact(values, q)
            ours.append(abs((one or 0.0) - true) / true)
            theirs.append(abs((other or 0.0) - true) / true)
    assert fmean(ours) < min(0.04, 0.6 * fmean(theirs))
