"""XIDs and other events, waited for in a thread of their own: they come once, at any time, and NVML keeps none.

Nothing that happens before registration is delivered, so the driver's recovery action, a state, is what to alert on.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.gpu import EVENTS
from vllm_sidecar.gpu.mig import MigInstance
from vllm_sidecar.gpu.nvml import CallError, GoneError, NvmlFailedError, error_of
from vllm_sidecar.log import event as log_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.gpu.device import Gpu
    from vllm_sidecar.gpu.nvml import Nvml

WAIT_MS = 400
"""How long one wait lasts: the longest that the end of the program waits for it."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before registering again after a failure; doubled each time."""
NO_INSTANCE = 0xFFFFFFFF
TIMEOUT = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """One event: whose, what (a name of the catalog), NVML's data (the code of an XID), and its Unix time."""

    index: str
    uuid: str
    kind: str
    data: int
    at: float


class EventThread(threading.Thread):
    """Waits for events of all GPUs and hands each to `publish`."""

    def __init__(self, nvml: Nvml, gpus: Sequence[Gpu], publish: Callable[[GpuEvent], None]) -> None:
        super().__init__(name="gpu-events", daemon=True)
        self._module = nvml.module
        self._gpus = [gpu for gpu in gpus if not isinstance(gpu, MigInstance)]
        self._instances = {
            (gpu.parent.device.uuid, gpu.instance): gpu for gpu in gpus if isinstance(gpu, MigInstance)
        }  # fmt: skip
        self._by_handle = {_address(gpu.handle): gpu for gpu in self._gpus}
        self._publish = publish
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask it to end; it does within one wait, unless NVML hangs."""
        self._stopping.set()

    def run(self) -> None:
        """Register and wait, again after each failure, until stopped."""
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._follow()
            except (CallError, NvmlFailedError) as error:
                log_event(_log, logging.WARNING, "gpu_events_interrupted", detail=str(error), again_in_seconds=pause)
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            self._stopping.wait(pause)
            pause = min(2.0 * pause, LONGEST_PAUSE)

    def _call(self, function: str, *arguments: object) -> Any:
        try:
            return getattr(self._module, function)(*arguments)
        except self._module.NVMLError as error:
            raise error_of(error.value, f"{function}: {error} (code {error.value})") from None

    def _follow(self) -> None:
        """Register all GPUs and hand on their events until stopped."""
        events = self._call("nvmlEventSetCreate")
        try:
            self._register(events)
            while not self._stopping.is_set():
                try:
                    data = self._call("nvmlEventSetWait_v2", events, WAIT_MS)
                except CallError as error:
                    if error.code != TIMEOUT:
                        raise
                    continue
                self._took(data)
        finally:
            for gpu in self._gpus:
                gpu.events = False
            with suppress(CallError, NvmlFailedError):
                self._call("nvmlEventSetFree", events)

    def _register(self, events: Any) -> None:
        """Register for what each GPU supports; one that refuses is without events, which is no sign of health."""
        known = sum(EVENTS.values())
        for gpu in self._gpus:
            try:
                types = self._call("nvmlDeviceGetSupportedEventTypes", gpu.handle) & known
                if types:
                    self._call("nvmlDeviceRegisterEvents", gpu.handle, types, events)
                gpu.events = bool(types)
            except GoneError:
                continue
            except CallError as error:
                log_event(_log, logging.INFO, "gpu_without_events", gpu=gpu.device.index, detail=str(error))

    def _took(self, data: Any) -> None:
        gpu = self._by_handle.get(_address(data.device))
        if gpu is None:
            return
        if data.gpuInstanceId != NO_INSTANCE:
            gpu = self._instances.get((gpu.device.uuid, data.gpuInstanceId), gpu)
        for kind, bit in EVENTS.items():
            if data.eventType & bit:
                self._publish(GpuEvent(*gpu.device.labels, kind, int(data.eventData), time.time()))


def _address(handle: Any) -> int:
    """Return the address behind a handle, by which the device of an event is known."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
