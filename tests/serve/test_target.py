"""One target from socket to series: failures, recovery, staleness, introspection."""

from __future__ import annotations

import logging
import re
import time

import pytest
from exported_samples import changed, failures
from fake_vllm import FakeVllm
from places import CAPTURES
from ports import free_port
from running import WALL, config, run

from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.derive.registry import DERIVATIONS

pytestmark = pytest.mark.io

BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_bytes()
CALM = (CAPTURES / "0.32.0__baseline__idle.prom").read_bytes()
NO_LOG_STATS = (CAPTURES / "0.32.0__nologstats__idle.prom").read_bytes()
RUNNING = 'requests_running{model_name="tiny",engine="0"}'
UP = 'up{source="vllm",model_name="tiny"}'
UP_BEFORE = 'up{source="vllm"}'
"""Before any model is known."""


async def test_a_good_poll_gives_series_and_health() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        samples = await running.poll()
        assert samples[UP] == 1.0
        assert samples[RUNNING] == 16.0
        assert samples['polls_total{source="vllm"}'] == 1.0
        assert samples['last_success_timestamp_seconds{source="vllm"}'] == WALL + 1.0
        assert samples['poll_body_bytes{source="vllm"}'] == len(BODY)
        assert failures(samples) == {}
        assert [request.path for request in fake.requests] == ["/metrics", "/version"]
        assert fake.requests[0].headers["accept"].startswith("text/plain;version=0.0.4")


async def test_series_stay_for_two_misses_and_go_with_the_third() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        await running.poll()
        fake.status = 503
        for _ in range(2):
            samples = await running.poll()
            assert (samples[UP], samples[RUNNING]) == (1.0, 16.0)
        samples = await running.poll()
        assert samples[UP] == 0.0
        assert RUNNING not in samples
        assert failures(samples) == {"http_5xx": 3.0}
        assert samples['last_success_timestamp_seconds{source="vllm"}'] == WALL + 1.0
        fake.status = 200
        samples = await running.poll()
        assert (samples[UP], samples[RUNNING]) == (1.0, 16.0)


async def test_before_the_first_success_the_target_is_down_and_says_why() -> None:
    async with run(config(f"http://127.0.0.1:{free_port()}")) as running:
        samples = await running.poll()
        assert samples[UP_BEFORE] == 0.0
        assert failures(samples) == {"refused": 1.0}
        assert running.target_loop.snapshot().health.reason is Reason.REFUSED


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"<!doctype html><html>Not metrics</html>\n", "not_prometheus"),
        (b"some words\n" * 5, "not_prometheus"),
        (BODY[: len(BODY) // 2], "truncated"),
        (NO_LOG_STATS, "no_vllm_metrics"),
        (b"vllm_sidecar_up 1\n", "not_an_engine"),
        (b"\n" * 1_100_000, "empty"),
        (BODY.replace(b"\n", b"\r\n"), "unreadable"),
        (re.sub(rb"^vllm:", b"\xffvllm:", BODY, flags=re.MULTILINE), "unreadable"),
    ],
    ids=[
        "empty",
        "HTML",
        "prose",
        "half a line",
        "log stats off",
        "a sidecar",
        "newlines only",
        "line ends of Windows",
        "no series of vLLM",
    ],
)
async def test_a_body_that_is_not_vllms_has_a_reason_and_the_next_good_one_is_used(body: bytes, reason: str) -> None:
    async with FakeVllm(body) as fake, run(config(fake.url)) as running:
        assert failures(await running.poll()) == {reason: 1.0}
        fake.body = BODY
        assert (await running.poll())[RUNNING] == 16.0


async def test_missing_log_stats_are_named_when_health_is_fine() -> None:
    async with FakeVllm(NO_LOG_STATS) as fake, run(config(fake.url)) as running:
        await running.poll()
        await running.poll()
        assert "--disable-log-stats" in running.target_loop.snapshot().health.detail
        assert [request.path for request in fake.requests] == ["/metrics", "/health", "/metrics", "/version"]


async def test_an_unhealthy_server_without_metrics_is_not_blamed_on_a_flag() -> None:
    async with FakeVllm(NO_LOG_STATS) as fake, run(config(fake.url)) as running:
        fake.endpoints["/health"] = (503, None)
        await running.poll()
        assert "/health fails" in running.target_loop.snapshot().health.detail


async def test_bad_lines_are_counted_and_the_rest_is_used() -> None:
    async with (
        FakeVllm(BODY + b"vllm:bad{ 1\nvllm:worse 1 2 3\n\xff\xfe 1\n") as fake,
        run(config(fake.url)) as running,
    ):
        samples = await running.poll()
        assert samples['rejected_lines_total{source="vllm"}'] == 3.0
        assert samples[RUNNING] == 16.0
        samples = await running.poll()
        assert samples['rejected_lines_total{source="vllm"}'] == 6.0


