"""Which prompt belongs to which output, where several requests ended in one poll.

Pairs of buckets occur in such polls as often as in all others. Polls that leave one pair only show how often that is;
the others are paired at random with these frequencies, which are then counted again over all polls: a stochastic
expectation-maximization. Few requests do not show these frequencies, so pairs are also tilted until all of them have
the correlation that the sums of the polls show.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from math import exp, sqrt
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    Prompt = tuple[int, int | None]
    """Tokens of a prompt, and how many of them were cached."""
    Lift = dict[tuple[int, int], float]

T = TypeVar("T")

ROUNDS = 20
GAIN = 1.0
"""Change of the tilt in a round for each unit of correlation that is missing."""
SWAPS = 4
"""Exchanges of two outputs that are tried for each request and round."""
MOST_TILT = 50.0
"""Largest change of the log odds of one exchange."""
SMOOTHING = 0.5
"""Requests that are added to each pair of buckets."""


class Poll:
    """The requests that ended in one poll; a prompt and an output at the same place belong together."""

    def __init__(self, prompts: Sequence[Prompt], outputs: Sequence[int]) -> None:
        self.prompts, self.outputs = list(prompts), list(outputs)
        self._rows: list[int] = []
        self._columns: list[int] = []

    def pair(self, strength: float, draw: random.Random) -> None:
        """Pair by the ranks of normal variables with a correlation."""
        first = [draw.gauss(0.0, 1.0) for _ in self.prompts]
        second = [strength * each + sqrt(1.0 - strength**2) * draw.gauss(0.0, 1.0) for each in first]
        self.prompts = _ranked(sorted(self.prompts, key=lambda each: each[0]), first)
        self.outputs = _ranked(sorted(self.outputs), second)

    def place(self, rows: Sequence[float], columns: Sequence[float]) -> None:
        """Find the buckets."""
        self._rows = [bisect_left(rows, prompt) for prompt, _ in self.prompts]
        self._columns = [bisect_left(columns, output) for output in self.outputs]

    @property
    def is_open(self) -> bool:
        """Whether several pairings of buckets are possible."""
        return len(set(self._rows)) > 1 and len(set(self._columns)) > 1

    def pairs(self) -> zip[tuple[int, int]]:
        """Return the pairs of buckets."""
        return zip(self._rows, self._columns, strict=True)

    def mix(self, lift: Lift, tilt: float, draw: random.Random) -> None:
        """Exchange outputs at random, until pairings are as likely as their pairs of buckets are.

        `tilt` is the change of the log odds for a product of deviations, of prompt and output, in token squared.
        """
        rows, columns, outputs, size = self._rows, self._columns, self.outputs, len(self.outputs)
        for _ in range(SWAPS * size):
            one, other = int(draw.random() * size), int(draw.random() * size)
            now = lift[rows[one], columns[one]] * lift[rows[other], columns[other]]
            then = lift[rows[one], columns[other]] * lift[rows[other], columns[one]]
            gained = (self.prompts[other][0] - self.prompts[one][0]) * (outputs[one] - outputs[other])
            then *= exp(max(-MOST_TILT, min(MOST_TILT, tilt * gained)))
            if draw.random() * (now + then) < then:
                columns[one], columns[other] = columns[other], columns[one]
                outputs[one], outputs[other] = outputs[other], outputs[one]


def pair(
    polls: Sequence[Poll], rows: Sequence[float], columns: Sequence[float], strength: float, draw: random.Random
) -> None:
    """Pair prompts and outputs within each poll.

    Args:
        polls: All polls.
        rows: Bucket bounds of prompts.
        columns: Bucket bounds of outputs.
        strength: Correlation over all requests; 0 if it is unknown or there is none.
        draw: Source of randomness.
    """
    for poll in polls:
        poll.pair(strength, draw)
        poll.place(rows, columns)
    unsettled = [poll for poll in polls if poll.is_open]
    spread = _spread(polls) if unsettled else 0.0
    tilt = 0.0
    for _ in range(ROUNDS if unsettled and spread else 0):
        lift = _lift(polls, len(rows) + 1, len(columns) + 1)
        for poll in unsettled:
            poll.mix(lift, tilt / spread, draw)
        if strength:
            tilt += GAIN * (strength - _covariance(polls) / spread)


def _spread(polls: Sequence[Poll]) -> float:
    """Return the product of the standard deviations of prompts and outputs."""
    prompts = [prompt for poll in polls for prompt, _ in poll.prompts]
    outputs = [output for poll in polls for output in poll.outputs]
    return pstdev(prompts) * pstdev(outputs)


def _covariance(polls: Sequence[Poll]) -> float:
    pairs = [(prompt, output) for poll in polls for (prompt, _), output in zip(poll.prompts, poll.outputs, strict=True)]
    middle = fmean(prompt for prompt, _ in pairs)
    return sum((prompt - middle) * output for prompt, output in pairs) / len(pairs)


def _lift(polls: Sequence[Poll], rows: int, columns: int) -> Lift:
    """Return how much more often each pair of buckets occurs than if prompts and outputs were independent."""
    counts = Counter(each for poll in polls for each in poll.pairs())
    by_row: Counter[int] = Counter()
    by_column: Counter[int] = Counter()
    for (row, column), count in counts.items():
        by_row[row] += count
        by_column[column] += count
    whole = sum(by_row.values())
    return {
        (row, column): (counts[row, column] + SMOOTHING) / (by_row[row] * by_column[column] / whole + SMOOTHING)
        for row in range(rows)
        for column in range(columns)
    }


def _ranked(ascending: list[T], by: list[float]) -> list[T]:
    """Return the values in the order of the ranks of `by`."""
    result = list(ascending)
    for place, value in zip(sorted(range(len(by)), key=by.__getitem__), ascending, strict=True):
        result[place] = value
    return result
