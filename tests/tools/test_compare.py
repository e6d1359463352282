"""The statistics of `compare`: values only."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from readings import ENGINE as GROUP
from readings import readings

from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.readings import Adapters
from vllm_sidecar.tools.compare.differences import MOST_ADAPTERS, differences
from vllm_sidecar.tools.compare.facts import compare_facts, exported_facts, facts_of, size_facts
from vllm_sidecar.tools.compare.measures import (
    ADAPTER_POLLS,
    FINISHED,
    GENERATED,
    ITL,
    OUTPUT,
    POLLS,
    PROMPT,
    PROMPTED,
    TTFT,
    WAITING,
)
from vllm_sidecar.tools.compare.observation import Grown, Growth, Interval, Observation, Values
from vllm_sidecar.tools.compare.prometheus import time_of
from vllm_sidecar.tools.compare.report import CODES, Result, compare
from vllm_sidecar.tools.compare.resampling import blocks, estimate, lengths, student
from vllm_sidecar.tools.compare.text import lines

ENGINE = ("m", "0")
BOUNDS = (0.05, 0.1, 0.2, 1.0)
SIZES = (100.0, 1000.0)


def side(
    name: str,
    *,
    ttft: float = 0.08,
    prompt: float = 500.0,
    rate: float = 5.0,
    waiting: float = 0.0,
    polls: int = 60,
    errors: int = 0,
    seed: int = 0,
) -> Observation:
    """A server whose requests are independent, with latencies that vary by a tenth."""
    draw = np.random.default_rng(seed)
    found = Observation(name, "test", bounds={TTFT: BOUNDS, ITL: BOUNDS, PROMPT: SIZES, OUTPUT: SIZES})
    for at in range(polls):
        count = int(draw.poisson(rate))
        histograms = {
            TTFT: grown(draw.normal(ttft, ttft / 10, count), BOUNDS),
            ITL: grown(draw.normal(0.06, 0.006, 20 * count), BOUNDS),
            PROMPT: grown(draw.normal(prompt, prompt / 10, count), SIZES),
            OUTPUT: grown(draw.normal(200.0, 20.0, count), SIZES),
        }
        failed = int(draw.binomial(count, 0.3)) if errors else 0
        counters = {
            (FINISHED, "stop"): float(count - failed),
            (FINISHED, "error"): float(failed),
            (PROMPTED,): count * prompt,
            (GENERATED,): count * 200.0,
        }
        found.intervals.append(Interval(float(at), 1.0, counters, histograms, {WAITING: waiting}))
    return found


def grown(values: np.ndarray, bounds: tuple[float, ...]) -> Grown:
    counts: dict[float, float] = {}
    for value in values:
        bound = next((each for each in bounds if value <= each), inf)
        counts[bound] = counts.get(bound, 0.0) + 1.0
    return Grown(counts, float(values.sum()))


def different(*sides: Observation) -> set[str]:
    return {row.measure.name for row in differences(sides[0], sides[1:]) if row.is_different}


def test_equal_servers_have_no_difference_and_the_size_that_would_have_shown() -> None:
    report = compare([side("a", seed=1), side("b", seed=2)])
    assert report.result is Result.SAME
    ttft = next(row for row in report.measures if row.measure.name == "ttft")
    assert ttft.smallest is not None
    assert 0.01 < ttft.smallest < 0.1


def test_a_slower_server_is_different_and_shape_does_not_explain_it() -> None:
    report = compare([side("a", seed=1), side("b", seed=2, ttft=0.12)])
    assert report.result is Result.DIFFERENT
    assert {"ttft"} <= {row.measure.name for row in report.different} <= {"ttft", "slow_ttft"}
    (why,) = report.explanations
    assert (why.measure, why.answer) == ("ttft", "no")


def test_longer_prompts_may_explain_a_latency_that_grew_as_much() -> None:
    report = compare([side("a", seed=1), side("b", seed=2, ttft=0.12, prompt=750.0)])
    assert {"ttft", "prompt_tokens"} <= {row.measure.name for row in report.different}
    assert report.explanations[0].answer == "may be"


def test_nothing_is_concluded_where_requests_wait_and_the_load_differs() -> None:
    report = compare([side("a", seed=1), side("b", seed=2, ttft=0.4, rate=10.0, waiting=3.0)])
    assert report.explanations[0].answer == "unknown"
    assert "waiting grows faster than load" in report.explanations[0].why


def test_a_server_is_odd_only_if_it_differs_from_each_sibling() -> None:
    equal, slow = [side(str(seed), seed=seed) for seed in (1, 2, 3)], side("slow", seed=4, ttft=0.12)
    assert "ttft" in different(slow, *equal)
    assert different(equal[0], equal[1], slow) == set()
    text = "\n".join(lines(compare([equal[0], equal[1], slow])))
    assert "only C differs" in text


def test_a_side_without_a_case_is_not_certain() -> None:
    assert "finished_error" in different(side("a", seed=1), side("b", seed=2, errors=1))
    rare = side("b", seed=2)
    last = rare.intervals[-1]
    rare.intervals[-1] = last._replace(counters={**last.counters, (FINISHED, "error"): 1.0})
    assert "finished_error" not in different(side("a", seed=1), rare)


@pytest.mark.parametrize("polls", [0, 1, 5])
def test_too_few_polls_are_not_judged(polls: int) -> None:
    report = compare([side("a"), side("b", ttft=9.0, polls=polls)])
    assert report.result is Result.UNKNOWN
    assert CODES[report.result] == 5
    assert any("b: " in note for note in report.notes)
    assert "\n".join(lines(report)).startswith("TOO LITTLE DATA")


def test_observations_that_come_in_waves_have_a_wider_interval() -> None:
    draw = np.random.default_rng(1)
    noise = draw.normal(0.0, 1.0, 240)
    waves = np.convolve(noise, np.ones(60) / 60**0.5, mode="same")

    def error(values: np.ndarray) -> float:
        sums = [np.bincount(blocks(range(240), count), 10.0 + values, count) for count in lengths(240)]
        counts = [np.bincount(blocks(range(240), count), minlength=count).astype(float) for count in lengths(240)]
        found = estimate(sums, counts, logarithmic=False)
        assert found is not None
        return found.error

    assert error(waves) > 2.0 * error(noise)


@pytest.mark.parametrize(("freedom", "quantile"), [(5, 4.032), (10, 3.169), (30, 2.750), (1000, 2.581)])
def test_quantiles_of_student_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student(0.995, freedom) == pytest.approx(quantile, rel=0.01)


def test_a_series_that_fell_has_no_increase_and_a_new_one_began_at_zero() -> None:
    growth = Growth()
    histogram = Histogram((1.0,), (5.0, 5.0), 2.0)
    first = Values({(ENGINE, (FINISHED, "stop")): 100.0}, {(ENGINE, (TTFT,)): histogram}, {})
    assert growth.take(0.0, first) is None
    after = Values({(ENGINE, (FINISHED, "stop")): 3.0, (ENGINE, (FINISHED, "error")): 2.0}, first.histograms, {})
    interval = growth.take(1.0, after)
    assert interval is not None
    assert dict(interval.counters) == {(FINISHED, "stop"): 0.0, (FINISHED, "error"): 2.0}
    assert interval.histograms[TTFT] == Grown({}, 0.0)


def test_facts_that_only_one_side_exposes_are_no_difference() -> None:
    a, b = Observation("a", ""), Observation("b", "")
    models = ({"id": "m", "parent": None}, {"id": "lora", "parent": "m"})
    a.facts = facts_of({"version": "0.32.0", "models": models, "flags": {"max_num_seqs": 32, "dtype": "bfloat16"}})
    b.facts = facts_of({"version": "0.33.0", "models": models[:1], "flags": {"max_num_seqs": 32}})
    differ, partly = compare_facts([a, b])
    assert [(each.name, each.values) for each in differ] == [
        ("version", ("0.32.0", "0.33.0")),
        ("adapters", ("lora on m", "none")),
    ]
    assert [each.name for each in partly] == ["dtype"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("now", 1e9), ("now-1h", 1e9 - 3600.0), ("1700000000.5", 1700000000.5), ("2027-01-15T08:00:00Z", 1800000000.0)],
)
def test_times_are_read(text: str, expected: float) -> None:
    assert time_of(text, 1e9) == expected


@pytest.mark.parametrize("text", ["yesterday", "now-x", "1h", ""])
def test_other_times_are_refused_with_the_allowed_forms(text: str) -> None:
    with pytest.raises(ValueError, match="a time such as now, now-24h"):
        time_of(text, 0.0)


def test_kv_caches_differ_by_more_than_the_memory_that_was_free() -> None:
    sides = [Observation(name, "", facts={"kv_cache_tokens": name}) for name in ("100000", "96000", "94000", "5120")]
    assert compare_facts(sides[:2])[0] == []
    assert [each.values for each in compare_facts(sides[:3:2])[0]] == [("100000", "94000")]
    assert [each.values for each in compare_facts(sides[::3])[0]] == [("100000", "5120")]


def with_adapters(seen: Observation, shares: dict[str, float], seed: int = 0) -> Observation:
    """Let adapters have requests at some of the polls."""
    draw = np.random.default_rng(seed)
    for index, interval in enumerate(seen.intervals):
        used = {(ADAPTER_POLLS, name): 1.0 for name, share in shares.items() if draw.random() < share}
        seen.intervals[index] = interval._replace(counters={**interval.counters, (POLLS,): 1.0, **used})
    return seen


def test_adapters_that_only_one_side_uses_are_a_difference_and_make_that_of_latency_unexplained() -> None:
    base, other = with_adapters(side("a"), {}), with_adapters(side("b", ttft=0.16, seed=1), {"sql": 0.9})
    report = compare([base, other])
    assert {row.measure.name for row in report.different} >= {"adapter_sql", "ttft"}
    assert [(each.measure, each.answer) for each in report.explanations] == [("ttft", "unknown")]
    assert "sql" in report.explanations[0].why


def test_the_same_adapters_are_no_difference_and_the_most_used_are_compared() -> None:
    shares = {f"adapter-{number}": 0.3 + number / 100.0 for number in range(40)}
    report = compare([with_adapters(side("a"), shares, 1), with_adapters(side("b", seed=1), shares, 2)])
    assert report.result is Result.SAME
    assert sum(row.measure.of == ADAPTER_POLLS for row in report.measures) == MOST_ADAPTERS


def test_a_side_whose_adapters_are_unknown_is_not_judged_by_them() -> None:
    report = compare([side("a"), with_adapters(side("b", seed=1), {"sql": 0.9})])
    (row,) = [row for row in report.measures if row.measure.of == ADAPTER_POLLS]
    assert (row.a.value, row.is_judged, report.result) == (None, False, Result.SAME)


def test_the_slots_of_adapters_are_a_fact_without_flags() -> None:
    seen = replace(readings({GROUP: {"requests_running": 1}}), adapters=Adapters(("sql",), (), 4))
    slots, flag = ("lora_slots", {}, 4.0), ("config_max_loras", {}, 2.0)
    assert size_facts(seen) == exported_facts([slots]) == {"max_loras": "4"}
    assert exported_facts([slots, flag]) == exported_facts([flag, slots]) == {"max_loras": "2"}
