"""The child process as its parent sees it: every way in which it ends, with small programs in its place."""

from __future__ import annotations

import asyncio
import os
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from following import QUICK, Following, following, script

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.gpu import child as gpu_child
from vllm_sidecar.gpu import supervisor as gpu_supervisor
from vllm_sidecar.gpu.supervisor import ChildSettings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

WORKS = """
import select
while not (select.select([0], [], [], 0.02)[0] and not os.read(0, 65536)):
    note("polling")
    poll()
"""


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        ("note('nvmlInitWithFlags'); os.kill(os.getpid(), 11)", Reason.CRASHED, "signal SIGSEGV, in nvmlInitWithFlags"),
        ("note('nvmlShutdown'); os.kill(os.getpid(), 9)", Reason.CRASHED, "signal SIGKILL, in nvmlShutdown"),
        ("sys.exit(7)", Reason.CRASHED, "exit code 7, in begin"),
        ("pass", Reason.CRASHED, "exit code 0, in begin"),
        ("os.write(2, b'first\\nthe last words\\n\\n'); sys.exit(1)", Reason.CRASHED,
         "exit code 1: the last words, in begin"),
        ("os.write(1, b'no frame\\n'); time.sleep(60)", Reason.INTERNAL, "an invalid frame: "),
        ("os.write(1, b'[' * 5000000); time.sleep(60)", Reason.INTERNAL, "a frame of more than "),
        ("note('nvmlDeviceGetName of GPU 3'); time.sleep(60)", Reason.HUNG,
         "nvmlDeviceGetName of GPU 3 has not returned for "),
        ("say('failed', {'reason': 'driver_mismatch', 'detail': 'why'})", Reason.DRIVER_MISMATCH, "why"),
        ("say('failed', {'reason': 'driver_mismatch', 'detail': 'why'}); time.sleep(60)", Reason.DRIVER_MISMATCH,
         "why"),
        ("say('failed', {'reason': 'dns', 'detail': 'why'})", Reason.INTERNAL, "why"),
    ],
    ids=["fault", "killed", "code", "end", "last words", "garbage", "no end", "hang", "failed", "failed and hangs",
         "a reason of others"],
)  # fmt: skip
async def test_each_end_has_its_reason_and_says_where(body: str, reason: Reason, detail: str, tmp_path: Path) -> None:
    timeout = 0.5 if reason is Reason.HUNG else 30.0  # a machine that is busy must not make a hang of the others
    async with following(QUICK._replace(timeout=timeout), script(tmp_path, body)) as run:
        await run.until(run.reasons)
        assert run.reasons()[0] is reason
        assert run.details()[0].startswith(detail)
        assert run.ticks or reason is not Reason.HUNG


async def test_a_program_that_is_not_there_is_a_reason_too() -> None:
    async with following(QUICK, lambda _: ["/nowhere/python"]) as run:
        await run.until(run.reasons)
        assert run.reasons()[0] is Reason.INTERNAL
        assert "cannot be started" in run.details()[0]


async def test_a_slow_child_that_goes_on_calling_does_not_hang(tmp_path: Path) -> None:
    body = "for i in range(60):\n    note(f'call {i}')\n    time.sleep(0.02)\npoll()\ntime.sleep(60)"
    async with following(QUICK._replace(timeout=0.5), script(tmp_path, body)) as run:
        await run.until_polled()
        assert not run.reasons()


async def test_the_next_child_begins_after_pauses_that_grow_and_gets_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_supervisor, "LONGEST_PAUSE", 0.2)
    began: list[float] = []

    async def start(*_: object) -> None:
        began.append(time.monotonic())
        raise OSError("no room")

    monkeypatch.setattr(gpu_supervisor, "start", start)
    async with following(QUICK, script(tmp_path, "pass")) as run:
        await run.until(lambda: len(began) >= 6)
    pauses = [after - before for before, after in pairwise(began)]
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.2, 0.2), strict=False):
        assert pause >= least


async def test_without_a_library_the_pause_grows_further() -> None:
    pauses: list[float] = []

    class Quick(Following):
        def __init__(self) -> None:
            super().__init__(ChildSettings())
            self.supervisor._rest = self._rest  # type: ignore[method-assign]
            self.supervisor._one = self._one  # type: ignore[method-assign]
            self.left = [Reason.LIBRARY_NOT_FOUND] * 9 + [Reason.CRASHED] * 2

        async def _rest(self, seconds: float) -> None:
            pauses.append(seconds)
            await asyncio.sleep(0)

        async def _one(self) -> PollError | None:
            if not self.left:
                await asyncio.Event().wait()
            return PollError(self.left.pop(0), "")

    run = Quick()
    run.task = asyncio.create_task(run.supervisor.run())
    await run.until(lambda: len(pauses) == 11)
    await run.stop()
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0, 300.0, 60.0]


