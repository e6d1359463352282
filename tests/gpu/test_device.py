"""What is read of one GPU: each model, each form of "not supported", MIG; through the real nvidia-ml-py."""

from __future__ import annotations

import ctypes
import json
import time
from typing import TYPE_CHECKING

import pynvml
import pytest
from stub_nvml import LOST, NO_PERMISSION, NOT_SUPPORTED, OLD, RESET, Stub

from vllm_sidecar.catalog.gpu_fields import GPU_FIELDS, GROUPS
from vllm_sidecar.gpu.frames import FrameReader
from vllm_sidecar.gpu.nvml.binding import Nvml
from vllm_sidecar.gpu.nvml.driver import Driver, DriverSettings
from vllm_sidecar.gpu.samples import EventLog, make
from vllm_sidecar.series.health import Health

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.gpu.polls import GpuPoll

pytestmark = pytest.mark.usefixtures("stub")
LABELLED = {entry.signal.name for entry in GPU_FIELDS if entry.signal.labels}


class Reader:
    """A driver that the test polls; what it says goes through frames, as from the child."""

    def __init__(self, plan: DriverSettings) -> None:
        self.nvml = Nvml()
        self.driver = Driver(self.nvml, plan)
        self.frames = FrameReader(processes=plan.processes)
        versions = {"driver": self.driver.driver_version, "nvml": self.driver.nvml_version}
        self.frames.read(json.dumps(["opened", {**versions, "devices": 1, "without_handle": 0}]).encode())

    def poll(self, times: int = 2) -> GpuPoll:
        for _ in range(times):
            found = self.frames.read(json.dumps(["poll", self.driver.poll(time.monotonic())]).encode())
        return found  # type: ignore[return-value]

    def one(self, times: int = 2) -> dict[str, float]:
        """Values of the first device; of labelled ones the key is signal and labels, joined by blanks."""
        values = self.poll(times).readings[0].values
        return {key if isinstance(key, str) else " ".join(key): value for key, value in values.items()}

    def names(self) -> set[str]:
        return {name.split(" ")[0] for name in self.one()}


def read(stub: Stub, *lines: str, plan: DriverSettings | None = None) -> Reader:
    """Script the library and open it; the end of the test closes it."""
    stub.script(*lines)
    made = Reader(plan or DriverSettings(slow_interval=0.0))
    stub.at_end.callback(made.nvml.close)
    stub.at_end.callback(made.driver.close)
    return made


def test_an_h100_gives_every_field_but_those_of_older_gpus(stub: Stub) -> None:
    reader = read(stub)
    missing = {entry.signal.name for entry in GPU_FIELDS} - reader.names()
    assert missing == {"gpu_retired_pages_pending", "gpu_processes"}
    capabilities = reader.poll().readings[0].capabilities
    assert [group for group in GROUPS if not capabilities.get(group)] == ["retired_pages", "processes", "events"]


def test_values_are_in_base_units(stub: Stub) -> None:
    found = read(stub).one()
    assert {name: found[f"gpu_{name}"] for name in (
        "utilization_ratio", "power_watts", "energy_joules_total", "sm_clock_hertz", "temperature_celsius",
        "throttle_seconds_total sw_power_cap", "dram_active_ratio", "nvlink_received_bytes_total",
    )} == pytest.approx({
        "utilization_ratio": 0.97, "power_watts": 612.0, "energy_joules_total": 123456.789, "sm_clock_hertz": 1.755e9,
        "temperature_celsius": 63.0, "throttle_seconds_total sw_power_cap": 5.0, "dram_active_ratio": 1.0,
        "nvlink_received_bytes_total": 18 * 2048 * 1024.0,
    })  # fmt: skip


def test_an_a100_has_older_calls_and_no_gpm(stub: Stub) -> None:
    reader = read(stub, "model a100", "links_active 11")
    found = reader.one()
    assert reader.poll().readings[0].device.power_source == "usage"
    assert found["gpu_power_watts"] == 612.0
    assert found["gpu_throttle_seconds_total thermal"] == 1.5
    assert found["gpu_nvlink_active_links"] == 11.0
    assert found["gpu_nvlink_links"] == 12.0
    assert found["gpu_nvlink_errors_total crc_data"] == 0.0
    assert not [name for name in found if "active_ratio" in name or "recovery_action" in name or "margin" in name]


