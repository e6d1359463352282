"""The event loop's side of the GPUs: takes what the thread found, sees when it hangs, and shows the last state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_sidecar.gpu import samples, simulated
from vllm_sidecar.gpu.driver import Plan
from vllm_sidecar.gpu.events import GpuEvent
from vllm_sidecar.gpu.poller import Opened, PollThread
from vllm_sidecar.gpu.window import GpuWindows
from vllm_sidecar.health import GPU_ANOMALIES, MISSES, Health
from vllm_sidecar.log import event
from vllm_sidecar.model import GPU_REASONS, GpuPoll, PollError, Reason
from vllm_sidecar.remedy import GPU_REMEDY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.config import Config
    from vllm_sidecar.gpu.samples import Samples
    from vllm_sidecar.gpu.window import GpuWindow

SOURCE = "nvml"
END_SECONDS = 1.0
"""What the thread gets to release NVML at the end; one that hangs is left behind, as a daemon."""

_log = logging.getLogger(__name__)


class GpuMonitor:
    """Follows the GPUs of this node for ever; says after each change that there is something new."""

    def __init__(
        self,
        config: Config,
        changed: Callable[[], None],
        server_pids: Callable[[], Sequence[int]] = tuple,
        servers_use: Callable[[], int | None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = config.gpu
        self._config = config
        self._changed, self._clock, self._wall = changed, clock, wall
        self._server_pids, self._servers_use = server_pids, servers_use
        self.health = Health(
            SOURCE,
            interval=config.gpu.interval,
            reasons=GPU_REASONS,
            anomaly_kinds=GPU_ANOMALIES,
            over_http=False,
        )
        self.poll: GpuPoll | None = None
        """The last successful poll; None before the first and while the source is down."""
        self._windows = GpuWindows(config.windows.length)
        self._events = samples.EventLog()
        self._opens = 0
        self._most_seen = 0
        self._succeeded_at: float | None = None
        self._logged: Reason | None = None
        self._logged_lost: frozenset[str] = frozenset()
        self._logged_choice = ""
        self._samples: Samples | None = None

    @property
    def windows(self) -> Sequence[GpuWindow]:
        """The recent values of the devices that answer; empty while the source is down."""
        return self._windows.all()

    def samples(self) -> Samples:
        """Return all series; the same object until something changes."""
        if self._samples is None:
            expected = self.settings.expected or self._servers_use() or self._most_seen
            self._samples = samples.make(self.poll, self.health, self._events, self._opens, expected)
        return self._samples

    @property
    def last_success_age(self) -> float | None:
        """Seconds since the last successful poll; None before the first."""
        return None if self._succeeded_at is None else self._clock() - self._succeeded_at

    def resize(self, length: float) -> None:
        """Take another length of the windows."""
        self._windows.resize(length)

    def ended(self, error: BaseException) -> None:
        """End all series that would look live: `run` ended, which is a bug."""
        self.health = self.health.unusable(f"{type(error).__name__}: {error}")
        self._down()
        self._tell()

    async def run(self) -> None:
        """Follow the GPUs until cancelled."""
        if self.settings.simulate:
            await self._simulate()
        else:
            await self._watch()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        settings, ended = self.settings, asyncio.Event()

        def publish(found: Opened | GpuPoll | GpuEvent | PollError | None) -> None:
            with suppress(RuntimeError):  # the program ended while NVML was asked
                loop.call_soon_threadsafe(*((ended.set,) if found is None else (self.take, found)))

        thread = PollThread(
            Plan(settings.wanted, settings.slow_interval, settings.processes),
            settings.interval,
            publish,
            self._server_pids,
            lambda: publish(None),
        )
        thread.start()
        try:
            while True:
                await asyncio.sleep(settings.interval)
                self._look_after(thread)
        finally:
            thread.stop()
            # Not asyncio.timeout: before Python 3.11.4 it says nothing in a task that is being cancelled.
            waiting = asyncio.ensure_future(ended.wait())
            if not (await asyncio.wait([waiting], timeout=END_SECONDS))[0]:
                waiting.cancel()
                event(_log, logging.WARNING, "gpu_thread_left_behind", call=thread.doing)

    def _look_after(self, thread: PollThread) -> None:
        """Count a missed poll where the thread hangs in NVML, and drop what is too old."""
        now, since = self._clock(), thread.busy_since
        if since is not None and now - since > self.settings.timeout:
            detail = f"{thread.doing} has not returned for {now - since:.0f} s"
            self.take(PollError(Reason.TIMEOUT, detail))
        self._expire(now)

    def _expire(self, now: float) -> None:
        if self._succeeded_at is None or not self.health.up:
            return
        if now - self._succeeded_at > MISSES * self.settings.interval:
            self.health = replace(self.health, up=False)
            self._down()
            self._tell()

    def _down(self) -> None:
        self.poll = None
        self._windows.clear()

    async def _simulate(self) -> None:
        async with simulated.client_of(self._config) as client:
            while True:
                due = self._clock() + self.settings.interval
                try:
                    self.take(await simulated.poll(client, self._clock()))
                except PollError as error:
                    self.take(error)
                    self._expire(self._clock())
                await asyncio.sleep(max(0.0, due - self._clock()))

    def take(self, found: Opened | GpuPoll | GpuEvent | PollError | simulated.Simulated) -> None:
        """Take what was found; the only way in, and always in the event loop."""
        if isinstance(found, Opened):
            self._opens += 1
            event(_log, logging.INFO, "gpu_driver_opened", driver=found.driver_version, devices=found.devices,
                  without_handle=found.gone)  # fmt: skip
        elif isinstance(found, GpuEvent):
            self._events.add(found)
            event(_log, logging.WARNING, "gpu_event", gpu=found.index, uuid=found.uuid, kind=found.kind,
                  data=found.data)  # fmt: skip
        elif isinstance(found, PollError):
            self._failed(found)
        else:
            self._took(found)
        self._tell()

    def _tell(self) -> None:
        self._samples = None
        self._changed()

    def _took(self, found: GpuPoll | simulated.Simulated) -> None:
        poll = found if isinstance(found, GpuPoll) else found.poll
        self.poll, self._succeeded_at = poll, self._clock()
        self.health = self.health.succeeded(
            last_success=self._wall(),
            seconds=poll.seconds,
            anomalies=Counter(self.health.anomalies) + Counter(poll.anomalies),
        )
        self._windows.append(poll)
        self._most_seen = max(self._most_seen, samples.answering(poll))
        for reading in poll.readings:
            if reading.device.parent is None:
                self._events.know(reading.device.labels, xids_only=not isinstance(found, GpuPoll))
        if isinstance(found, simulated.Simulated):
            for (device, code), count in found.xids.items():
                self._events.set_xid(device.labels, code, count, self._wall())
        self._log_success(poll)

    def _log_success(self, poll: GpuPoll) -> None:
        if self._logged is not None or not self._logged_choice:
            event(_log, logging.INFO, "gpus_up", devices=len(poll.readings))
            self._logged = None
        if poll.chosen_by != self._logged_choice:
            self._logged_choice = poll.chosen_by
            names = ",".join(reading.device.index for reading in poll.readings)
            event(_log, logging.INFO, "gpus_chosen", chosen_by=poll.chosen_by, gpus=names)
        lost = frozenset(reading.device.index for reading in poll.readings if reading.lost)
        for index in sorted(lost - self._logged_lost):
            event(_log, logging.ERROR, "gpu_lost", gpu=index, remedy=GPU_REMEDY[Reason.GPU_LOST])
        for index in sorted(self._logged_lost - lost):
            event(_log, logging.INFO, "gpu_back", gpu=index)
        self._logged_lost = lost

    def _failed(self, error: PollError) -> None:
        self.health = self.health.failed(error.reason, error.detail)
        if not self.health.up:
            self._down()
        if self._logged is not error.reason:
            self._logged = error.reason
            level = logging.INFO if error.reason is Reason.LIBRARY_NOT_FOUND else logging.WARNING
            event(_log, level, "gpus_down", reason=error.reason.value, detail=error.detail,
                  remedy=GPU_REMEDY[error.reason])  # fmt: skip