async def test_a_bug_in_what_takes_frames_ends_the_child_and_is_told(tmp_path: Path) -> None:
    run = Following(QUICK, script(tmp_path, WORKS))

    def broken(frame: object) -> None:
        run.found.append(frame)  # type: ignore[arg-type]
        if not isinstance(frame, PollError):
            raise ZeroDivisionError("a bug")

    run.supervisor._publish = broken
    run.task = asyncio.create_task(run.supervisor.run())
    await run.until(lambda: run.reasons() == [Reason.INTERNAL, Reason.INTERNAL])
    await run.stop()
    assert run.details()[0] == "ZeroDivisionError: a bug"


@pytest.mark.parametrize("turns", range(12))
async def test_it_can_be_stopped_at_any_moment_and_leaves_nothing(turns: int, tmp_path: Path) -> None:
    program = script(tmp_path, WORKS)
    pids: list[int] = []
    async with following(QUICK, program) as run:
        for _ in range(turns):
            await asyncio.sleep(0)
            pids += [run.supervisor.pid] if run.supervisor.pid else []
        began = time.monotonic()
        await run.stop()
        assert time.monotonic() - began < 2.0
    assert not [pid for pid in pids if _is_alive(pid)]


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.02, 0.03, 0.04, 0.06, 0.1])
async def test_it_can_be_stopped_while_a_child_ends_by_itself(seconds: float, tmp_path: Path) -> None:
    body = "say('failed', {'reason': 'library_not_found', 'detail': ''})"
    async with following(QUICK, script(tmp_path, body)) as run:
        await asyncio.sleep(seconds)
        began = time.monotonic()
        await run.stop()
        assert time.monotonic() - began < 2.0


async def test_at_the_end_a_child_that_hangs_is_killed_and_its_call_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = "poll()\nnote(f'nvmlShutdown {os.getpid()}')\ntime.sleep(60)"
    async with following(QUICK._replace(timeout=60.0), script(tmp_path, body)) as run:
        await run.until_polled()
        began = time.monotonic()
        await run.stop()
        assert time.monotonic() - began < 2.0
    (record,) = [each for each in caplog.records if each.getMessage() == "gpu_process_killed"]
    fields = record.fields  # type: ignore[attr-defined]
    assert fields["call"] == f"nvmlShutdown {fields['pid']}"
    assert not _is_alive(fields["pid"])


async def test_processes_that_cannot_be_killed_are_left_behind_and_do_not_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a call that sleeps uninterruptibly in the kernel: nothing ends it, until the driver lets go."""
    children: list[gpu_child.Child] = []
    kill, release = gpu_child.Child.kill, gpu_child.Child.release

    def keep(self: gpu_child.Child) -> None:
        children.append(self)

    monkeypatch.setattr(gpu_child.Child, "kill", keep)
    monkeypatch.setattr(gpu_child.Child, "release", lambda _: None)
    monkeypatch.setattr(gpu_supervisor, "KILL_SECONDS", 0.05)
    monkeypatch.setattr(gpu_supervisor, "LONGEST_PAUSE", 0.1)
    body = "note('nvmlDeviceGetName')\ntime.sleep(60)"
    async with following(QUICK._replace(timeout=0.2), script(tmp_path, body)) as run:
        await run.until(lambda: len(run.reasons()) >= 5)
        assert set(run.reasons()) == {Reason.HUNG}
        assert len(children) == gpu_supervisor.MOST_STUCK
        assert "cannot be ended" in run.details()[-1]
        for each in children:
            kill(each)
        await run.until(lambda: len(children) > gpu_supervisor.MOST_STUCK)
        await run.stop()
        for each in children:
            kill(each)
            await each.exited.wait()
            release(each)
    assert [each.getMessage() for each in caplog.records].count("gpu_process_left_behind") >= 2


async def test_a_pause_of_the_whole_program_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it was stopped, or its machine slept: time that nobody waited for counts for nothing."""
    now = [0.0]
    run = Following(QUICK._replace(timeout=10.0, interval=0.05), script(tmp_path, "poll()\ntime.sleep(60)"))
    monkeypatch.setattr(run.supervisor, "_clock", lambda: now[0])
    run.task = asyncio.create_task(run.supervisor.run())
    await run.until(run.polls)
    now[0] += 3600.0
    ticks = run.ticks
    await run.until(lambda: run.ticks > ticks + 3)
    assert not run.reasons()
    await run.stop()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
