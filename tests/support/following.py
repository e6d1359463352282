"""Follows the GPUs through a child process, the real one or a script in its place, and keeps what is said."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.gpu.child import command
from vllm_sidecar.gpu.frames import GpuEvent, Opened
from vllm_sidecar.gpu.polls import GpuPoll
from vllm_sidecar.gpu.supervisor import ChildSettings, Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from vllm_sidecar.gpu.frames import Frame

PATIENCE = 20.0
QUICK = ChildSettings(interval=0.05, slow_interval=0.05, timeout=1.0)


class Following:
    """What a supervisor publishes."""

    def __init__(
        self, plan: ChildSettings = QUICK, program: Callable[[int], Sequence[str]] = command, pids: Sequence[int] = ()
    ) -> None:
        self.found: list[Frame] = []
        self.pids: Sequence[int] = pids
        self.ticks = 0
        self.supervisor = Supervisor(plan, self.found.append, lambda: self.pids, self._tick, program=program)
        self.task: asyncio.Task[None] | None = None

    def _tick(self) -> None:
        self.ticks += 1

    def all(self, kind: type) -> list:
        return [each for each in self.found if isinstance(each, kind)]

    def reasons(self) -> list[Reason]:
        return [each.reason for each in self.all(PollError)]

    def details(self) -> list[str]:
        return [each.detail for each in self.all(PollError)]

    def polls(self) -> list[GpuPoll]:
        return self.all(GpuPoll)

    def opened(self) -> int:
        return len(self.all(Opened))

    def events(self) -> list[tuple[str, tuple[str, ...], int]]:
        return [(each.index, each.kinds, each.data) for each in self.all(GpuEvent)]

    async def until(self, condition: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():  # noqa: ASYNC110 - nothing tells a test
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(self.found[-5:]) from None

    async def until_polled(self, *, more: int = 1) -> None:
        count = len(self.polls()) + more
        await self.until(lambda: len(self.polls()) >= count)

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def following(
    plan: ChildSettings = QUICK, program: Callable[[int], Sequence[str]] = command, pids: Sequence[int] = ()
) -> AsyncIterator[Following]:
    made = Following(plan, program, pids)
    made.task = asyncio.create_task(made.supervisor.run())
    try:
        yield made
    finally:
        await made.stop()


def script(folder: Path, body: str) -> Callable[[int], list[str]]:
    """Write a program that stands for the child: `say` writes a frame, `note` a call on the page."""
    head = """
        import json, mmap, os, sys, time
        page = mmap.mmap(int(sys.argv[1]), 256)
        count = 0
        def note(call):
            global count
            count += 1
            page[8:8 + len(call) + 1] = call.encode() + bytes(1)
            page[:8] = count.to_bytes(8, "little")
        def say(kind, content):
            os.write(1, json.dumps([kind, content]).encode() + b"\\n")
        def poll():
            say("poll", {"devices": [], "at": 1.0, "seconds": 0.0, "calls": {}, "chosen_by": "all", "present": 1})
        note("begin")
    """
    file = folder / "child.py"
    file.write_text(textwrap.dedent(head) + textwrap.dedent(body))
    return lambda page: [sys.executable, "-I", "-S", str(file), str(page)]
