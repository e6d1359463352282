"""The threads: reasons, recovery, events, the end; in this process, with the stub."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from stub_nvml import LOST, MISMATCH, NO_PERMISSION, NOT_LOADED, UNKNOWN, Stub
from vllm_sidecar.gpu import events as gpu_events
from vllm_sidecar.gpu.driver import Plan
from vllm_sidecar.gpu.events import GpuEvent
from vllm_sidecar.gpu.poller import Opened, PollThread
from vllm_sidecar.model import GpuPoll, PollError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 10.0
INTERVAL = 0.05


class Listener:
    """Runs the thread and keeps what it publishes."""

    def __init__(self) -> None:
        self.found: list[Opened | GpuPoll | GpuEvent | PollError] = []
        self.ended = threading.Event()
        plan = Plan(slow_interval=INTERVAL)
        self.thread = PollThread(plan, INTERVAL, self.found.append, tuple, self.ended.set)

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.found[-5:]
            time.sleep(0.005)

    def all(self, kind: type) -> list:
        return [each for each in self.found if isinstance(each, kind)]

    def reasons(self) -> list[Reason]:
        return [each.reason for each in self.all(PollError)]

    def events(self) -> list[tuple[str, str, int]]:
        return [(each.index, each.kind, each.data) for each in self.all(GpuEvent)]


@pytest.fixture
def listener(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setattr(gpu_events, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(gpu_events, "WAIT_MS", 30)
    made = Listener()
    yield made
    stub.script()
    made.thread.stop()
    assert made.ended.wait(PATIENCE)


def test_polls_come_until_it_is_stopped_and_then_nvml_is_let_go(stub: Stub, listener: Listener) -> None:
    stub.script("gpus 2")
    listener.thread.start()
    listener.until(lambda: len(listener.all(GpuPoll)) >= 3)
    assert listener.found[0] == Opened("580.95.05", 2, 0)
    listener.thread.stop()
    assert listener.ended.wait(2.0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpu-")]
    count = len(listener.found)
    time.sleep(3 * INTERVAL)
    assert len(listener.found) == count


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
    ],
)
def test_each_failure_at_the_start_has_its_reason(line: str, reason: Reason, stub: Stub, listener: Listener) -> None:
    stub.script(line)
    listener.thread.start()
    listener.until(listener.reasons)
    assert listener.reasons()[0] is reason
    stub.script()
    listener.until(lambda: listener.all(GpuPoll))


@pytest.mark.parametrize(
    ("code", "reason"),
    [(UNKNOWN, Reason.NVML_ERROR), (LOST, Reason.GPU_LOST), (NOT_LOADED, Reason.DRIVER_NOT_LOADED),
     (MISMATCH, Reason.DRIVER_MISMATCH), (NO_PERMISSION, Reason.NO_PERMISSION)],
)  # fmt: skip
def test_a_driver_that_fails_midway_is_opened_again(code: int, reason: Reason, stub: Stub, listener: Listener) -> None:
    listener.thread.start()
    listener.until(lambda: listener.all(GpuPoll))
    stub.script(f"ret {code}")
    listener.until(listener.reasons)
    assert listener.reasons()[0] is reason
    stub.script()
    count = len(listener.all(GpuPoll))
    listener.until(lambda: len(listener.all(GpuPoll)) > count)
    assert len(listener.all(Opened)) >= 2


def test_an_error_without_a_name_that_stays_means_that_the_devices_are_gone_for_good(
    stub: Stub, listener: Listener
) -> None:
    listener.thread.start()
    listener.until(lambda: listener.all(GpuPoll))
    stub.script(f"ret {UNKNOWN}", f"ret.nvmlInitWithFlags {UNKNOWN}")
    listener.until(lambda: Reason.DEVICE_ACCESS_LOST in listener.reasons())
    assert listener.reasons()[:3] == [Reason.NVML_ERROR, Reason.NVML_ERROR, Reason.DEVICE_ACCESS_LOST]


def test_one_gpu_that_fails_for_now_leaves_the_others(stub: Stub, listener: Listener) -> None:
    stub.script("gpus 2", f"1.ret {UNKNOWN}")
    listener.thread.start()
    listener.until(lambda: listener.all(GpuPoll))
    assert not listener.reasons()


def test_while_a_call_hangs_it_says_which(stub: Stub, listener: Listener) -> None:
    stub.script("gpus 2")
    listener.thread.start()
    listener.until(lambda: listener.all(GpuPoll))
    stub.add("1.hang.nvmlDeviceGetTotalEnergyConsumption 1")
    listener.until(lambda: (since := listener.thread.busy_since) and time.monotonic() - since > 0.3)
    assert listener.thread.doing == "nvmlDeviceGetTotalEnergyConsumption of GPU 1"


def test_events_are_those_that_come_after_the_registration(stub: Stub, listener: Listener) -> None:
    stub.script("gpus 2", "event 0 8 48")
    listener.thread.start()
    listener.until(lambda: any(p.readings[1].capabilities["events"] for p in listener.all(GpuPoll)))
    stub.add("event 1 8 79", "event 0 8000 1", "event 1 4 2")
    listener.until(lambda: len(listener.events()) >= 2)
    time.sleep(0.1)
    assert listener.events() == [("1", "xid", 79), ("0", "recovery_action", 1)]


def test_an_event_of_a_mig_instance_is_attributed_to_it(stub: Stub, listener: Listener) -> None:
    stub.script("mig 2")
    listener.thread.start()
    listener.until(lambda: any(p.readings[0].capabilities["events"] for p in listener.all(GpuPoll)))
    stub.add("event 0 8 94 2 0", "event 0 8 79")
    listener.until(lambda: len(listener.events()) == 2)
    assert listener.events() == [("0:1", "xid", 94), ("0", "xid", 79)]


def test_a_wait_that_fails_registers_again(stub: Stub, listener: Listener) -> None:
    listener.thread.start()
    listener.until(lambda: any(p.readings[0].capabilities["events"] for p in listener.all(GpuPoll)))
    stub.script(f"ret.nvmlEventSetWait_v2 {LOST}")
    listener.until(lambda: not listener.all(GpuPoll)[-1].readings[0].capabilities["events"])
    stub.script()
    listener.until(lambda: listener.all(GpuPoll)[-1].readings[0].capabilities["events"])
    stub.add("event 0 8 31")
    listener.until(listener.events)


def test_a_gpu_that_refuses_events_says_so_and_is_not_unhealthy(stub: Stub, listener: Listener) -> None:
    stub.script("gpus 2", "0.ret.nvmlDeviceRegisterEvents 3")
    listener.thread.start()
    listener.until(lambda: any(p.readings[1].capabilities["events"] for p in listener.all(GpuPoll)))
    last = listener.all(GpuPoll)[-1]
    assert [(r.lost, r.capabilities["events"]) for r in last.readings] == [(False, False), (False, True)]


def test_a_lost_gpu_that_comes_back_has_its_events_again(stub: Stub, listener: Listener) -> None:
    def events_of(index: int) -> bool:
        last = listener.all(GpuPoll)[-1].readings[index]
        return not last.lost and last.capabilities["events"]

    stub.script("gpus 2")
    listener.thread.start()
    listener.until(lambda: listener.all(GpuPoll) and events_of(1))
    stub.script("gpus 2", f"1.ret {LOST}", f"ret.nvmlEventSetWait_v2 {LOST}")
    listener.until(lambda: listener.all(GpuPoll)[-1].readings[1].lost)
    stub.script("gpus 2", f"1.ret {LOST}")
    listener.until(lambda: events_of(0))
    stub.script("gpus 2")
    listener.until(lambda: len(listener.all(Opened)) == 2)
    count = len(listener.all(GpuPoll))
    listener.until(lambda: len(listener.all(GpuPoll)) > count and events_of(1))
    stub.add("event 1 8 13")
    listener.until(lambda: listener.events() == [("1", "xid", 13)])
    assert listener.reasons() == []


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
def test_other_devices_than_at_the_start_are_found_without_a_failure(
    before: tuple[str, ...], after: tuple[str, ...], indices: list[str], stub: Stub, listener: Listener
) -> None:
    stub.script(*before)
    listener.thread.start()
    listener.until(lambda: listener.all(GpuPoll))
    stub.script(*after)
    listener.until(lambda: [r.device.index for r in listener.all(GpuPoll)[-1].readings if not r.lost] == indices)
    assert listener.reasons() == []
    assert len(listener.all(Opened)) == 2