def test_a_gb10_without_memory_and_with_made_up_pcie_gives_the_rest(stub: Stub) -> None:
    reader = read(stub, "model gb10")
    names = reader.names()
    assert {"gpu_utilization_ratio", "gpu_power_watts", "gpu_temperature_celsius"} <= names
    assert not {name for name in names if "memory_used" in name or "memory_total" in name or "pcie" in name}
    capabilities = reader.poll().readings[0].capabilities
    assert (capabilities["memory"], capabilities["nvlink"], capabilities["pcie"]) == (False, False, False)


def test_zeros_of_legacy_nvlink_counters_are_not_taken_for_health_on_hopper(stub: Stub) -> None:
    errors = {name for name in read(stub).one() if name.startswith("gpu_nvlink_errors")}
    assert "gpu_nvlink_errors_total symbol" in errors
    assert not errors & {f"gpu_nvlink_errors_total {kind}" for kind in ("crc_flit", "crc_data", "replay", "recovery")}


@pytest.mark.parametrize("code", [NOT_SUPPORTED, OLD, 2, 25])
@pytest.mark.parametrize(
    ("function", "signal"),
    [
        ("nvmlDeviceGetUtilizationRates", "gpu_utilization_ratio"),
        ("nvmlDeviceGetTotalEnergyConsumption", "gpu_energy_joules_total"),
        ("nvmlDeviceGetMarginTemperature", "gpu_temperature_margin_celsius"),
        ("nvmlDeviceGetRemappedRows", "gpu_row_remap_failure"),
        ("nvmlDeviceGetMigMode", "gpu_mig_enabled"),
        ("nvmlGpmQueryDeviceSupport", "gpu_sm_active_ratio"),
        ("nvmlGpmMetricsGet", "gpu_sm_active_ratio"),
        ("nvmlDeviceGetFieldValues", "gpu_recovery_action"),
    ],
)
def test_what_a_gpu_lacks_is_absent_and_asked_for_once(stub: Stub, function: str, signal: str, code: int) -> None:
    reader = read(stub, f"ret.{function} {code}")
    assert signal not in reader.names()
    stub.script()
    assert signal not in reader.names()
    stub.script(f"hang.{function} 1")  # a call to it would never end
    assert len(reader.one()) > 20


@pytest.mark.parametrize("code", [NO_PERMISSION, 10, 999])
def test_what_fails_for_now_is_absent_and_asked_for_again(stub: Stub, code: int) -> None:
    reader = read(stub, f"ret.nvmlDeviceGetUtilizationRates {code}")
    assert "gpu_utilization_ratio" not in reader.names()
    stub.script()
    assert reader.one()["gpu_utilization_ratio"] == 0.97


@pytest.mark.parametrize("field", [186, 230, 197, 271, 82])
def test_a_field_value_that_failed_is_absent_though_the_call_succeeds_and_it_reads_zero(stub: Stub, field: int) -> None:
    reader = read(stub, f"fieldret.{field} 3", f"field.{field} 0")
    found = reader.one()
    names = {186: "gpu_none", 230: "gpu_recovery_action none", 197: "gpu_pcie_transmitted_bytes_total",
             271: "gpu_throttle_seconds_total hw_power_brake", 82: "gpu_memory_temperature_celsius"}  # fmt: skip
    assert names[field] not in found
    assert found["gpu_power_watts"] == (600.0 if field == 186 else 612.0)


def test_power_falls_back_from_instant_to_average_to_usage_and_says_which(stub: Stub) -> None:
    for lines, source, watts in [
        ((), "instant", 612.0),
        (("fieldret.186 3",), "average", 600.0),
        (("field.186 0",), "average", 600.0),
        (("fieldret.186 3", "fieldret.185 3", "power 90000"), "usage", 90.0),
    ]:
        reader = read(stub, *lines)
        assert reader.one()["gpu_power_watts"] == watts
        assert reader.poll().readings[0].device.power_source == source


