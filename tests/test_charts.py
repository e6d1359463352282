"""What the status page draws, from windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from readings import ENGINE, OTHER_ENGINE, observed, readings
from vllm_sidecar.charts import SPAN, charts
from vllm_sidecar.window import Windows

if TYPE_CHECKING:
    from readings import Poll
    from vllm_sidecar.model import Group

OFFSET = 1_800_000_000.0


def drawn(*polls: dict[Group, Poll], since: float = 0.0, every: float = 1.0) -> list[dict[str, Any]]:
    windows = Windows(60.0, 300.0)
    for index, poll in enumerate(polls):
        windows.append(index * every, readings(poll))
    return charts(windows, OFFSET, since)


def one(*polls: Poll, since: float = 0.0, every: float = 1.0) -> dict[str, list[float | None]]:
    """Return the columns of an engine, with the times of their points."""
    (engine,) = drawn(*({ENGINE: poll} for poll in polls), since=since, every=every)
    return {"at": engine["at"], **engine["series"]}


def test_gauges_are_drawn_as_they_were_at_each_poll() -> None:
    columns = one({"requests_running": 3, "kv_cache_usage_ratio": 0.25}, {"requests_running": 5})
    assert columns["at"] == [OFFSET, OFFSET + 1.0]
    assert columns["running"] == [3.0, 5.0]
    assert columns["kv_usage"] == [0.25, None]


def test_rates_are_those_of_the_span_before_each_point() -> None:
    columns = one(*({"generation_tokens_total": 100.0 * i + (500.0 if i > 19 else 0.0)} for i in range(40)))
    assert columns["generation_tokens"][0] is None
    assert columns["generation_tokens"][10] == 100.0
    assert columns["generation_tokens"][20] == pytest.approx(100.0 + 500.0 / SPAN, rel=1e-5)
    assert columns["generation_tokens"][39] == 100.0
    assert columns["preemptions"] == [None] * 40


def test_hits_need_a_lookup() -> None:
    hits, queries = "prefix_cache_hit_tokens_total", "prefix_cache_queried_tokens_total"
    columns = one({hits: 0, queries: 0}, {hits: 0, queries: 0}, {hits: 30, queries: 40})
    assert columns["hit_ratio"] == [None, None, 0.75]


def test_quantiles_are_those_of_what_was_observed_in_the_span() -> None:
    name = "time_to_first_token_seconds"
    columns = one({name: observed(3.0)}, {name: observed(3.0)}, {name: observed(3.0, 1.5, 1.5, 1.5)})
    assert columns["ttft_p50"][:2] == [None, None]
    assert 1.0 <= (columns["ttft_p50"][2] or 0.0) <= 2.0
    assert columns["itl_p95"] == [None] * 3


def test_quantiles_of_many_points_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "time_to_first_token_seconds"
    values = [0.7 + 0.31 * (number % 11) for number in range(50)]
    polls: list[Poll] = [{name: observed(*values[:number])} for number in range(50)]
    together = one(*polls)["ttft_p95"]
    monkeypatch.setattr("vllm_sidecar.charts.TOGETHER", 1)
    alone = one(*polls)["ttft_p95"]
    assert together[0] is alone[0] is None
    assert together[1:] == pytest.approx(alone[1:], rel=2e-6)


def test_quantiles_are_those_of_the_whole_whichever_points_are_asked_for() -> None:
    name = "time_to_first_token_seconds"
    polls: list[Poll] = [{name: observed(*(0.7 + 0.31 * (i % 11) for i in range(number)))} for number in range(40)]
    whole, rest = one(*polls)["ttft_p95"], one(*polls, since=OFFSET + 20.0)["ttft_p95"]
    assert rest == pytest.approx(whole[21:], rel=2e-6)


def test_only_points_after_a_time_are_returned_and_they_are_the_same_as_in_the_whole() -> None:
    polls: list[Poll] = [{"prompt_tokens_total": 7.0 * i * i, "requests_running": i} for i in range(30)]
    whole, rest = one(*polls), one(*polls, since=OFFSET + 20.0)
    assert rest == {name: column[21:] for name, column in whole.items()}


def test_a_histogram_that_one_body_left_out_is_not_drawn_with_all_that_it_ever_observed() -> None:
    name = "time_to_first_token_seconds"
    polls: list[Poll] = [{name: observed(*[0.5] * 9000, *[3.5] * i)} for i in range(40)]
    polls[5] = {}
    columns = one(*polls)
    assert columns["ttft_p95"][19] > 2.0
    assert columns["ttft_p95"][20] is None  # 15 s after the body without it
    assert columns["ttft_p95"][21] > 2.0


def test_each_engine_has_its_own_columns() -> None:
    first, second = drawn({ENGINE: {"requests_running": 1}, OTHER_ENGINE: {"requests_running": 2}})
    assert (first["engine"], first["series"]["running"]) == ("0", [1.0])
    assert (second["engine"], second["series"]["running"]) == ("1", [2.0])
