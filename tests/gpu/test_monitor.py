"""The event loop's side: staleness, what is shown, the log; no thread, on a clock that the test moves."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from gpus import device, poll, values

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.gpu_fields import EVENTS, XID_SEVERITY
from vllm_sidecar.catalog.reasons import GPU_REASONS, PollError, Reason
from vllm_sidecar.config import Config
from vllm_sidecar.gpu.frames import GpuEvent, Note, Opened
from vllm_sidecar.gpu.monitor import GpuMonitor
from vllm_sidecar.gpu.polls import GpuPoll, GpuReading
from vllm_sidecar.gpu.samples import MOST_XIDS
from vllm_sidecar.serve.metrics import Exporter

if TYPE_CHECKING:
    from collections.abc import Callable

FINE = values(utilization_ratio=0.5, power_watts=300.0)
UP = 'up source="nvml"'


class Run:
    """A monitor, its clock, and how often it said that something changed."""

    def __init__(self, servers_use: Callable[[], int | None] = lambda: None, **gpu: Any) -> None:
        self.now, self.changes = 1000.0, 0
        self.monitor = GpuMonitor(
            Config.model_validate({"gpu": gpu}), self._changed, tuple, servers_use,
            clock=lambda: self.now, wall=lambda: 1e9 + self.now,
        )  # fmt: skip

    def _changed(self) -> None:
        self.changes += 1

    def took(self, *readings: Any, after: float = 5.0, **more: Any) -> dict[str, float]:
        self.now += after
        self.monitor.take(poll(self.now, *readings, **more))
        return self.samples()

    def failed(self, reason: Reason = Reason.DRIVER_MISMATCH, after: float = 5.0) -> dict[str, float]:
        self.now += after
        self.monitor.take(PollError(reason, "why"))
        return self.samples()

    def samples(self) -> dict[str, float]:
        found = self.monitor.samples()
        return {f"{name} {text}".strip(): value for name, rows in found.items() for text, value in rows}


def test_all_series_are_of_the_catalog_and_have_its_labels() -> None:
    run = Run()
    run.monitor.take(Opened("580", 2, 0))
    run.monitor.take(GpuEvent("0", "GPU-0", ("xid",), 79, 5.0))
    run.took(FINE, None)
    for name, rows in run.monitor.samples().items():
        for text, _ in rows:
            labels = [pair.split("=")[0] for pair in text.split(",") if pair]  # those without a value are left out
            assert labels == [label for label in SIGNALS[name].label_names if label in labels]
            assert len(labels) == len(SIGNALS[name].label_names) or name in ("gpu_info", "up")


def test_before_the_first_poll_the_source_is_down_and_every_reason_counts_from_zero() -> None:
    found = Run().samples()
    assert found[UP] == 0.0
    assert {f'poll_failures_total source="nvml",reason="{reason}"' for reason in GPU_REASONS} <= found.keys()
    assert not [name for name in found if name.startswith(("gpu_devices", "gpu_failing"))]


def test_values_stay_for_two_misses_and_go_with_the_third() -> None:
    run = Run()
    name = 'gpu_power_watts gpu="0",uuid="GPU-0"'
    assert run.took(FINE)[name] == 300.0
    for misses in range(1, 4):
        found = run.failed()
        assert (name in found, found[UP]) == ((True, 1.0) if misses < 3 else (False, 0.0))
        assert found['gpu_failing reason="driver_mismatch"'] == 1.0
    assert run.monitor.windows == ()
    assert run.took(FINE)[name] == 300.0
    assert 'gpu_failing reason="driver_mismatch"' not in run.samples()


def test_values_that_nothing_follows_end() -> None:
    run = Run()
    run.took(FINE)
    for seconds, up in [(15.0, 1.0), (1.0, 0.0)]:
        run.now += seconds
        run.monitor._expire(run.now)
        assert run.samples()[UP] == up
    assert run.monitor.poll is None


def test_events_are_counted_from_zero_and_shown_while_nothing_can_be_polled() -> None:
    run = Run()
    found = run.took(FINE)
    assert sum(name.startswith("gpu_events_total") for name in found) == len(EVENTS)
    assert sum(name.startswith("gpu_xid_errors_total") for name in found) == len(XID_SEVERITY)
    for _ in range(4):
        run.failed()
    run.monitor.take(GpuEvent("0", "GPU-0", ("xid",), 79, 77.0))
    run.monitor.take(GpuEvent("0", "GPU-0", ("xid",), 999, 78.0))
    run.monitor.take(GpuEvent("0", "GPU-0", ("recovery_action",), 1, 79.0))
    found = run.samples()
    assert found[UP] == 0.0
    assert found['gpu_xid_errors_total gpu="0",uuid="GPU-0",xid="79",severity="critical"'] == 1.0
    assert found['gpu_xid_errors_total gpu="0",uuid="GPU-0",xid="999",severity="warning"'] == 1.0
    assert found['gpu_events_total gpu="0",uuid="GPU-0",event="xid"'] == 2.0
    assert found['gpu_events_total gpu="0",uuid="GPU-0",event="recovery_action"'] == 1.0
    assert found['gpu_xid_last_timestamp_seconds gpu="0",uuid="GPU-0"'] == 78.0


@pytest.mark.parametrize(
    ("severity", "codes"),
    [
        ("critical", {48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 145, 149}),
        ("warning", {94, 32, 144, 999}),
        ("info", {13, 31, 43, 45, 63, 92}),
    ],
)
def test_an_xid_is_as_severe_as_what_it_asks_for(severity: str, codes: set[int]) -> None:
    """A reset or another machine, a look in working hours, or nothing; a code that is not known is worth a look."""
    run = Run()
    run.took(FINE)
    for code in codes:
        run.monitor.take(GpuEvent("0", "GPU-0", ("xid",), code, 77.0))
    counted = {name.split('"')[5]: name for name, n in run.samples().items() if n and name.startswith("gpu_xid_errors")}
    assert set(counted) == {str(code) for code in codes}
    assert all(name.endswith(f'severity="{severity}"') for name in counted.values())


def test_a_driver_that_makes_up_codes_does_not_make_up_series_without_end() -> None:
    run = Run()
    for code in range(1000, 2000):
        run.monitor.take(GpuEvent("0", "GPU-0", ("xid",), code, 1.0))
    found = run.samples()
    assert sum(name.startswith("gpu_xid_errors_total") for name in found) == MOST_XIDS
    assert found['gpu_events_total gpu="0",uuid="GPU-0",event="xid"'] == 1000.0


@pytest.mark.parametrize(
    ("settings", "servers", "present", "expected"),
    [
        ({"expected": 8}, 4, 4, 8),
        ({}, 4, 4, 4),
        ({}, None, 4, 2),
        ({}, 0, 4, 2),
        ({}, 16, 8, 2),
        ({"devices": [0, 1]}, 4, 4, 2),
    ],
    ids=["configured", "as the servers use", "unknown", "all are remote", "more than the node has", "a list"],
)
def test_how_many_gpus_are_expected(settings: dict, servers: int | None, present: int, expected: int) -> None:
    run = Run(lambda: servers, **settings)
    run.took(FINE, FINE, present=present)
    found = run.took(FINE, None)
    assert found["gpu_expected_devices"] == expected
    assert found["gpu_missing_devices"] == expected - 1
    assert found['gpu_lost gpu="1",uuid="GPU-1"'] == 1.0


def test_a_gpu_that_has_another_index_after_a_restart_of_the_driver_is_there_once() -> None:
    run = Run()
    run.took(FINE, FINE)
    run.monitor.take(GpuEvent("1", "GPU-1", ("xid",), 79, 5.0))
    moved = GpuReading(device(0, uuid="GPU-1"), FINE)
    run.monitor.take(GpuPoll((moved,), run.now + 5.0, 0.01))
    names = [name for name in run.samples() if 'uuid="GPU-1"' in name]
    assert names
    assert not [name for name in names if 'gpu="1"' in name]
    assert run.samples()['gpu_xid_errors_total gpu="0",uuid="GPU-1",xid="79",severity="critical"'] == 1.0
    assert [window.device.index for window in run.monitor.windows] == ["0"]


def test_a_bug_in_the_gpus_series_costs_them_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("vllm_sidecar.gpu.samples._values", broken)
    found = run.took(FINE)
    assert found[UP] == 0.0
    assert found['gpu_failing reason="internal"'] == 1.0
    assert "gpu_devices" not in found
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == ["internal_error"]
    monkeypatch.undo()
    assert run.took(FINE)[UP] == 1.0


def test_a_node_that_cannot_be_shown_at_all_is_no_failure_of_a_scrape(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        health = Run().monitor.health
        last_success_age = None

        def samples(self) -> Any:
            raise ZeroDivisionError("a bug")

    exporter = Exporter(60.0)
    exporter.node = Broken()
    body = exporter.render(openmetrics=True)
    assert b"vllm_sidecar_build_info" in body
    assert b"nvml" not in body
    assert [record.getMessage() for record in caplog.records] == ["internal_error"]


def test_what_events_lack_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = Run()
    for _ in range(3):
        run.monitor.take(Note("gpu_events_unsupported", "not supported"))
        run.monitor.take(Note("gpu_without_events", "not supported", "3"))
    assert [record.getMessage() for record in caplog.records] == ["gpu_events_unsupported", "gpu_without_events"]


def test_instances_of_a_split_gpu_count_and_it_does_not() -> None:
    run = Run()
    parts = tuple(GpuReading(device(f"0:{i}", "GPU-0"), values(memory_used_bytes=1.0)) for i in range(2))
    run.monitor.take(GpuPoll((GpuReading(device(0), FINE), *parts), run.now, 0.01))
    assert run.samples()["gpu_devices"] == 2.0


def test_the_log_has_a_line_for_each_change_and_none_for_each_poll(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = Run()
    for _ in range(3):
        run.failed(Reason.LIBRARY_NOT_FOUND)
    for _ in range(3):
        run.took(FINE, FINE)
    for _ in range(3):
        run.took(FINE, None)
    for _ in range(3):
        run.took(FINE, FINE, chosen_by="processes")
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [
        ("INFO", "gpus_down"),
        ("INFO", "gpus_up"),
        ("INFO", "gpus_chosen"),
        ("ERROR", "gpu_lost"),
        ("INFO", "gpus_chosen"),
        ("INFO", "gpu_back"),
    ]


def test_the_same_samples_are_given_until_something_changes() -> None:
    run = Run()
    run.took(FINE)
    first = run.monitor.samples()
    assert run.monitor.samples() is first
    changes = run.changes
    run.took(replace_power(FINE))
    assert run.monitor.samples() is not first
    assert run.changes == changes + 1


def replace_power(found: Any) -> Any:
    return {**found, "gpu_power_watts": 301.0}


def test_values_left_out_add_up() -> None:
    run = Run()
    for _ in range(2):
        run.now += 5.0
        run.monitor.take(replace(poll(run.now, FINE), anomalies={"sentinel": 3}))
    assert run.samples()['dropped_values_total source="nvml",anomaly="sentinel"'] == 6.0


def test_a_monitor_that_ended_has_no_live_series_and_goes_on_where_it_was() -> None:
    run = Run()
    run.took(FINE)
    run.now += 3.0
    assert run.monitor.last_success_age == 3.0
    changes = run.changes
    run.monitor.drop_series(ZeroDivisionError("bug"))
    found = run.samples()
    assert (found[UP], run.changes) == (0.0, changes + 1)
    assert not [name for name in found if name.startswith("gpu_power")]
    assert found['poll_failures_total source="nvml",reason="internal"'] == 1.0
    assert run.took(FINE)[UP] == 1.0
