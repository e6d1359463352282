"""The one thread that polls all GPUs: NVML serialises its calls anyway, and one that hangs must hang nothing else."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.gpu.driver import Driver, Plan, reason_of
from vllm_sidecar.gpu.events import EventThread
from vllm_sidecar.gpu.nvml import CallError, Nvml, NvmlFailedError
from vllm_sidecar.model import PollError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.gpu.events import GpuEvent
    from vllm_sidecar.model import GpuPoll

LONGEST_PAUSE = 60.0
"""Seconds between two tries to initialise NVML, however long it has not been there."""
ACCESS_LOST_AFTER = 3
"""Times in a row that NVML ends with an error that it cannot name, before the access to the devices counts as lost."""
EVENTS_END_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Opened:
    """NVML was initialised; `gone` GPUs did not even give a handle."""

    driver_version: str
    devices: int
    gone: int


class PollThread(threading.Thread):
    """Initialises NVML, polls it at an interval, and begins anew, with a growing pause, where it fails.

    What it finds goes to `publish`, which must be safe to call from here: Opened, GpuPoll, GpuEvent or PollError.
    """

    def __init__(
        self,
        plan: Plan,
        interval: float,
        publish: Callable[[Opened | GpuPoll | GpuEvent | PollError], None],
        server_pids: Callable[[], Sequence[int]],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(name="gpu-poller", daemon=True)
        self._plan, self._interval, self._publish, self._server_pids = plan, interval, publish, server_pids
        self._ended = ended
        self._stopping = threading.Event()
        self._nvml: Nvml | None = None
        self._unknown = 0
        self._worked = False
        self._began: float | None = None

    @property
    def busy_since(self) -> float | None:
        """Monotonic time since when it has been in one call of NVML; None while it sleeps."""
        began, nvml = self._began, self._nvml
        return began if began is None or nvml is None else max(began, nvml.called_at)

    @property
    def doing(self) -> str:
        """The call that it is in, or was in last."""
        nvml = self._nvml
        return f"{nvml.doing}{nvml.about}" if nvml else "nvmlInitWithFlags"

    def stop(self) -> None:
        """Ask it to release NVML and end; one that hangs in NVML does not."""
        self._stopping.set()

    def run(self) -> None:
        """Poll until stopped."""
        pause = self._interval
        while not self._stopping.is_set():
            self._worked = False
            try:
                self._use_driver()
            except NvmlFailedError as error:
                self._publish(PollError(self._reason(error.reason), error.detail))
            except Exception as error:  # noqa: BLE001 - the thread must go on; the event loop logs it
                self._publish(PollError(Reason.INTERNAL, f"{type(error).__name__}: {error}"))
            finally:
                self._began = None
            pause = self._interval if self._worked else pause
            self._stopping.wait(pause)
            pause = min(2.0 * pause, LONGEST_PAUSE)
        self._ended()

    def _reason(self, reason: Reason) -> Reason:
        """Tell a passing error from devices that the container lost for good: again and again the same, unnamed one."""
        self._unknown = self._unknown + 1 if reason is Reason.NVML_ERROR else 0
        return Reason.DEVICE_ACCESS_LOST if self._unknown >= ACCESS_LOST_AFTER else reason

    def _use_driver(self) -> None:
        """Poll until stopped, until NVML fails, or until there are other devices than at the start."""
        self._nvml, self._began = None, time.monotonic()
        nvml = self._nvml = Nvml()
        events: EventThread | None = None
        try:
            driver = Driver(nvml, self._plan, self._server_pids)
            self._publish(Opened(driver.driver_version, len(driver.devices), len(driver.gone)))
            events = EventThread(nvml, driver.devices, self._publish)
            events.start()
            try:
                self._poll(driver)
            finally:
                driver.close()
        except CallError as error:
            raise NvmlFailedError(reason_of(error), str(error)) from None
        finally:
            self._release(nvml, events)

    def _poll(self, driver: Driver) -> None:
        while not (self._stopping.is_set() or driver.outdated):
            now = self._began = time.monotonic()
            self._publish(driver.poll(now))
            self._unknown, self._worked = 0, True
            self._began = None
            self._stopping.wait(max(0.0, now + self._interval - time.monotonic()))

    def _release(self, nvml: Nvml, events: EventThread | None) -> None:
        """Shut NVML down, so that the driver can be unloaded; not under the feet of the other thread."""
        if events is not None:
            events.stop()
            events.join(EVENTS_END_SECONDS)
            if events.is_alive():
                return
        nvml.close()
