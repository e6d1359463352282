"""Runs a child process that calls NVML: detects when it hangs or ends, reports why, and starts the next one."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from vllm_sidecar.catalog.gpu_fields import EVENTS
from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.gpu.child import Child, command, start, watch_without_threads
from vllm_sidecar.gpu.frames import FrameReader, Outdated
from vllm_sidecar.gpu.polls import GpuPoll
from vllm_sidecar.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from vllm_sidecar.gpu.frames import Frame

LONGEST_PAUSE, PAUSE_WITHOUT_LIBRARY = 60.0, 300.0
"""Longest pause in seconds between two children: after any failure, and without a driver library to load."""
ACCESS_LOST_AFTER = 3
"""Successive children that end with an error unknown to NVML, after which access to the devices counts as lost."""
START_SECONDS = 15.0
"""Time limit in seconds from a child's start to its first call, sufficient for a busy machine."""
END_SECONDS, KILL_SECONDS = 0.7, 0.3
"""Time limits in seconds to release NVML and end, and to disappear after a kill."""
MOST_STUCK = 2
"""Most processes that hang in the driver and cannot be killed; no further child is started next to them."""

_log = logging.getLogger(__name__)


class ChildSettings(NamedTuple):
    """Settings of children: the devices (see config), the intervals, and the longest time that one call may take."""

    wanted: tuple[str, ...] | None = None
    interval: float = 5.0
    slow_interval: float = 60.0
    timeout: float = 10.0
    processes: bool = False

    @property
    def heartbeat(self) -> float:
        """Seconds between a child's signals that it is not blocked, and between checks by the parent."""
        return min(1.0, self.interval, self.timeout / 4.0)


