"""Every failure of NVML, produced in the running program: what /metrics says before, during and after."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import promtool
import pytest
from sidecar_process import Started, started
from stub_nvml import LOST, MISMATCH, NO_PERMISSION, NOT_LOADED, UNKNOWN, Stub, build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

FAST = "{interval: 200ms, slow_interval: 400ms, timeout: 800ms"
UP, HUNG = 'up{source="nvml"}', 'poll_failures_total{source="nvml",reason="hung"}'
PATIENCE = 15.0


class Run:
    """A running sidecar that watches GPUs."""

    def __init__(self, process: Started, base: str) -> None:
        self.process, self._base = process, base

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self._base + path, timeout=5) as answer:  # noqa: S310 - loopback
            text: str = answer.read().decode()
            return text

    def samples(self) -> dict[str, float]:
        lines = (line.rsplit(" ", 1) for line in self.get("/metrics").splitlines() if not line.startswith("#"))
        return {name.removeprefix("vllm_sidecar_"): float(value) for name, value in lines}

    def until(self, wanted: dict[str, float | None]) -> dict[str, float]:
        """Wait until the samples are so, by name and labels, None for absent; return all."""
        end = time.monotonic() + PATIENCE
        while True:
            found = self.samples()
            if all(found.get(name) == value for name, value in wanted.items()):
                return found
            assert time.monotonic() < end, ({name: found.get(name) for name in wanted}, self.process.log)
            time.sleep(0.05)

    def gpus(self, name: str) -> dict[str, float]:
        """The values of an unlabelled signal by index."""
        found = self.samples().items()
        return {text.split('gpu="')[1].split('"')[0]: v for text, v in found if text.startswith(f"gpu_{name}{{gpu=")}


@contextmanager
def watching(stub: Stub, *more: str, gpu: str = "") -> Iterator[Run]:
    """Run the sidecar with the stub, quickly polled, and no vLLM."""
    config = stub.file.parent / "config.yaml"
    config.write_text(f"gpu: {FAST}{gpu}, only: true}}\n")
    with started("--config.file", str(config), *more, variables=stub.variables) as (process, base):
        yield Run(process, base)


def of(gpu: int, more: str = "") -> str:
    return f'{{gpu="{gpu}",uuid="GPU-{gpu:08d}-0000-0000-0000-000000000000"{more}}}'


def test_a_call_that_hangs_makes_the_source_stale_and_stops_neither_scrapes_nor_the_end(stub: Stub) -> None:
    stub.script("gpus 2")
    with watching(stub) as run:
        run.until({UP: 1.0, "gpu_utilization_ratio" + of(1): 0.97})
        stub.add("1.hang.nvmlDeviceGetUtilizationRates 1")
        found = run.until({UP: 0.0, "gpu_utilization_ratio" + of(1): None, 'gpu_failing{reason="hung"}': 1.0})
        assert found[HUNG] >= 1.0
        error = json.loads(run.get("/api/v1/status"))["gpus"]["last_error"]
        assert error["detail"].startswith("nvmlDeviceGetUtilizationRates of GPU 1 has not returned for ")
        began = time.monotonic()
        run.samples()
        assert time.monotonic() - began < 1.0
        assert run.process.stop() < 2.0


def test_a_call_that_hangs_at_the_end_is_named(stub: Stub) -> None:
    with watching(stub) as run:
        run.until({UP: 1.0})
        stub.add("hang.nvmlShutdown 1")
        assert run.process.stop() < 2.0
        assert "event=gpu_process_killed" in run.process.log
        assert "call=nvmlShutdown" in run.process.log


def test_after_a_hang_the_next_process_brings_everything_back(stub: Stub) -> None:
    with watching(stub) as run:
        run.until({UP: 1.0})
        stub.script("hang.nvmlDeviceGetClockInfo 1")
        run.until({UP: 0.0, 'gpu_failing{reason="hung"}': 1.0})
        stub.script()
        found = run.until({UP: 1.0, 'gpu_failing{reason="hung"}': None})
        assert found["gpu_driver_opens_total"] >= 2.0
        assert run.process.stop() < 2.0


def test_a_library_that_faults_costs_the_gpus_only_and_says_where(stub: Stub) -> None:
    stub.script("gpus 2")
    with watching(stub) as run:
        run.until({UP: 1.0})
        stub.add("1.crash.nvmlDeviceGetUtilizationRates 1")
        run.until({UP: 0.0, 'gpu_failing{reason="crashed"}': 1.0, "gpu_devices": None})
        error = json.loads(run.get("/api/v1/status"))["gpus"]["last_error"]
        assert error["detail"] == "signal SIGSEGV, in nvmlDeviceGetUtilizationRates of GPU 1"
        assert run.process.log.count("reason=crashed ") == 1
        stub.script("gpus 2")
        run.until({UP: 1.0, "gpu_devices": 2.0})
        assert run.process.stop() < 2.0


def test_a_library_that_hangs_in_its_initialisation_is_hung_too(stub: Stub) -> None:
    stub.script("hang.nvmlInitWithFlags 1")
    with watching(stub) as run:
        run.until({UP: 0.0, 'gpu_failing{reason="hung"}': 1.0})
        assert run.process.stop() < 2.0


def test_one_lost_gpu_does_not_blank_the_others_and_comes_back(stub: Stub) -> None:
    stub.script("gpus 3")
    with watching(stub) as run:
        run.until({"gpu_devices": 3.0})
        stub.add(f"1.ret {LOST}")
        found = run.until({"gpu_lost" + of(1): 1.0, "gpu_devices": 2.0, "gpu_missing_devices": 1.0, UP: 1.0})
        assert "gpu_power_watts" + of(1) not in found
        assert run.gpus("power_watts") == {"0": 612.0, "2": 612.0}
        stub.script("gpus 3")
        run.until({"gpu_lost" + of(1): 0.0, "gpu_devices": 3.0, "gpu_power_watts" + of(1): 612.0})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"ret.nvmlInitWithFlags {MISMATCH}", "driver_mismatch"),
        (f"ret.nvmlInitWithFlags {NOT_LOADED}", "driver_not_loaded"),
        (f"ret.nvmlInitWithFlags {NO_PERMISSION}", "no_permission"),
        (f"ret.nvmlInitWithFlags {UNKNOWN}", "device_access_lost"),
        ("gpus 0", "no_gpu"),
    ],
)
def test_a_driver_that_is_not_usable_at_the_start_has_a_reason_and_is_tried_again(
    line: str, reason: str, stub: Stub
) -> None:
    stub.script(line)
    with watching(stub) as run:
        run.until({UP: 0.0, f'gpu_failing{{reason="{reason}"}}': 1.0, "gpu_devices": None})
        stub.script()
        run.until({UP: 1.0, "gpu_devices": 1.0, f'gpu_failing{{reason="{reason}"}}': None})
        assert f"reason={reason} " in run.process.log


def test_a_driver_that_goes_away_and_comes_back_is_opened_again_and_events_with_it(stub: Stub) -> None:
    xid = "gpu_xid_errors_total" + of(0, ',xid="79",severity="critical"')
    stub.script("energy 900000")
    with watching(stub) as run:
        run.until({UP: 1.0, "gpu_capability" + of(0, ',group="events"'): 1.0, xid: 0.0})
        stub.add("event 0 8 79")
        run.until({xid: 1.0})
        stub.script(f"ret {UNKNOWN}", f"ret.nvmlInitWithFlags {NOT_LOADED}")
        found = run.until({UP: 0.0, 'gpu_failing{reason="driver_not_loaded"}': 1.0})
        assert found[xid] == 1.0
        stub.script("energy 1000")
        run.until({UP: 1.0, "gpu_energy_joules_total" + of(0): 1.0})
        run.until({"gpu_capability" + of(0, ',group="events"'): 1.0})
        stub.add("event 0 8 79")
        assert run.until({xid: 2.0})["gpu_xid_last_timestamp_seconds" + of(0)] == pytest.approx(time.time(), abs=30)


def test_a_library_that_was_replaced_on_disk_is_loaded_anew(stub: Stub, tmp_path: Path) -> None:
    """As after an upgrade of the driver on a bare host: the old library does not fit the new kernel module."""
    old = build(tmp_path / "driver", f"STUB_INIT={MISMATCH}")
    with watching(Stub(old, stub.file)) as run:
        run.until({UP: 0.0, 'gpu_failing{reason="driver_mismatch"}': 1.0})
        new = build(tmp_path / "new")
        new.replace(old)
        run.until({UP: 1.0, "gpu_devices": 1.0})


def test_without_a_library_there_is_one_line_in_the_log_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("gpu: {interval: 200ms, slow_interval: 200ms}\n")
    with started("--config.file", str(config)) as (process, base):
        run = Run(process, base)
        found = run.until({UP: 0.0, 'gpu_failing{reason="library_not_found"}': 1.0})
        time.sleep(1.0)
        assert not [name for name in found if name.startswith(("gpu_util", "gpu_devices"))]
        assert process.log.count("library_not_found") == 1
        assert 'up{source="vllm"}' in found


def test_gpus_that_are_not_wanted_leave_no_trace(tmp_path: Path, stub: Stub) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("gpu: {devices: none}\n")
    with started("--config.file", str(config), variables=stub.variables) as (process, base):
        found = Run(process, base).samples()
        assert not [name for name in found if "nvml" in name or name.startswith("gpu_")]
        assert "gpu" not in process.log


def test_only_gpus_are_watched_and_ready_means_that_they_were_read(stub: Stub) -> None:
    stub.script("gpus 8")
    with watching(stub) as run:
        found = run.until({UP: 1.0, "gpu_devices": 8.0, "gpu_missing_devices": 0.0})
        assert run.get("/-/ready") == "vllm-sidecar is ready.\n"
        assert 'up{source="vllm"}' not in found
        result = promtool.check_metrics(run.get("/metrics"))
        assert (result.ok, result.output) == (True, "")
        assert run.process.stop() < 2.0
        assert "gpu_process" not in run.process.log
        assert stub.log == ["init", "shutdown"]