async def test_nan_and_infinity_everywhere_leave_values_out_and_nothing_else() -> None:
    body = b"\n".join(
        line if line.startswith(b"#") or not line else line.rsplit(b" ", 1)[0] + (b" NaN" if n % 2 else b" +Inf")
        for n, line in enumerate(BODY.split(b"\n"))
    )
    async with FakeVllm(body) as fake, run(config(fake.url)) as running:
        samples = await running.poll()
        assert samples[UP] == 1.0
        assert RUNNING not in samples
        assert samples['dropped_values_total{source="vllm",anomaly="not_finite"}'] > 20
        assert samples['dropped_values_total{source="vllm",anomaly="bad_histogram"}'] > 10


async def test_several_servers_behind_the_address_are_a_reason_and_nothing_else_is_exported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    older = changed(BODY, b"process_start_time", b"1.79e9")
    younger = changed(CALM, b"process_start_time", b"1.7901e9")
    async with FakeVllm(older) as fake, run(config(fake.url)) as running:
        for _ in range(6):
            samples = await running.poll()
        assert any(name.startswith("slo_requests_total") for name in samples)
        fake.requests.clear()
        for i in range(20):
            fake.body = younger if i % 2 == 0 else older
            samples = await running.poll()
            assert not any(name.startswith("slo_") for name in samples)
        assert failures(samples) == {"several_servers": 20.0}
        assert (samples[UP], samples["server_restarts_total"], samples["config_changes_total"]) == (0.0, 0.0, 0.0)
        assert RUNNING not in samples
        assert {request.path for request in fake.requests} == {"/metrics"}
        await running.poll()
        for _ in range(3):
            samples = await running.poll(after=150.0)
    assert (samples[UP], samples["server_restarts_total"]) == (1.0, 0.0)
    assert any(name.startswith("slo_requests_total") for name in samples)
    told = [record.fields["hint"] for record in caplog.records if record.message == "target_down"]  # type: ignore[attr-defined]
    assert len(told) == 1
    assert "in each pod" in told[0]


async def test_increases_that_no_server_can_have_are_counted_as_dropped_values() -> None:
    total = 'slo_requests_total{model_name="tiny",slo="availability"}'
    dropped = 'dropped_values_total{source="vllm",anomaly="impossible"}'
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        assert (await running.poll())[dropped] == 0.0
        for value, least in ((b"1.7e308", 1.0), (b"1e15", 1.0)):
            fake.body = changed(BODY, b"vllm:request_success_total", value)
            samples = await running.poll()
            assert (samples[total], samples[dropped] >= least) == (0.0, True)
        fake.body = BODY
        assert (await running.poll())[total] == 0.0


async def test_a_target_that_goes_down_is_logged_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        await running.poll()
        fake.status = 401
        for _ in range(6):
            await running.poll()
        fake.status = 200
        await running.poll()
    events = [
        (record.message, getattr(record, "fields", {})) for record in caplog.records if "target_" in record.message
    ]
    assert [name for name, _ in events] == ["target_up", "target_down", "target_up"]
    assert events[1][1]["reason"] == "http_401"
    assert "bearer_token_file" in events[1][1]["hint"]


async def test_flags_come_from_the_config_where_no_endpoint_tells() -> None:
    vllm = {"args": ["serve", "m", "--tensor-parallel-size", "4", "--generation-config", "vllm"]}
    async with FakeVllm(BODY) as fake, run(config(fake.url, vllm=vllm)) as running:
        for _ in range(5):
            samples = await running.poll()
        assert samples["config_tensor_parallel_size"] == 4.0
        info = next(name for name in samples if name.startswith("server_config_info"))
        assert 'generation_config="vllm"' in info
        assert samples["config_changes_total"] == 0.0


async def test_static_labels_are_on_every_series_of_the_target() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url, vllm={"labels": {"team": "a"}})) as running:
        await running.poll()
        samples = await running.poll()
    own = {"build_info", "window_seconds", "internal_errors_total", "config_restart_needed"}
    without = {name for name in samples if 'team="a"' not in name and not name.startswith("process_")}
    assert {name.partition("{")[0] for name in without} == own


async def test_a_bug_in_a_derivation_drops_the_targets_series_and_not_the_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        await running.poll()

        def broken(*_: object) -> None:
            raise ZeroDivisionError("made up")

        monkeypatch.setattr("vllm_sidecar.serve.snapshot.Snapshotter._derived", broken)
        samples = await running.poll()
        assert failures(samples) == {"internal": 1.0}
        assert RUNNING not in samples


async def test_ten_thousand_adapters_are_bounded() -> None:
    names = b",".join(b"adapter-%d" % n for n in range(10_000))
    body = (
        BODY
        + b'vllm:lora_requests_info{max_lora="4",running_lora_adapters="%s",waiting_lora_adapters=""} 1.8e9\n' % names
    )
    async with FakeVllm(body) as fake, run(config(fake.url)) as running:
        samples = await running.poll()
    assert sum(name.startswith("lora_adapter_active") for name in samples) == 100
    assert samples["lora_adapters_omitted"] == 9_900.0
    assert samples["lora_slots_used"] == 4.0


