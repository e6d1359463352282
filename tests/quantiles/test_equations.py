"""The least squares of the means: the textbook's where nothing holds them, the nearest inside the buckets else."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from exactly import gathered

from vllm_sidecar.quantiles.equations import Equations
from vllm_sidecar.quantiles.evidence import joined

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Floats, Single

BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
PRECISION = 0.25
DRIFT_PRECISION = 4.0


def drawn(seed: int, polls: int, many: int, middle: float = 0.0) -> Single:
    rng = Random(seed)
    return gathered([[rng.lognormvariate(middle, 0.4) for _ in range(many)] for _ in range(polls)], BOUNDS)


class Asked:
    """What is asked of the equations of some evidence."""

    def __init__(self, evidence: Evidence, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.evidence = evidence
        self.drift, self.excess = rng.normal(size=(2, len(evidence.size)))
        self.variance = rng.uniform(0.5, 2.0, len(evidence.size))
        self.precision = np.full(len(evidence.width), PRECISION)

    def solve(self, low: float, high: float) -> tuple[Floats, Floats, Floats]:
        d = len(self.precision)
        equations = Equations(self.evidence, self.drift, self.excess)
        return equations.solve(self.variance, self.precision, np.full(d, low), np.full(d, high))

    def matrix(self, beta: float) -> tuple[Floats, Floats]:
        """Return the normal equations of the means of one histogram, for a given beta."""
        table = self.evidence.table(self.evidence.count)
        weighted = table / self.variance[:, None]
        return (
            weighted.T @ table + PRECISION * np.eye(table.shape[1]),
            weighted.T @ (self.excess - beta * self.drift),
        )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_means_and_beta_are_those_of_the_textbook_where_nothing_holds_them(seed: int) -> None:
    asked = Asked(drawn(seed, 40, 5), seed)
    means, beta, _ = asked.solve(-1e9, 1e9)
    matrix, right = asked.matrix(float(beta[0]))
    assert means == pytest.approx(np.linalg.solve(matrix, right), rel=1e-9)
    left = asked.excess - asked.evidence.table(asked.evidence.count) @ means - beta[0] * asked.drift
    pull = float((asked.drift * left / asked.variance).sum()) + DRIFT_PRECISION * (1.0 - float(beta[0]))
    assert (pull > -1e-9) if beta[0] == 1.0 else (pull < 1e-9) if beta[0] == 0.0 else (abs(pull) < 1e-9)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_means_that_are_held_are_the_best_inside_their_limits(seed: int) -> None:
    """At a limit the squares would fall beyond it, elsewhere nowhere (Karush, Kuhn and Tucker)."""
    asked = Asked(drawn(seed, 40, 5), seed)
    means, beta, _ = asked.solve(-0.05, 0.05)
    matrix, right = asked.matrix(float(beta[0]))
    slope = (matrix @ means - right) / np.diag(matrix)
    at_low, at_high = means <= -0.05, means >= 0.05
    assert at_low.any() or at_high.any()
    assert (slope[at_low] >= -1e-6).all()
    assert (slope[at_high] <= 1e-6).all()
    assert slope[~at_low & ~at_high] == pytest.approx(np.zeros((~at_low & ~at_high).sum()), abs=1e-6)


def test_the_share_of_the_prior_is_all_without_sums_and_hardly_any_with_many() -> None:
    asked = Asked(gathered([[1.2]] * 50 + [[1.7]], BOUNDS))
    _, _, share = asked.solve(-1e9, 1e9)
    assert share[0] < 0.02
    assert 0.1 < share[1] < 0.4


@pytest.mark.parametrize("limit", [0.05, 1e9])
def test_histograms_side_by_side_have_the_means_that_each_has_alone(limit: float) -> None:
    parts = [drawn(1, 40, 5), drawn(2, 3, 50, 1.0), gathered([[1.2]], BOUNDS)]
    alone = [Asked(part, seed) for seed, part in enumerate(parts)]
    together = Asked(joined(parts))
    for name in ("drift", "excess", "variance", "precision"):
        setattr(together, name, np.concatenate([getattr(asked, name) for asked in alone]))
    found = together.solve(-limit, limit)
    expected = [asked.solve(-limit, limit) for asked in alone]
    for number, each in enumerate(found):
        assert each == pytest.approx(np.concatenate([one[number] for one in expected]), rel=1e-9, abs=1e-12)