@pytest.mark.parametrize(
    ("line", "signal", "anomaly"),
    [
        ("sm_clock 4294967295", "gpu_sm_clock_hertz", "sentinel"),
        ("temperature 4294967295", "gpu_temperature_celsius", "negative"),
        ("energy 18446744073709551615", "gpu_energy_joules_total", "sentinel"),
        ("energy 0", "gpu_energy_joules_total", "zero"),
        ("memory_total 0", "gpu_memory_total_bytes", "zero"),
        ("field.197 18446744073709551615", "gpu_pcie_transmitted_bytes_total", "sentinel"),
        ("utilization 255", "gpu_utilization_ratio", "out_of_range"),
        ("field.186 400000000", "gpu_power_watts", "out_of_range"),
        ("gpm.2 250", "gpu_sm_active_ratio", "out_of_range"),
    ],
)
def test_a_value_that_cannot_be_true_is_left_out_and_counted(stub: Stub, line: str, signal: str, anomaly: str) -> None:
    reader = read(stub, line)
    found = reader.poll()
    assert signal not in found.readings[0].values
    assert found.anomalies == {anomaly: 1}


def test_a_margin_below_zero_is_true(stub: Stub) -> None:
    assert read(stub, "margin -3").one()["gpu_temperature_margin_celsius"] == -3.0


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("c_nvmlGpuFabricInfoV_t", "gpu_fabric_state"),
        ("nvmlDeviceGetMarginTemperature", "gpu_temperature_margin_celsius"),
        ("nvmlMemory_v2", "gpu_memory_reserved_bytes"),
        ("c_nvmlGpmMetricsGet_t", "gpu_sm_active_ratio"),
    ],
)
def test_what_an_older_binding_does_not_have_costs_that_only(
    stub: Stub, name: str, signal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pynvml, name)
    names = read(stub).names()
    assert signal not in names
    assert {"gpu_memory_used_bytes", "gpu_power_watts", "gpu_mig_enabled"} <= names


