"""Sums settle what was read of polls: what is uncertain moves, slow requests among small waits most."""

from __future__ import annotations

import numpy as np
import pytest
from exactly import gathered

from vllm_sidecar.quantiles.groups import Groups
from vllm_sidecar.quantiles.reading import Bins
from vllm_sidecar.quantiles.settle import Observations, settled
from vllm_sidecar.quantiles.shape import NODES, gaps

BOUNDS = (0.3, 0.5, 0.8, 1.0)
WAIT = 1.5e-5
BODY = 30
"""Places of small waits; the others are those of slow ones."""


def settle(
    others: float, total: float, slow: float = 0.1, belief: float = 1.0, spread: float = 0.0
) -> tuple[Observations, float]:
    """Settle a poll of seven waits in the first bucket, of which a share was read as slow, and one in the next.

    `others` is where the one in the next bucket was read, give or take `spread`.
    """
    evidence = gathered([[WAIT] * 7 + [0.4]], BOUNDS)
    evidence.total[:] = total / evidence.scale
    first = np.concatenate([np.linspace(1e-5, 2e-5, BODY), np.geomspace(1e-4, 0.29, NODES - BODY)])
    second = others + np.linspace(-spread, spread, NODES) + np.linspace(0.0, 1e-9, NODES)
    values = np.stack([first, second]) / evidence.scale
    upper = np.zeros((2, NODES))
    upper[0, BODY:] = 1.0
    weights = np.full((2, NODES), 1.0 / NODES)
    weights[0] = np.where(upper[0] > 0.0, slow / (NODES - BODY), (1.0 - slow) / BODY)
    usual = Groups(values, weights.copy(), upper, np.array([belief, 0.0]), np.array([belief, 0.0]))
    found = settled(evidence, Bins(values, gaps(values)), weights, usual)
    return found._replace(values=found.values * evidence.scale), evidence.scale


def small(found: Observations) -> float:
    """Return the share of the first bucket's observations that are small waits."""
    return float(found.weights[0, np.abs(found.values[0] - WAIT) < 1e-5].sum())


def whole(found: Observations) -> float:
    return float(np.array([7.0, 1.0]) @ (found.weights * found.values).sum(1))


@pytest.mark.parametrize(("missing", "slow"), [(0.1, 0.4), (0.5, 2.0), (1.0, 4.0)])
def test_what_is_missing_makes_some_waits_slow(missing: float, slow: float) -> None:
    found, _ = settle(others=0.5, total=0.5 + missing, slow=0.01)
    assert whole(found) == pytest.approx(0.5 + missing, rel=1e-9)
    assert 7.0 * (1.0 - small(found)) == pytest.approx(slow, abs=0.6 * slow)


@pytest.mark.parametrize("slow", [0.02, 0.1, 0.3])
def test_what_is_too_much_makes_fewer_slow_and_not_the_others_smaller(slow: float) -> None:
    found, _ = settle(others=0.3, total=0.3 + 7.0 * WAIT, slow=slow)
    assert whole(found) == pytest.approx(0.3 + 7.0 * WAIT, rel=1e-9)
    assert small(found) > 0.98
    assert float((found.weights[0] * found.values[0])[:BODY].sum()) == pytest.approx(WAIT, rel=0.2)


def test_slow_ones_stay_the_larger_ones_however_far_they_move() -> None:
    for total in (0.30011, 0.31, 0.5, 1.5, 2.3):
        found, _ = settle(others=0.4, total=total, slow=0.2, spread=0.05)
        assert (np.diff(found.values[0]) >= 0.0).all()
        assert whole(found) == pytest.approx(total, rel=1e-9)


def test_as_far_as_it_is_not_believed_all_move() -> None:
    found, _ = settle(others=0.5, total=1.0, slow=0.01, belief=1e-9)
    assert whole(found) == pytest.approx(1.0, rel=1e-9)
    assert small(found) < 0.1


def test_what_moves_is_what_is_uncertain() -> None:
    found, _ = settle(others=0.4, total=0.42 + 7.0 * WAIT, slow=1e-9, spread=0.05)
    assert small(found) > 0.999
    assert float(found.weights[1] @ found.values[1]) == pytest.approx(0.42, abs=1e-4)
