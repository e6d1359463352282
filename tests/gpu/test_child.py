"""The real child with the stub in NVML's place: reasons, recovery, events, the end, and what it must not import."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from following import QUICK, following
from stub_nvml import LOST, MISMATCH, NO_PERMISSION, NOT_LOADED, NOT_SUPPORTED, OLD, UNKNOWN, Stub, build

from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.gpu.child import command
from vllm_sidecar.gpu.frames import Note, Opened

if TYPE_CHECKING:
    from following import Following

pytestmark = pytest.mark.io


def has_events(run: Following, index: int = 0) -> bool:
    """Tell whether a GPU's events come, by the last poll."""
    readings = run.polls()[-1].readings if run.polls() else ()
    return len(readings) > index and readings[index].capabilities.get("events", False)


@pytest.mark.parametrize("interval", [0.05, 5.0])
async def test_polls_come_until_it_is_stopped_and_then_nvml_is_let_go(interval: float, stub: Stub) -> None:
    stub.script("gpus 2")
    async with following(QUICK._replace(interval=interval, timeout=10.0)) as run:
        await run.until_polled(more=3 if interval < 1.0 else 1)
        assert run.found[0] == Opened("580.95.05", 2, 0, "13.580.95.05")
        began = time.monotonic()
        await run.stop()
        assert time.monotonic() - began < 1.0
        assert stub.log == ["init", "shutdown"]


def test_nothing_is_imported_that_it_does_not_need() -> None:
    """Most of a process is what it imports, and nothing that is installed beside it may get in."""
    program = "import sys; sys.path += sys.argv[1:]; import vllm_sidecar.gpu.nvml.worker, pynvml; print(*sys.modules)"
    folders = command(0)[5:]
    arguments = [sys.executable, "-I", "-S", "-c", program, *folders]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pynvml" in loaded
    heavy = {"aiohttp", "numpy", "pydantic", "prometheus_client", "yaml", "asyncio", "dataclasses", "pathlib", "site"}
    assert not loaded & heavy
    ours = {name for name in loaded if name.startswith("vllm_sidecar") and not name.startswith("vllm_sidecar.gpu.nvml")}
    assert ours == {"vllm_sidecar", "vllm_sidecar.gpu"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"ret.nvmlInitWithFlags {MISMATCH}", Reason.DRIVER_MISMATCH),
        (f"ret.nvmlInitWithFlags {NOT_LOADED}", Reason.DRIVER_NOT_LOADED),
        (f"ret.nvmlInitWithFlags {NO_PERMISSION}", Reason.NO_PERMISSION),
        (f"ret.nvmlInitWithFlags {UNKNOWN}", Reason.NVML_ERROR),
        (f"ret.nvmlDeviceGetCount_v2 {UNKNOWN}", Reason.NVML_ERROR),
        (f"ret.nvmlDeviceGetHandleByIndex_v2 {NO_PERMISSION}", Reason.NO_PERMISSION),
        (f"ret.nvmlDeviceGetUUID {LOST}", Reason.GPU_LOST),
        ("gpus 0", Reason.NO_GPU),
        ("crash.nvmlInitWithFlags 1", Reason.CRASHED),
        ("exit.nvmlInitWithFlags 3", Reason.CRASHED),
        ("hang.nvmlInitWithFlags 1", Reason.HUNG),
    ],
)
async def test_each_failure_at_the_start_has_its_reason_and_is_tried_again(
    line: str, reason: Reason, stub: Stub
) -> None:
    stub.script(line)
    async with following() as run:
        await run.until(run.reasons)
        assert run.reasons()[0] is reason
        stub.script()
        await run.until_polled()


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (f"ret {UNKNOWN}", Reason.NVML_ERROR, "(code 999)"),
        (f"ret {LOST}", Reason.GPU_LOST, "(code 15)"),
        (f"ret {NOT_LOADED}", Reason.DRIVER_NOT_LOADED, "(code 9)"),
        (f"ret {MISMATCH}", Reason.DRIVER_MISMATCH, "(code 18)"),
        (f"ret {NO_PERMISSION}", Reason.NO_PERMISSION, "(code 4)"),
        ("1.crash.nvmlDeviceGetTotalEnergyConsumption 1", Reason.CRASHED,
         "signal SIGSEGV, in nvmlDeviceGetTotalEnergyConsumption of GPU 1"),
        ("1.exit.nvmlDeviceGetName 1", Reason.CRASHED, ""),
        ("exit.nvmlDeviceGetUtilizationRates 3", Reason.CRASHED,
         "exit code 3, in nvmlDeviceGetUtilizationRates of GPU 0"),
        ("1.hang.nvmlDeviceGetTotalEnergyConsumption 1", Reason.HUNG,
         "nvmlDeviceGetTotalEnergyConsumption of GPU 1 has not returned for "),
        ("hang.nvmlEventSetWait_v2 1", Reason.HUNG, "nvmlEventSetWait_v2 has not returned for "),
    ],
)  # fmt: skip
async def test_a_driver_that_fails_midway_is_opened_again_by_the_next(
    line: str, reason: Reason, detail: str, stub: Stub
) -> None:
    stub.script("gpus 2")
    async with following() as run:
        await run.until_polled()
        if "nvmlDeviceGetName" in line:  # it is asked at the start only: other devices make the child end, and begin
            stub.script("gpus 3", line)
        else:
            stub.script("gpus 2", line)
        await run.until(run.reasons)
        assert run.reasons()[0] is reason
        assert detail in run.details()[0]
        stub.script("gpus 2")
        await run.until_polled()
        assert run.opened() >= 2


