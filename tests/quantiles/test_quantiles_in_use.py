"""Percentiles through the whole program: what the status says of them, and that a scrape equals the function."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from fake_vllm import FakeVllm
from readings import ENGINE, engine, histogram, readings
from running import WALL, config, run

from vllm_sidecar import slices
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.derive import latency
from vllm_sidecar.derive.inputs import DeriveSettings
from vllm_sidecar.quantiles import estimates, window_quantiles
from vllm_sidecar.series.health import Health
from vllm_sidecar.series.readings import Readings
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.serve.snapshot import Snapshot, Snapshotter
from vllm_sidecar.serve.status import status
from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.script import Script
from vllm_sidecar.vllm.probes.identity import ServerIdentity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.exposition.metric_values import Histogram

pytestmark = pytest.mark.io

TTFT = "time_to_first_token_seconds"
QUEUE = "request_queue_seconds"
POLLS = [((0, 0, 0, 0), 0.0), ((0, 3, 0, 0), 4.2), ((0, 3, 1, 0), 7.3), ((0, 9, 2, 1), 27.0)]


def snapshot() -> Snapshot:
    windows, made = WindowStore(60.0, 300.0), None
    for at, (counts, total) in enumerate(POLLS):
        made = readings({ENGINE: {TTFT: histogram(*counts, total=total)}})
        windows.append(float(at), made)
    assert isinstance(made, Readings)
    health = Health("vllm").succeeded(last_success=0.0, seconds=0.01)
    return Snapshotter("", (), DeriveSettings()).take(made, windows, ServerIdentity(), health)


def test_the_status_has_each_percentile_with_the_edges_of_its_bucket_and_the_observations() -> None:
    report = json.loads(json.dumps(status([snapshot()])))
    [series] = report["targets"][0]["signals"]["recent_time_to_first_token_seconds"]["series"]
    assert series["bounds"] == {"0.5": [1.0, 2.0], "0.9": [2.0, 4.0], "0.95": [4.0, None], "0.99": [4.0, None]}
    assert set(series["quantiles"]) == set(series["bounds"])
    assert (series["observations"], series["count"], series["sum"]) == (12, 12, 27.0)
    for q, (lower, upper) in series["bounds"].items():
        assert lower <= series["quantiles"][q]
        assert upper is None or series["quantiles"][q] <= upper


def test_the_window_gives_what_the_function_gives_of_all_its_polls() -> None:
    increments = [
        ([float(b - a) for a, b in zip(old, new, strict=True)], total - before)
        for (old, before), (new, total) in pairwise(POLLS)
    ]
    expected = window_quantiles((1.0, 2.0, 4.0), increments, (0.5, 0.9, 0.95, 0.99))
    [(_, summary)] = snapshot().samples["recent_time_to_first_token_seconds"]
    assert [value for _, value in summary.quantiles] == pytest.approx(expected, rel=1e-5)  # type: ignore[union-attr]


def test_an_estimate_is_made_anew_only_when_the_window_saw_something_else() -> None:
    windows, made = WindowStore(10.0, 300.0), []

    def once(at: float, *shown: Histogram) -> list[int]:
        windows.append(at, readings({ENGINE: dict(zip((TTFT, QUEUE), shown, strict=False))}))
        window = windows.of(Scope.ENGINE)[ENGINE]

        def make(names: Sequence[str]) -> list[int]:
            made.append(list(names))
            return [len(made)] * len(names)

        return list(window.each_once([TTFT, QUEUE][: len(shown)], make).values())

    first, second, third, fourth = (histogram(0, count, 0, 0, total=float(count)) for count in range(4))
    assert [once(at, first) for at in (0.0, 1.0)] == [[1], [1]]
    assert [once(at, second) for at in (2.0, 3.0, 9.0)] == [[2], [2], [2]]
    assert once(13.5, second) == [3]  # the first has left the window
    assert once(14.0, third) == [4]
    assert once(15.0, third, first) == [4, 5]
    assert once(16.0, fourth, first) == [6, 5]
    assert once(17.0, fourth, second) == [6, 7]
    assert once(24.5, fourth, third) == [8, 8]
    assert made == [[TTFT]] * 4 + [[QUEUE], [TTFT], [QUEUE], [TTFT, QUEUE]]


def busy() -> WindowStore:
    """Make windows of an engine with two latencies."""
    windows = WindowStore(60.0, 300.0)
    for at, (counts, total) in enumerate(POLLS):
        shown = histogram(*counts, total=total)
        windows.append(float(at), readings({ENGINE: {TTFT: shown, QUEUE: shown}}))
    return windows


def test_a_snapshot_finds_the_latencies_that_were_estimated_together(monkeypatch: pytest.MonkeyPatch) -> None:
    windows, together = busy(), []

    def counted(*args: object) -> object:
        together.append(len(args[0]))  # type: ignore[arg-type]
        return estimates(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(latency, "estimates", counted)
    window = windows.of(Scope.ENGINE)[ENGINE]
    latency.prepare(window, 5.0)
    found = [latency.quantiles_of(name)(engine(window)) for name in (TTFT, QUEUE)]
    assert together == [2]
    assert [summary and len(summary.quantiles) for summary in found] == [4, 4]


def test_what_fails_together_is_estimated_alone_by_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """One histogram that the estimate has a bug for costs no other latency."""

    def failing(windows: Sequence[tuple[object, object]], qs: object) -> object:
        if len(windows) > 1:
            raise ArithmeticError
        return estimates(windows, qs)  # type: ignore[arg-type]

    monkeypatch.setattr(latency, "estimates", failing)
    window = busy().of(Scope.ENGINE)[ENGINE]
    with pytest.raises(ArithmeticError):
        latency.prepare(window, 5.0)
    found = latency.quantiles_of(TTFT)(engine(window))
    assert found is not None
    assert len(found.quantiles) == 4


def test_what_has_too_few_observations_is_not_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "estimates", lambda *_: pytest.fail("estimated"))
    latency.prepare(busy().of(Scope.ENGINE)[ENGINE], 13.0)


async def test_a_scrape_of_many_engines_lets_others_run_in_between_and_gets_one_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The latencies of one engine after the other are estimated; a poll waits until they are done."""
    monkeypatch.setattr(slices, "SLICE", 0.0)
    script = Script.model_validate({"phases": ["healthy"], "server": {"data_parallel_size": 4}, "traffic": {"rate": 8}})
    look = Lookalike(script, WALL)
    async with FakeVllm() as fake, run(config(fake.url)) as watched:
        fake.body = lambda: exposition(look)
        for second in range(1, 31):
            look.advance(float(second))
            watched.clock[0] += 1.0
            await watched.target_loop.poll_once()
        windows = watched.target_loop.windows.of(Scope.ENGINE).values()
        moments: list[set[float]] = []
        preparing = asyncio.create_task(watched.exporter.prepare())
        polling = asyncio.create_task(watched.target_loop.poll_once())
        while not preparing.done():
            await asyncio.sleep(0)
            if watched.target_loop._state.windows_lock.locked() and not preparing.done():
                moments.append({window.now for window in windows})
        await asyncio.gather(preparing, polling)
        assert len(moments) >= 4  # engines
        assert all(moment == moments[0] for moment in moments)
