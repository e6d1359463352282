"""Whether data-parallel engines share the work."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from readings import grown, model, window

from vllm_sidecar.derive.data_parallel import engines, imbalance

if TYPE_CHECKING:
    from vllm_sidecar.series.window import Window

TOKENS = "generation_tokens_total"


def load(running: float, waiting: float, tokens: float, seconds: float = 10.0) -> Window:
    gauges = {"requests_running": running, "requests_waiting": waiting}
    return grown({**gauges, TOKENS: 100}, {**gauges, TOKENS: 100 + tokens}, seconds)


def test_engines_are_counted() -> None:
    assert [engines(model(*[window({})] * n)) for n in (1, 4)] == [1.0, 4.0]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([load(4, 0, 50)], {}),
        ([load(4, 2, 50), load(6, 0, 50)], {"requests": 0.0, "generation_tokens": 0.0}),
        ([load(6, 2, 50), load(2, 0, 150)], {"requests": 0.375, "generation_tokens": pytest.approx(1 / 3)}),
        ([load(5, 0, 10), *[load(0, 0, 0)] * 3], {"requests": 0.75, "generation_tokens": 0.75}),
        ([load(0, 0, 0), load(0, 0, 0)], {}),
        ([load(1, 0, 0), load(1, 0, 0)], {"requests": 0.0}),
        ([window({}, {}), window({}, {})], {}),
    ],
    ids=[
        "one engine cannot be unbalanced",
        "equal loads",
        "unequal loads",
        "one of four does everything",
        "all idle",
        "no token yet",
        "nothing is told",
    ],
)
def test_imbalance_is_one_minus_mean_by_max(windows: list[Window], expected: dict[str, float]) -> None:
    assert imbalance(model(*windows)) == expected


def test_an_engine_that_has_just_come_up_is_compared_by_its_rate() -> None:
    assert imbalance(model(load(2, 0, 6000, 60.0), load(2, 0, 200, 2.0))) == {"requests": 0.0, "generation_tokens": 0.0}


def test_tokens_are_not_compared_before_each_engine_was_polled_twice() -> None:
    once = window({"requests_running": 4, "requests_waiting": 0, TOKENS: 9})
    assert imbalance(model(load(2, 0, 500), once)) == {"requests": 0.25}


def test_the_stages_of_a_pipeline_are_not_compared_with_each_other() -> None:
    busy, idle, half = load(4, 0, 600), load(0, 0, 0), load(2, 0, 300)
    pipeline = replace(model(busy, idle), work={"0": ("0",), "1": ("1",)})
    assert imbalance(pipeline) == {}
    replicas = replace(model(busy, half, idle), work={"0": ("0",), "1": ("0",), "2": ("1",)})
    assert imbalance(replicas) == {"requests": 0.25, "generation_tokens": 0.25}