async def test_an_engine_that_hangs_while_clients_keep_connecting_is_stalled_and_stays_so() -> None:
    """Seen on a real vLLM whose engine process was stopped: no gauge moves, /health is fine, connections pile up."""
    stalled = 'stalled{model_name="tiny",engine="0"}'
    settings = {"progress": {"stall_after": "30s"}, "windows": {"length": "60s", "keep": "60s"}}
    async with FakeVllm(BODY) as fake, run(config(fake.url, **settings)) as running:
        await running.poll()
        fake.body = changed(BODY, b"process_open_fds", b"64.0")
        assert (await running.poll(after=20.0))[stalled] == 0.0
        for _ in range(12):
            samples = await running.poll(after=20.0)
            assert samples[stalled] == 1.0
            assert samples['stall_corroborated{model_name="tiny",engine="0",signal="connections_grew"}'] == 1.0
        fake.body = changed(fake.body, b"vllm:generation_tokens_total", b"4205.0")
        assert (await running.poll())[stalled] == 0.0


def left(body: bytes) -> bytes:
    """End as many HTTP requests as the gauges claim, and close their connections."""
    posts = b'http_requests_total{handler="/v1/completions",method="POST",status="2xx"}'
    return changed(changed(body, b"process_open_fds", b"33.0"), posts, b"1000.0")


async def test_gauges_that_froze_when_the_clients_left_are_stale_and_no_stall() -> None:
    settings = {"progress": {"stall_after": "30s"}}
    async with FakeVllm(BODY) as fake, run(config(fake.url, **settings)) as running:
        await running.poll()
        fake.body = left(BODY)
        for _ in range(3):
            samples = await running.poll(after=20.0)
        assert samples['stalled{model_name="tiny",engine="0"}'] == 0.0
        assert samples['gauges_stale{model_name="tiny",engine="0"}'] == 1.0
        assert samples['clients_left{model_name="tiny",engine="0"}'] == 1.0


async def test_a_counter_that_is_nan_for_a_poll_is_no_restart_and_no_spike() -> None:
    tokens, rate = b"vllm:generation_tokens_total", 'recent_generation_tokens_per_second{model_name="tiny",engine="0"}'
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        await running.poll()
        fake.body = changed(BODY, tokens, b"NaN")
        samples = await running.poll()
        assert (samples["server_restarts_total"], rate in samples) == (0.0, False)
        fake.body = changed(BODY, tokens, b"4214.0")
        await running.poll()
        fake.body = changed(BODY, tokens, b"4224.0")
        samples = await running.poll()
        assert (samples["server_restarts_total"], samples[rate]) == (0.0, 10.0)


async def test_a_bug_in_one_derivation_costs_one_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> float:
        raise ZeroDivisionError("made up")

    monkeypatch.setitem(DERIVATIONS, "stalled", broken)
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        samples = await running.poll()
    assert (samples[UP], samples[RUNNING]) == (1.0, 16.0)
    assert "progress_age_seconds" in {name.partition("{")[0] for name in samples}
    assert "stalled" not in {name.partition("{")[0] for name in samples}


async def test_answers_that_are_refused_still_cost_the_server_and_stretch_the_interval() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url, scrape={"server_time_ratio": 1e-6})) as running:
        fake.status = 500
        samples = await running.poll()
        assert samples['poll_interval_seconds{source="vllm"}'] == 1.0  # the clock of this test stands still
        running.target_loop._clock = time.monotonic
        await running.target_loop.poll_once()
        for _ in range(10):
            await running.target_loop.poll_once()
        assert running.samples()['poll_interval_seconds{source="vllm"}'] == 60.0


async def test_a_model_that_is_served_twice_is_one_series() -> None:
    async with FakeVllm(BODY, models=("tiny", "tiny")) as fake, run(config(fake.url)) as running:
        for _ in range(3):
            await running.poll()
        lines = running.exporter.render(openmetrics=False).decode().splitlines()
    assert sum(line.startswith("vllm_sidecar_model_info{") for line in lines) == 1


GOOD = 'slo_good_requests_total{model_name="tiny",engine="0",slo="time_to_first_token"}'


async def test_service_levels_are_counted_from_the_second_poll_and_stay_while_the_server_is_down() -> None:
    async with FakeVllm(CALM) as fake, run(config(fake.url)) as running:
        assert (await running.poll())[GOOD] == 0.0
        fake.body = BODY
        counted = (await running.poll())[GOOD]
        assert counted > 50.0
        fake.status = 500
        for _ in range(3):
            samples = await running.poll()
        assert samples[UP] == 0.0
        assert samples[GOOD] == counted
        assert not any(name.startswith(("slo_exact", "slo_threshold")) for name in samples)


async def test_service_levels_can_be_switched_off() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url, slos={"enabled": False})) as running:
        assert not any(name.startswith("slo_") for name in await running.poll())


async def test_service_levels_are_those_of_the_configuration() -> None:
    slos = {"availability": False, "latencies": [{"name": "chat", "latency": "request", "threshold": "1m"}]}
    async with FakeVllm(BODY) as fake, run(config(fake.url, slos=slos)) as running:
        samples = await running.poll()
        assert samples['slo_threshold_seconds{model_name="tiny",slo="chat"}'] == 60.0
        assert [name for name in samples if name.startswith("slo_requests")] == [
            'slo_requests_total{model_name="tiny",engine="0",slo="chat"}'
        ]
