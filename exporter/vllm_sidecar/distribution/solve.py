"""Linear equations with a symmetric, positive definite matrix."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SMALLEST = 1e-14
"""Least pivot, as a share of the diagonal: below it an unknown is left to its prior."""


def solve(matrix: Sequence[float], right: Sequence[float], size: int) -> list[float]:
    """Solve by Cholesky's decomposition; of the matrix (row by row) only the lower half is read."""
    rows: list[list[float]] = []
    values: list[float] = []
    for i in range(size):
        given = matrix[i * size : i * size + i + 1]
        row: list[float] = []
        for j in range(i):
            other = rows[j]
            row.append((given[j] - sum([a * b for a, b in zip(row, other, strict=False)])) / other[j])
        pivot = given[i] - sum([a * a for a in row])
        row.append(sqrt(max(pivot, _SMALLEST * given[i], 1e-300)))
        values.append((right[i] - sum([a * b for a, b in zip(row, values, strict=False)])) / row[i])
        rows.append(row)
    for i in range(size - 1, -1, -1):
        values[i] /= rows[i][i]
        value = values[i]
        for j, factor in enumerate(rows[i][:i]):
            values[j] -= factor * value
    return values
