"""State of the GPUs: takes frames of the child process or the simulator, and publishes them until they are stale."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import GPU_HINTS, GPU_REASONS, PollError, Reason
from vllm_sidecar.gpu import samples, simulated
from vllm_sidecar.gpu.device_window import GpuWindows
from vllm_sidecar.gpu.frames import GpuEvent, Note, Opened
from vllm_sidecar.gpu.polls import GpuPoll
from vllm_sidecar.gpu.supervisor import ChildSettings, Supervisor
from vllm_sidecar.logs import event
from vllm_sidecar.series.health import GPU_ANOMALIES, MAX_FAILED_POLLS, Health

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.config import Config
    from vllm_sidecar.gpu.device_window import GpuWindow
    from vllm_sidecar.gpu.frames import Frame
    from vllm_sidecar.gpu.samples import Samples

SOURCE = "nvml"
MOST_NOTES = 100
_log = logging.getLogger(__name__)


class GpuMonitor:
    """Follows the GPUs of this node continuously; calls back after each change."""

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
        self._most_seen = self._most_present = 0
        self._succeeded_at: float | None = None
        self._logged: Reason | None = None
        self._logged_lost: frozenset[str] = frozenset()
        self._noted: set[Note] = set()
        self._logged_choice = ""
        self._samples: Samples | None = None

    @property
    def windows(self) -> Sequence[GpuWindow]:
        """The recent values of the devices that answer; empty while the source is down."""
        return self._windows.all()

    def samples(self) -> Samples:
        """Return all series; the same object until a change. A bug here affects only the GPUs' series."""
        if self._samples is None:
            try:
                self._samples = self._make()
            except Exception as error:  # noqa: BLE001 - vLLM's metrics are in the same scrape
                event(_log, logging.ERROR, "internal_error", source=SOURCE, exc_info=error)
                self.health = self.health.failed_internally(f"{type(error).__name__}: {error}")
                self._down()
                self._samples = self._make()
        return self._samples

    @property
    def last_success_age(self) -> float | None:
        """Seconds since the last successful poll; None before the first."""
        return None if self._succeeded_at is None else self._clock() - self._succeeded_at

    def resize(self, length: float) -> None:
        """Take another length of the windows."""
        self._windows.resize(length)

    def drop_series(self, error: BaseException) -> None:
        """Drop all series that would look live: `run` ended, which is a bug."""
        self.health = self.health.failed_internally(f"{type(error).__name__}: {error}")
        self._down()
        self._notify()

    def _make(self) -> Samples:
        return samples.make(self.poll, self.health, self._events, self._opens, self._expected())

    def _expected(self) -> int:
        """Return how many devices should answer: as configured, as the servers use, or the most that ever did.

        Servers that use more than ever existed here span several machines, or share GPUs: their sizes are then ignored.
        """
        if self.settings.expected:
            return self.settings.expected
        use = None if self.settings.wanted else self._servers_use()
        return use if use and use <= self._most_present else self._most_seen

    async def run(self) -> None:
        """Follow the GPUs until canceled."""
        if self.settings.simulate:
            await self._simulate()
        else:
            await self._watch()

    async def _watch(self) -> None:
        gpu = self.settings
        child = ChildSettings(gpu.wanted, gpu.interval, gpu.slow_interval, gpu.timeout, gpu.processes)
        await Supervisor(child, self.take, self._server_pids, lambda: self._expire(self._clock())).run()

    def _expire(self, now: float) -> None:
        if self._succeeded_at is None or not self.health.up:
            return
        if now - self._succeeded_at > MAX_FAILED_POLLS * self.settings.interval:
            self.health = replace(self.health, up=False)
            self._down()
            self._notify()

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

    def take(self, found: Frame | simulated.Simulated) -> None:
        """Take a frame; the only input, and always in the event loop."""
        if isinstance(found, Opened):
            self._opens += 1
            event(_log, logging.INFO, "gpu_driver_opened", driver=found.driver_version, devices=found.devices,
                  without_handle=found.without_handle)  # fmt: skip
        elif isinstance(found, GpuEvent):
            self._events.add(found)
            event(_log, logging.WARNING, "gpu_event", gpu=found.index, uuid=found.uuid, kind=",".join(found.kinds),
                  data=found.data)  # fmt: skip
        elif isinstance(found, Note):
            self._take_note(found)
        elif isinstance(found, PollError):
            self._failed(found)
        elif isinstance(found, GpuPoll | simulated.Simulated):
            self._took(found)
        self._notify()

    def _take_note(self, note: Note) -> None:
        """Log the availability of events, once per GPU and cause however often NVML is initialized."""
        if note not in self._noted and len(self._noted) < MOST_NOTES:
            self._noted.add(note)
            event(_log, logging.INFO, note.what, **({"gpu": note.gpu} if note.gpu else {}), detail=note.detail)

    def _notify(self) -> None:
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
        self._most_present = max(self._most_present, poll.present, self._most_seen)
        for reading in poll.readings:
            if reading.device.parent is None:
                self._events.register(*reading.device.labels, xids_only=not isinstance(found, GpuPoll))
        if isinstance(found, simulated.Simulated):
            for (device, code), count in found.xids.items():
                self._events.set_xid(device.uuid, code, count, self._wall())
        self._log_success(poll)

    def _log_success(self, poll: GpuPoll) -> None:
        if self._logged is not None or not self._logged_choice:
            event(_log, logging.INFO, "gpus_up", devices=len(poll.readings))
            self._logged = None
        if poll.chosen_by != self._logged_choice:
            self._logged_choice = poll.chosen_by
            names = ",".join(reading.device.index for reading in poll.readings)
            event(_log, logging.INFO, "gpus_chosen", chosen_by=poll.chosen_by, gpus=names)
        lost = {reading.device.uuid or reading.device.index: reading.device.index
                for reading in poll.readings if reading.lost}  # fmt: skip
        for device in sorted(lost.keys() - self._logged_lost):
            event(_log, logging.ERROR, "gpu_lost", gpu=lost[device], hint=GPU_HINTS[Reason.GPU_LOST])
        for reading in poll.readings:
            if reading.device.uuid in self._logged_lost and not reading.lost:
                event(_log, logging.INFO, "gpu_back", gpu=reading.device.index)
        self._logged_lost = frozenset(lost)

    def _failed(self, error: PollError) -> None:
        self.health = self.health.failed(error.reason, error.detail)
        if not self.health.up:
            self._down()
        if self._logged is not error.reason:
            self._logged = error.reason
            level = logging.INFO if error.reason is Reason.LIBRARY_NOT_FOUND else logging.WARNING
            event(_log, level, "gpus_down", reason=error.reason.value, detail=error.detail,
                  hint=GPU_HINTS[error.reason])  # fmt: skip
