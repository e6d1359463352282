"""What the status page draws, from windows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from readings import ENGINE, OTHER_ENGINE, observed, readings

from vllm_sidecar.quantiles import estimates
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.serve.history import SPAN, TOGETHER, History

if TYPE_CHECKING:
    from readings import Poll

    from vllm_sidecar.series.readings import Group

OFFSET = 1_800_000_000.0


def draw(history: History, windows: WindowStore, since: float = 0.0, engine: str | None = None) -> list[dict[str, Any]]:
    return asyncio.run(history.draw(windows, OFFSET, since, engine))


def drawn(*polls: dict[Group, Poll], since: float = 0.0, every: float = 1.0) -> list[dict[str, Any]]:
    windows = WindowStore(60.0, 300.0)
    for index, poll in enumerate(polls):
        windows.append(index * every, readings(poll))
    return draw(History(), windows, since)


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
    monkeypatch.setattr("vllm_sidecar.serve.history.TOGETHER", 1)
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


TTFT = "time_to_first_token_seconds"


def test_a_histogram_that_was_left_out_of_a_body_is_not_drawn_over_the_process_of_the_server() -> None:
    """It is back with all that it ever counted, which says nothing of the span."""
    old = [0.1] * 500
    polls: list[Poll] = [{TTFT: observed(*old, *[5.0] * n)} for n in range(40)]
    polls[10] = {"requests_running": 1}
    columns = one(*polls)
    assert columns["ttft_p50"][9] == pytest.approx(5.0, rel=0.5)
    assert columns["ttft_p50"][10] is None
    assert columns["ttft_p50"][10 + int(SPAN)] is None, "its span begins at the body that lacks it"
    assert columns["ttft_p50"][11 + int(SPAN)] == pytest.approx(5.0, rel=0.5)


def test_a_histogram_that_comes_up_with_the_first_request_is_drawn_from_there() -> None:
    columns = one({}, {}, {TTFT: observed(1.5, 1.5)})
    assert 1.0 <= (columns["ttft_p50"][2] or 0.0) <= 2.0


def test_a_rate_that_no_float_holds_is_nothing() -> None:
    columns = one({"prompt_tokens_total": 0.0}, {"prompt_tokens_total": 1.7e308}, every=0.5)
    assert columns["prompt_tokens"] == [None, None]


def test_each_point_is_worked_out_once_however_often_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    worked_out = 0

    def counting(windows: list[Any], quantiles: tuple[float, ...]) -> list[list[Any]]:
        nonlocal worked_out
        worked_out += len(windows)
        return estimates(windows, quantiles)

    monkeypatch.setattr("vllm_sidecar.serve.history.estimates", counting)
    windows, history = WindowStore(60.0, 300.0), History()
    for at in range(40):
        windows.append(float(at), readings({ENGINE: {TTFT: observed(*[1.5] * at)}}))
    first = draw(history, windows)
    assert (worked_out, draw(history, windows)) == (3 * 40, first)
    windows.append(40.0, readings({ENGINE: {TTFT: observed(*[1.5] * 40)}}))
    assert [len(engine["at"]) for engine in draw(history, windows)] == [41]
    assert worked_out == 3 * 41


def test_points_are_kept_as_long_as_their_polls() -> None:
    windows, history = WindowStore(10.0, 20.0), History()
    for at in range(200):
        group = ENGINE if at < 100 else OTHER_ENGINE
        windows.append(float(at), readings({group: {"requests_running": 1}}))
        draw(history, windows)
    (engine,) = draw(history, windows)
    assert {group: len(points) for group, points in history._points.items()} == {OTHER_ENGINE: len(engine["at"])}
    assert len(engine["at"]) < 20


def test_only_the_engine_that_is_asked_for_is_drawn() -> None:
    windows = WindowStore(60.0, 300.0)
    windows.append(0.0, readings({ENGINE: {"requests_running": 1}, OTHER_ENGINE: {"requests_running": 2}}))
    (engine,) = draw(History(), windows, engine="1")
    assert engine["series"]["running"] == [2.0]


async def test_what_nobody_has_looked_at_yet_is_worked_out_in_short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: between two pauses no more than some histograms are estimated."""
    pieces = [0]

    def counting(windows: list[Any], quantiles: tuple[float, ...]) -> list[list[Any]]:
        pieces[-1] += len(windows)
        return estimates(windows, quantiles)

    async def other() -> None:
        while True:
            pieces.append(0)
            await asyncio.sleep(0)

    monkeypatch.setattr("vllm_sidecar.serve.history.estimates", counting)
    windows = WindowStore(60.0, 300.0)
    for at in range(50):
        poll: Poll = {TTFT: observed(*[1.5] * at)}
        windows.append(float(at), readings({ENGINE: poll, OTHER_ENGINE: poll}))
    task = asyncio.create_task(other())
    await History().draw(windows, OFFSET, 0.0)
    task.cancel()
    assert sum(pieces) == 2 * 3 * 50
    assert max(pieces) <= TOGETHER
