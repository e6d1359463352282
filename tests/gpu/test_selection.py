"""Which devices are read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from gpus import device
from stub_nvml import LOST

from vllm_sidecar.gpu.nvml import selection
from vllm_sidecar.gpu.nvml.binding import Nvml, NvmlFailedError
from vllm_sidecar.gpu.nvml.driver import Driver, DriverSettings
from vllm_sidecar.gpu.nvml.procfs import environment, family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stub_nvml import Stub

pytestmark = pytest.mark.io

FOUR = [device(i) for i in range(4)]
SPLIT = [device(0), device("0:0", "GPU-0"), device("0:1", "GPU-0"), device(1)]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (("0", "3"), {"GPU-0", "GPU-3"}),
        (("GPU-2",), {"GPU-2"}),
        (("0:1",), {"MIG-0:1"}),
        (("MIG-0:1",), {"MIG-0:1"}),
        (("7",), set()),
    ],
)
def test_devices_are_named_by_index_or_uuid(wanted: tuple[str, ...], found: set[str]) -> None:
    assert selection.configured(wanted, [*FOUR, *SPLIT[1:3]]) == (frozenset(found), "configured")


def test_the_devices_that_vllm_computes_on_are_its_own() -> None:
    computing = {"GPU-0": frozenset({7}), "GPU-1": frozenset({8, 99}), "GPU-2": frozenset()}
    assert selection.by_processes(frozenset({1, 8, 7}), computing) == ({"GPU-0", "GPU-1"}, "processes")
    assert selection.by_processes(frozenset({1}), computing) is None


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "1,3"}, {"GPU-1", "GPU-3"}),
        ({"CUDA_VISIBLE_DEVICES": " 2 , 0"}, {"GPU-0", "GPU-2"}),
        ({"CUDA_VISIBLE_DEVICES": "0,9,1"}, {"GPU-0"}),
        ({"CUDA_VISIBLE_DEVICES": "GPU-2"}, {"GPU-2"}),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia-container-devices"}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-2,GPU-3"}, {"GPU-2", "GPU-3"}),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-2,GPU-3", "CUDA_VISIBLE_DEVICES": "1"}, {"GPU-3"}),
    ],
)
def test_the_environment_names_devices_as_cuda_reads_it(variables: dict[str, str], found: set[str] | None) -> None:
    choice = selection.by_environment(variables, FOUR)
    assert choice == (None if found is None else (found, "environment"))


def test_mig_instances_are_named_by_uuid() -> None:
    found = selection.by_environment({"CUDA_VISIBLE_DEVICES": "MIG-0:1"}, SPLIT)
    assert found == ({"MIG-0:1"}, "environment")


def read(stub: Stub, plan: DriverSettings, pids: tuple[int, ...] = (), *lines: str) -> tuple[list[str], str]:
    stub.script("gpus 4", *lines)
    nvml = Nvml()
    driver = Driver(nvml, plan)
    try:
        found = driver.poll(time.monotonic(), pids)
    finally:
        driver.close()
        nvml.close()
    return indices(found), found["chosen_by"]


def indices(frame: dict) -> list[str]:
    return [device["device"][0] for device in frame["devices"]]


@pytest.fixture
def server_pid(tmp_path: Path) -> Iterator[int]:
    """A process that stands for vLLM: its environment names two GPUs."""
    code = "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"
    variables = os.environ | {"CUDA_VISIBLE_DEVICES": "1,2", "SECRET": "x"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        yield process.pid
        process.kill()


def test_auto_takes_processes_before_the_environment_and_that_before_all(stub: Stub, server_pid: int) -> None:
    auto = DriverSettings()
    assert read(stub, auto) == (["0", "1", "2", "3"], "all")
    assert read(stub, auto, (server_pid,)) == (["1", "2"], "environment")
    assert read(stub, auto, (server_pid,), f"3.process {server_pid}") == (["3"], "processes")
    assert read(stub, auto, (4194304000,)) == (["0", "1", "2", "3"], "all")


def test_what_vllm_uses_is_looked_for_again_as_soon_as_it_is_found(stub: Stub, server_pid: int) -> None:
    stub.script("gpus 4")
    nvml, pids = Nvml(), list[int]()
    driver = Driver(nvml, DriverSettings(slow_interval=3600.0))
    now = time.monotonic()
    assert len(driver.poll(now)["devices"]) == 4
    pids.append(server_pid)
    found = driver.poll(now + 5.0, pids)
    assert found["chosen_by"] == "environment"
    assert "power_limit_watts" in [row[0] for row in found["devices"][0]["slow"]]
    calls = nvml.calls
    driver.poll(now + 10.0, pids)
    assert nvml.calls - calls <= 2 * 12
    assert driver.poll(now + 15.0)["chosen_by"] == "all"
    nvml.close()


def test_a_list_takes_what_it_names_and_mig_instances_with_the_gpu_they_are_on(stub: Stub) -> None:
    assert read(stub, DriverSettings(wanted=("1", "GPU-00000003-"))) == (["1", "3"], "configured")
    assert read(stub, DriverSettings(wanted=("2:1",)), (), "mig 2")[0] == ["2", "2:1"]
    assert read(stub, DriverSettings(wanted=())) == (["0", "1", "2", "3"], "configured")


def test_names_of_which_none_is_there_are_a_failure(stub: Stub) -> None:
    with pytest.raises(NvmlFailedError, match="none of the 4 devices is 9, GPU-x") as caught:
        read(stub, DriverSettings(wanted=("9", "GPU-x")))
    assert caught.value.reason == "no_gpu"


def test_of_an_environment_only_what_is_about_gpus_is_kept(server_pid: int) -> None:
    found = environment(server_pid)
    assert found is not None
    assert found["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert "SECRET" not in found
    assert environment(4194304000) is None


def test_children_are_of_the_family(server_pid: int) -> None:
    assert {os.getpid(), server_pid} <= family(os.getpid())
    assert family(server_pid) == {server_pid}


def test_on_a_split_gpu_only_the_instance_that_vllm_uses_is_chosen(stub: Stub, server_pid: int) -> None:
    """NVML lists the processes of all instances on the GPU itself too."""
    stub.script("gpus 1", "mig 2", f"process {server_pid}")
    nvml = Nvml()
    driver = Driver(nvml, DriverSettings())
    by_index = {gpu.device.index: gpu for gpu in driver.devices}
    by_index["0:1"].processes = frozenset  # type: ignore[method-assign]
    found = driver.poll(time.monotonic(), [server_pid])
    nvml.close()
    assert indices(found) == ["0", "0:0"]
    assert found["chosen_by"] == "processes"


MIXED = [device(i) for i in range(3)]
MIXED[2] = replace(MIXED[2], name="NVIDIA A2")


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, None),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1,0"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, None),
        ({"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, {"GPU-2"}),
        ({"CUDA_VISIBLE_DEVICES": "GPU-2"}, {"GPU-2"}),
        ({"CUDA_VISIBLE_DEVICES": "1", "NVIDIA_VISIBLE_DEVICES": "GPU-1,GPU-0"}, {"GPU-1"}),
    ],
)
def test_where_models_are_mixed_cudas_indices_say_nothing_without_its_order(
    variables: dict[str, str], found: set[str] | None
) -> None:
    choice = selection.by_environment(variables, MIXED)
    assert choice == (None if found is None else (found, "environment"))


@pytest.mark.parametrize(
    ("plan", "pids", "lost"),
    [
        (DriverSettings(), False, ["3"]),
        (DriverSettings(), True, []),
        (DriverSettings(wanted=()), True, ["3"]),
        (DriverSettings(wanted=("0",)), True, []),
        (DriverSettings(wanted=("0", "3")), True, ["3"]),
    ],
    ids=["auto that took all", "auto that knows", "all", "a list without it", "a list with it"],
)
def test_a_gpu_without_a_handle_is_lost_only_where_it_was_selected(
    plan: DriverSettings, pids: bool, lost: list[str], stub: Stub, server_pid: int
) -> None:
    stub.script("gpus 4", f"3.ret.nvmlDeviceGetHandleByIndex_v2 {LOST}")
    nvml = Nvml()
    driver = Driver(nvml, plan)
    found = driver.poll(time.monotonic(), [server_pid] if pids else [])
    nvml.close()
    assert [each["device"][0] for each in found["devices"] if each["lost"]] == lost
    assert found["present"] == 4


def test_a_list_of_which_only_a_lost_gpu_is_left_says_that_it_is_lost(stub: Stub) -> None:
    with pytest.raises(NvmlFailedError) as caught:
        read(stub, DriverSettings(wanted=("3",)), (), f"3.ret.nvmlDeviceGetHandleByIndex_v2 {LOST}")
    assert caught.value.reason == "gpu_lost"