def test_a_structure_of_another_size_than_its_version_says_is_not_used(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in nvidia-ml-py 12.560: the state would be read from where something else stands."""

    class Wrong(pynvml.c_nvmlGpuFabricInfoV_t):
        _fields_ = (("too_much", ctypes.c_char * 64),)

    monkeypatch.setattr(pynvml, "c_nvmlGpuFabricInfoV_t", Wrong)
    assert not {name for name in read(stub).names() if "fabric" in name}


def test_each_throttle_reason_is_a_series_of_its_own(stub: Stub) -> None:
    found = read(stub, "throttle 0x24").one()
    active = {name.split(" ")[1] for name, value in found.items() if name.startswith("gpu_throttled") and value}
    assert active == {"sw_power_cap", "sw_thermal"}


@pytest.mark.parametrize(("number", "action"), [(0, "none"), (1, "gpu_reset"), (7, "system_reboot")])
def test_the_recovery_action_is_a_state_set(stub: Stub, number: int, action: str) -> None:
    found = read(stub, f"field.230 {number}").one()
    states = {name: value for name, value in found.items() if name.startswith("gpu_recovery_action ")}
    assert len(states) == 8
    assert [name for name, value in states.items() if value] == [f"gpu_recovery_action {action}"]


def test_the_fabric_tells_its_state_and_what_is_wrong_with_it(stub: Stub) -> None:
    found = read(stub, "fabric_state 2", "fabric_health 0x21").one()
    assert found["gpu_fabric_state in_progress"] == 1.0
    assert found["gpu_fabric_unhealthy degraded_bandwidth"] == 1.0
    assert found["gpu_fabric_unhealthy route_unhealthy"] == 0.0
    assert "gpu_fabric_unhealthy route_recovery" not in found
    assert "gpu_fabric_state completed" not in read(stub, "fabric_state 0").one()


def test_a_link_that_goes_down_does_not_take_its_bytes_out_of_the_sum(stub: Stub) -> None:
    reader = read(stub)
    before = reader.one()["gpu_nvlink_transmitted_bytes_total"]
    stub.script("fieldret.138 3", "links_active 17")
    after = reader.one()
    assert (after["gpu_nvlink_active_links"], after["gpu_nvlink_transmitted_bytes_total"]) == (17.0, before)


def test_gpm_has_no_value_at_the_first_poll(stub: Stub) -> None:
    reader = read(stub)
    assert "gpu_sm_active_ratio" not in reader.one(times=1)
    assert reader.one(times=1)["gpu_sm_active_ratio"] == pytest.approx(0.2)


def test_processes_are_counted_only_where_asked_for(stub: Stub) -> None:
    assert "gpu_processes" not in read(stub, "process 4711").names()
    counted = read(stub, "process 4711", plan=DriverSettings(slow_interval=0.0, processes=True)).one()
    assert counted["gpu_processes"] == 1.0


def test_a_list_of_processes_that_was_too_short_is_asked_for_again(stub: Stub) -> None:
    lines = ("process 1", "process_race 1")
    assert (
        read(stub, *lines, plan=DriverSettings(slow_interval=0.0, processes=True)).one(times=1)["gpu_processes"] == 1.0
    )


def test_mig_instances_have_memory_and_activity_and_their_gpu_the_rest(stub: Stub) -> None:
    whole, first, second = read(stub, "mig 2").poll().readings
    assert first.device.index == "0:0"
    assert first.device.uuid == "MIG-00000000-0000-0000-0000-000000000000"
    assert first.device.parent == second.device.parent == whole.device.uuid
    assert set(first.values) == {
        "gpu_memory_used_bytes", "gpu_memory_reserved_bytes", "gpu_memory_total_bytes",
        "gpu_sm_active_ratio", "gpu_tensor_active_ratio", "gpu_dram_active_ratio",
    }  # fmt: skip
    assert whole.values["gpu_mig_enabled"] == 1.0
    assert "gpu_power_watts" in whole.values
    assert not {"gpu_utilization_ratio", "gpu_memory_used_bytes"} & set(whole.values)


def test_a_lost_gpu_is_not_called_between_slow_polls(stub: Stub) -> None:
    reader = read(stub, "gpus 2", plan=DriverSettings(slow_interval=3600.0))
    assert [reading.lost for reading in reader.poll(1).readings] == [False, False]
    stub.script("gpus 2", f"0.ret {LOST}")
    assert [reading.lost for reading in reader.poll(1).readings] == [True, False]
    stub.script("gpus 2", "0.hang.nvmlDeviceGetUtilizationRates 1")
    found = reader.poll(1)
    assert [reading.lost for reading in found.readings] == [True, False]
    assert found.readings[1].values["gpu_power_watts"] == 612.0


def test_a_gpu_that_waits_for_a_reset_still_says_so(stub: Stub) -> None:
    """Its other calls fail; what the driver wants done is what to alert on."""
    reader = read(stub, "gpus 2", plan=DriverSettings(slow_interval=3600.0))
    reader.poll()
    stub.script("gpus 2", f"0.ret.nvmlDeviceGetUtilizationRates {RESET}", "0.field.230 1")
    for _ in range(2):
        lost, fine = reader.poll(1).readings
        assert (lost.lost, fine.lost) == (True, False)
        assert lost.values["gpu_recovery_action", "gpu_reset"] == 1.0
        assert len(lost.values) == 8


def test_a_gpu_without_a_handle_is_lost_and_the_others_are_read(stub: Stub) -> None:
    found = read(stub, "gpus 3", f"1.ret.nvmlDeviceGetHandleByIndex_v2 {LOST}").poll()
    assert [(reading.device.index, reading.lost) for reading in found.readings] == [
        ("0", False),
        ("2", False),
        ("1", True),
    ]


def test_calls_are_counted_by_tier_and_few(stub: Stub) -> None:
    found = read(stub, "gpus 8").poll(3)
    assert found.calls["fast"] / 8 <= 12
    assert found.calls["slow"] / 8 <= 40


@pytest.mark.parametrize("model", ["h100", "a100", "gb10", "h100-mig"])
def test_a_gpu_of_each_kind_gives_its_golden_output(model: str, stub: Stub, golden: Callable[[str, str], None]) -> None:
    name, _, mig = model.partition("-")
    poll = read(stub, f"model {name}", "mig 2" if mig else "mig 0").poll()
    found = make(poll, Health("nvml"), EventLog(), 1, 1)
    lines = [f"{signal}{{{text}}} {value!r}\n" for signal, rows in found.items() for text, value in rows]
    golden(f"gpu-{model}.prom", "".join(sorted(line for line in lines if line.startswith("gpu_"))))
