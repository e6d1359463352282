"""Values that stand for a bucket: they have the mean and the variance that were fitted, and lie inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_sidecar.quantiles.curve import deviation_of, mean_of, quantiles_of, tilt_of
from vllm_sidecar.quantiles.evidence import Single, gather
from vllm_sidecar.quantiles.moments import Moments
from vllm_sidecar.quantiles.nodes import nodes
from vllm_sidecar.quantiles.observed import Observed
from vllm_sidecar.quantiles.shape import NODES, SHARES, Outline, Shapes, shapes

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Floats

BOUNDS = (1.0, 2.0, 4.0, 8.0)
COUNTS = (100.0, 300.0, 200.0, 50.0, 7.0)
TOTAL = 100 * 0.6 + 300 * 1.5 + 200 * 3.0 + 50 * 5.0 + 7 * 12.0
FIRST, LAST = 0, 4
PLACES = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95)


def evidence() -> Single:
    return gather(BOUNDS, [Observed(tuple(enumerate(COUNTS)), TOTAL)], COUNTS)


def suggested() -> Shapes:
    return shapes(Outline(BOUNDS, COUNTS, range(5)))


def widest(place: float) -> float:
    """Return the deviation of the density of largest entropy with this mean, in widths of the bucket."""
    return float(deviation_of(tilt_of(np.array([place])))[0])


def placed(place: Floats | float, deviation: Floats | float) -> Floats:
    """Return the nodes of each slot in widths of its bucket, for a mean and a deviation in the same."""
    seen = evidence()
    means, within = seen.lower + seen.width * place, (seen.width * deviation) ** 2
    found = nodes(seen, Moments(suggested(), means, within, np.zeros(5), np.zeros(5)))
    return (found - seen.lower[:, None]) / seen.width[:, None]


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("place", PLACES)
def test_they_have_the_mean_that_was_fitted(place: float, part: float) -> None:
    found = placed(place, part * widest(place))
    assert found.mean(1) == pytest.approx(np.full(5, place), abs=0.005)


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("place", PLACES)
def test_they_have_the_variance_that_was_fitted_where_a_bucket_allows_it(place: float, part: float) -> None:
    found = placed(place, part * widest(place))
    # So few values leave out the ends of their density, most of all those of a lognormal, as in the first bucket.
    assert found.std(1)[1:] == pytest.approx(np.full(4, part * widest(place)), rel=0.06)
    assert found.std(1)[FIRST] == pytest.approx(part * widest(place), rel=0.12)


def test_a_variance_that_no_density_has_is_that_of_the_widest_one() -> None:
    found, most = placed(0.9, 0.3), placed(0.9, widest(0.9))
    assert found[1:] == pytest.approx(most[1:])


def test_without_variance_all_are_the_mean() -> None:
    assert placed(np.array([0.1, 0.2, 0.5, 0.7, 0.9]), 0.0) == pytest.approx(
        np.repeat([[0.1], [0.2], [0.5], [0.7], [0.9]], NODES, axis=1), abs=1e-12
    )


@pytest.mark.parametrize("place", [0.0, 1.0])
def test_a_mean_at_an_edge_leaves_no_room_for_a_variance(place: float) -> None:
    assert placed(place, 0.1) == pytest.approx(np.full((5, NODES), place))


def test_a_bucket_whose_mean_and_variance_are_those_of_its_shape_has_that_shape() -> None:
    shape = suggested()
    found = placed(shape.mean, np.sqrt(shape.variance))
    for slot in (1, 2, 3):
        assert found[slot] == pytest.approx(shape.quantiles[slot], abs=0.005)


def test_a_mean_that_is_far_from_that_of_the_shape_makes_a_truncated_exponential() -> None:
    tilt = tilt_of(np.array([0.93]))
    [expected] = quantiles_of(tilt, SHARES[None, :])
    found = placed(0.93, widest(0.93))
    assert expected.mean() == pytest.approx(float(mean_of(tilt)[0]), abs=0.001)
    for slot in (1, 2, 3, LAST):
        assert found[slot] == pytest.approx(expected, abs=0.015)


def test_a_small_variance_makes_them_nearly_normal() -> None:
    found = placed(0.5, 0.002)
    z = (found - 0.5) / 0.002
    assert z[:, NODES // 2] == pytest.approx(np.full(5, 0.026), abs=0.01)
    assert z[:, round(0.8413 * NODES)] == pytest.approx(np.full(5, 1.04), abs=0.05)
    assert z[:, 0] == pytest.approx(-z[:, -1], abs=0.02)


def test_small_values_of_the_first_bucket_are_lognormal_and_those_of_others_are_not() -> None:
    found = placed(1e-4, 0.5e-4)
    logs = np.log(found[FIRST])
    assert logs[0] + logs[-1] == pytest.approx(2.0 * logs[NODES // 2], abs=0.03)
    assert found[FIRST, NODES // 2] < 0.92e-4
    assert found[1, NODES // 2] > 0.92e-4


def test_small_values_of_the_first_bucket_are_never_wider_than_their_mean() -> None:
    found = placed(1e-4, np.array([5e-3, 0.0, 0.0, 0.0, 0.0]))
    assert found[FIRST] == pytest.approx(placed(1e-4, np.array([1e-4, 0.0, 0.0, 0.0, 0.0]))[FIRST])
    assert found[FIRST].min() > 0.0


def test_from_small_values_to_others_there_is_no_jump() -> None:
    found = [placed(place, 0.8 * widest(place))[FIRST] for place in np.linspace(0.15, 0.55, 201)]
    steps = np.abs(np.diff(found, axis=0)).max()
    assert steps < 0.02


@settings(deadline=None)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=5, max_size=5),
    st.lists(st.floats(0.0, 0.5), min_size=5, max_size=5),
)
def test_they_ascend_and_lie_inside_their_bucket(place: list[float], deviation: list[float]) -> None:
    found = placed(np.array(place), np.array(deviation))
    assert found.shape == (5, NODES)
    assert (found >= -1e-12).all()
    assert (found <= 1.0 + 1e-12).all()
    assert (np.diff(found, axis=1) >= 0.0).all()