class Supervisor:
    """Runs children continuously; their frames, and the reasons of their ends, go to `publish`.

    `server_pids` are vLLM's processes on this machine; `tick` is called at every check.
    """

    _stuck: ClassVar[list[Child]] = []
    """Processes of all supervisors that could not be killed and have not ended: a reload must not forget them."""

    def __init__(
        self,
        settings: ChildSettings,
        publish: Callable[[Frame], None],
        server_pids: Callable[[], Sequence[int]] = tuple,
        tick: Callable[[], None] = lambda: None,
        *,
        program: Callable[[int], Sequence[str]] = command,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._publish, self._server_pids, self._tick = settings, publish, server_pids, tick
        self._program, self._clock = program, clock
        self._child: Child | None = None
        self._unnamed = 0
        self._pids: tuple[int, ...] = ()
        self._last: Frame | None = None

    @property
    def pid(self) -> int | None:
        """The process that calls NVML now; None between two processes."""
        return self._child.pid if self._child else None

    @property
    def call(self) -> str:
        """Its current or last call."""
        return self._child.page.call if self._child else ""

    async def run(self) -> None:
        """Start one child after the other until canceled."""
        watch_without_threads()
        pause = self._settings.interval
        while True:
            began = self._clock()
            try:
                failure = await self._one()
            except Exception as error:  # noqa: BLE001 - a bug here must not leave the last values as if they were live
                event(_log, logging.ERROR, "internal_error", source="nvml", exc_info=error)
                failure = PollError(Reason.INTERNAL, f"{type(error).__name__}: {error}")
            if failure is not None:
                self._publish(failure)
            if failure is None or self._clock() - began > LONGEST_PAUSE:
                pause = self._settings.interval
            await self._rest(pause)
            without_library = failure is not None and failure.reason is Reason.LIBRARY_NOT_FOUND
            pause = min(2.0 * pause, PAUSE_WITHOUT_LIBRARY if without_library else LONGEST_PAUSE)

    async def _rest(self, seconds: float) -> None:
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0.0:
            await asyncio.sleep(min(left, self._settings.heartbeat))
            self._tick()

    async def _one(self) -> PollError | None:
        """Run one child until it ends; return why it failed, None if the set of devices has changed since its start."""
        self._stuck[:] = [child for child in self._stuck if not child.exited.is_set()]
        if len(self._stuck) >= MOST_STUCK:
            return PollError(Reason.HUNG, f"{len(self._stuck)} processes hang in the driver and cannot be ended")
        reader = FrameReader(processes=self._settings.processes)
        self._last, self._pids = None, ()
        try:
            child = await self._start(reader)
        except OSError as error:
            return PollError(Reason.INTERNAL, f"the process that calls NVML cannot be started: {error}")
        failure: PollError | None = None
        self._child = child
        try:
            child.send("plan", self._request())
            failure = await self._follow(child)
        finally:
            self._child = None
            call = await _finished(self._end(child, at_once=failure is not None))
        return failure or self._why(child, call)

    async def _start(self, reader: FrameReader) -> Child:
        """Start a child; if that is canceled halfway, end the child, which is otherwise unknown."""
        starting = asyncio.ensure_future(start(self._program, lambda line: self._took(reader.read(line))))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(OSError):
                await self._end(await starting, at_once=True)
            raise

    def _request(self) -> dict[str, object]:
        settings = self._settings
        return {
            "wanted": settings.wanted,
            "interval": settings.interval,
            "slow_interval": settings.slow_interval,
            "processes": settings.processes,
            "heartbeat": settings.heartbeat,
            "event_types": sum(EVENTS.values()),
        }

    def _took(self, frame: Frame) -> bool:
        """Pass on a frame; return whether it is the last. The reason of a failure is complete after the child's end."""
        self._last = frame
        if isinstance(frame, PollError | Outdated):
            return True
        if isinstance(frame, GpuPoll):
            self._unnamed = 0
        self._publish(frame)
        return False

    async def _follow(self, child: Child) -> PollError | None:
        """Watch a child until its last frame; return why it must be killed."""
        beat = self._settings.heartbeat
        count, still, looked = 0, 0.0, self._clock()
        while True:
            pids = tuple(self._server_pids())
            if pids != self._pids:
                self._pids = pids
                child.send("pids", pids)
            if await _within(child.over, beat):
                return PollError(Reason.INTERNAL, child.fault) if child.fault else None
            now, before = self._clock(), count
            count = child.page.count
            # A pause of this process or the machine counts as two intervals at most.
            still = still + min(now - looked, 2.0 * beat) if count == before else 0.0
            looked = now
            self._tick()
            if still > (self._settings.timeout if count else max(START_SECONDS, self._settings.timeout)):
                return PollError(Reason.HUNG, f"{child.page.call or 'its start'} has not returned for {still:.0f} s")

    async def _end(self, child: Child, *, at_once: bool) -> str:
        """End a child, in order if possible, and return its last call.

        A child that cannot be killed is left behind and remembered.
        """
        child.close_input()
        if at_once or not await _within(child.exited, END_SECONDS):
            if not at_once:
                event(_log, logging.WARNING, "gpu_process_killed", pid=child.pid, call=child.page.call)
            child.kill()
            if not await _within(child.exited, KILL_SECONDS):
                self._stuck.append(child)
                event(_log, logging.ERROR, "gpu_process_left_behind", pid=child.pid, call=child.page.call)
        call = child.page.call
        child.release()
        return call

    def _why(self, child: Child, call: str) -> PollError | None:
        """Return why a child ended by itself."""
        if isinstance(self._last, Outdated):
            return None
        if not isinstance(self._last, PollError):
            return PollError(Reason.CRASHED, f"{child.ending}, in {call or 'its start'}")
        return PollError(self._reason(self._last.reason), self._last.detail)

    def _reason(self, reason: Reason) -> Reason:
        """Return the reason; repeated unknown errors mean that the container has lost its devices permanently."""
        self._unnamed = self._unnamed + 1 if reason is Reason.NVML_ERROR else 0
        return Reason.DEVICE_ACCESS_LOST if self._unnamed >= ACCESS_LOST_AFTER else reason


async def _within(happened: asyncio.Event, seconds: float) -> bool:
    """Wait up to a time limit; return whether the event happened.

    asyncio.timeout is not used because before Python 3.11.4 it fails silently in a canceled task, nor asyncio.wait_for,
    which before 3.12 may swallow a cancellation.
    """
    waiting = asyncio.ensure_future(happened.wait())
    try:
        return bool((await asyncio.wait([waiting], timeout=seconds))[0])
    finally:
        waiting.cancel()


async def _finished(work: Coroutine[object, object, str]) -> str:
    """Finish an operation even if this task is canceled meanwhile, and only then be canceled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
