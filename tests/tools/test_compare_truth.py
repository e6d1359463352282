"""`compare` against truth: equal simulated servers, and one whose steps are slower.

`tests/bench/bench_compare.py` prints the rates over 200 pairs.
"""

from __future__ import annotations

import pytest
from observed import windows

from vllm_sidecar.tools.compare.report import compare

pytestmark = [pytest.mark.io, pytest.mark.slow]
PAIRS = 24
MOST_FALSE = 4
"""With a rate of 5 % more than four of 24 are seen once in 250 times."""


def test_equal_servers_are_rarely_different_and_slower_ones_always() -> None:
    first, second = list(windows(1, PAIRS)), list(windows(2, PAIRS))
    false = [
        [row.measure.name for row in report.different]
        for a, b in zip(first, second, strict=True)
        if (report := compare([a, b])).different
    ]
    assert len(false) <= MOST_FALSE, false
    answers = []
    for a, b in zip(first[:6], windows(3, 6, **{"traffic.slowdown": 1.5}), strict=True):
        report = compare([a, b])
        assert "itl" in {row.measure.name for row in report.different}
        answers += [each.answer for each in report.explanations if each.measure == "itl"]
    # A minute of one server may by chance have so much more load than that of the other that it may explain it.
    assert "unknown" not in answers
    assert answers.count("no") > answers.count("may be"), answers