async def test_what_a_library_prints_is_no_frame_and_its_last_words_are_kept(stub: Stub) -> None:
    stub.script("print.nvmlDeviceGetUtilizationRates oh no: 42")
    async with following() as run:
        await run.until_polled(more=3)
        assert not run.reasons()
        stub.add("crash.nvmlDeviceGetUtilizationRates 1")
        await run.until(run.reasons)
        assert run.details()[0] == "signal SIGSEGV: oh no: 42, in nvmlDeviceGetUtilizationRates of GPU 0"


async def test_a_child_that_is_killed_is_replaced_and_polls_go_on(stub: Stub) -> None:
    stub.script("gpus 2")
    async with following() as run:
        await run.until_polled()
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)
        await run.until(run.reasons)
        await run.until_polled()
        assert run.reasons() == [Reason.CRASHED]
        assert run.details()[0].startswith("signal SIGKILL, in ")
        assert children() != [pid]


async def test_signals_of_a_terminal_or_a_service_manager_do_not_end_it_before_its_parent(stub: Stub) -> None:
    stub.script("gpus 2")
    async with following() as run:
        await run.until_polled()
        (pid,) = children()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        await run.until_polled(more=3)
        assert children() == [pid]
        assert os.getsid(pid) != os.getsid(0)


def test_it_ends_with_its_parent_however_that_ends(stub: Stub) -> None:
    stub.script("hang.nvmlDeviceGetName 1")
    program = (
        "import asyncio, os, signal, sys, time\n"
        "from following import Following, QUICK\n"
        "async def main():\n"
        "    run = Following(QUICK._replace(timeout=60.0))\n"
        "    run.task = asyncio.create_task(run.supervisor.run())\n"
        "    await run.until(lambda: run.supervisor.call.startswith('nvmlDeviceGetName'))\n"
        "    print(run.supervisor.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    variables = os.environ | stub.variables | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    pid = int(done.stdout)
    end = time.monotonic() + 5.0
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


async def test_without_a_library_no_process_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    async with following(QUICK._replace(interval=0.5)) as run:
        await run.until(run.reasons)
        assert run.reasons() == [Reason.LIBRARY_NOT_FOUND]
        assert "libnvidia-ml.so.1" in run.details()[0]
        assert children() == []


async def test_an_error_without_a_name_that_stays_means_that_the_devices_are_gone_for_good(stub: Stub) -> None:
    async with following() as run:
        await run.until_polled()
        stub.script(f"ret {UNKNOWN}", f"ret.nvmlInitWithFlags {UNKNOWN}")
        await run.until(lambda: Reason.DEVICE_ACCESS_LOST in run.reasons())
        assert run.reasons()[:3] == [Reason.NVML_ERROR, Reason.NVML_ERROR, Reason.DEVICE_ACCESS_LOST]


@pytest.mark.usefixtures("stub")
async def test_a_library_that_was_replaced_on_disk_is_loaded_by_the_next_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade of the driver: the old library does not fit the new kernel module."""
    old = build(tmp_path / "driver", f"STUB_INIT={MISMATCH}")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(old.parent))
    async with following() as run:
        await run.until(run.reasons)
        assert run.reasons()[0] is Reason.DRIVER_MISMATCH
        build(tmp_path / "new").replace(old)
        await run.until_polled()


async def test_one_gpu_that_fails_for_now_leaves_the_others(stub: Stub) -> None:
    stub.script("gpus 2", f"1.ret {UNKNOWN}")
    async with following() as run:
        await run.until_polled()
        assert not run.reasons()


async def test_servers_that_are_found_later_change_what_is_read(stub: Stub) -> None:
    stub.script("gpus 3", f"2.process {os.getpid()}")
    async with following() as run:
        await run.until_polled()
        assert run.polls()[-1].chosen_by == "all"
        run.pids = (os.getpid(),)
        await run.until(lambda: run.polls()[-1].chosen_by == "processes")
        assert [reading.device.index for reading in run.polls()[-1].readings] == ["2"]


async def test_events_are_those_that_come_after_the_registration(stub: Stub) -> None:
    stub.script("gpus 2", "event 0 8 48")
    async with following() as run:
        await run.until(lambda: has_events(run, 1))
        stub.add("event 1 8 79", "event 0 8000 1", "event 1 4 2")
        await run.until(lambda: len(run.events()) >= 2)
        await run.until_polled(more=3)
        assert run.events() == [("1", ("xid",), 79), ("0", ("recovery_action",), 1)]


async def test_events_that_come_together_are_all_there(stub: Stub) -> None:
    async with following(QUICK._replace(interval=2.0, slow_interval=2.0)) as run:
        await run.until(lambda: has_events(run))  # only from then on events are delivered
        stub.add(*[f"event 0 8 {code}" for code in range(200)])
        await run.until(lambda: len(run.events()) == 200)
        assert [data for _, _, data in run.events()] == list(range(200))


async def test_an_event_of_a_mig_instance_is_attributed_to_it(stub: Stub) -> None:
    stub.script("mig 2")
    async with following() as run:
        await run.until(lambda: has_events(run))
        stub.add("event 0 8 94 2 0", "event 0 8 79")
        await run.until(lambda: len(run.events()) == 2)
        assert run.events() == [("0:1", ("xid",), 94), ("0", ("xid",), 79)]


async def test_a_wait_that_fails_registers_again_and_is_said_once(stub: Stub) -> None:
    async with following() as run:
        await run.until(lambda: has_events(run))
        stub.script(f"ret.nvmlEventSetWait_v2 {LOST}")
        await run.until(lambda: not has_events(run))
        await asyncio.sleep(1.2)
        stub.script()
        await run.until(lambda: has_events(run))
        stub.add("event 0 8 31")
        await run.until(run.events)
        assert [note.what for note in run.all(Note)] == ["gpu_events_interrupted"]
        assert run.opened() == 1


@pytest.mark.parametrize("function", ["nvmlEventSetCreate", "nvmlEventSetWait_v2"])
@pytest.mark.parametrize("code", [NOT_SUPPORTED, OLD])
async def test_a_driver_without_events_costs_them_and_one_line(function: str, code: int, stub: Stub) -> None:
    stub.script(f"ret.{function} {code}")
    async with following() as run:
        await run.until_polled(more=5)
        await run.until(lambda: run.all(Note))
        await run.until_polled(more=5)
        assert [note.what for note in run.all(Note)] == ["gpu_events_unsupported"]
        assert not has_events(run)
        assert not run.reasons()


async def test_a_gpu_that_refuses_events_says_so_and_is_not_unhealthy(stub: Stub) -> None:
    stub.script("gpus 2", f"0.ret.nvmlDeviceRegisterEvents {NOT_SUPPORTED}")
    async with following() as run:
        await run.until(lambda: has_events(run, 1))
        last = run.polls()[-1]
        assert [(r.lost, r.capabilities["events"]) for r in last.readings] == [(False, False), (False, True)]


async def test_a_lost_gpu_that_comes_back_has_its_events_again(stub: Stub) -> None:
    stub.script("gpus 2")
    async with following() as run:
        await run.until(lambda: has_events(run, 1))
        stub.script("gpus 2", f"1.ret {LOST}", f"ret.nvmlEventSetWait_v2 {LOST}")
        await run.until(lambda: run.polls()[-1].readings[1].lost)
        stub.script("gpus 2", f"1.ret {LOST}")
        await run.until(lambda: has_events(run, 0))
        stub.script("gpus 2")
        await run.until(lambda: run.opened() == 2)
        await run.until(lambda: has_events(run, 1))
        stub.add("event 1 8 13")
        await run.until(lambda: run.events() == [("1", ("xid",), 13)])
        assert run.reasons() == []


@pytest.mark.parametrize(
    ("before", "after", "indices"),
    [
        (("gpus 1",), ("gpus 2",), ["0", "1"]),
        (("gpus 2",), ("gpus 1",), ["0"]),
        (("mig 0",), ("mig 2",), ["0", "0:0", "0:1"]),
        (("mig 2",), ("mig 1",), ["0", "0:0"]),
        (("gpus 2", f"1.ret.nvmlDeviceGetHandleByIndex_v2 {LOST}"), ("gpus 2",), ["0", "1"]),
    ],
    ids=["a GPU more", "a GPU less", "split", "split otherwise", "a handle at last"],
)
async def test_other_devices_than_at_the_start_are_found_without_a_failure(
    before: tuple[str, ...], after: tuple[str, ...], indices: list[str], stub: Stub
) -> None:
    stub.script(*before)
    async with following() as run:
        await run.until_polled()
        stub.script(*after)
        await run.until(lambda: [r.device.index for r in run.polls()[-1].readings if not r.lost] == indices)
        assert run.reasons() == []
        assert run.opened() == 2


def children() -> list[int]:
    """Return the processes of this one that call NVML and have not ended."""
    done = subprocess.run(
        ["ps", "-ww", "-o", "pid=,stat=,args=", "--ppid", str(os.getpid())],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return [int(pid) for pid, state, args in lines if "nvml/__main__" in args and not state.startswith("Z")]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
