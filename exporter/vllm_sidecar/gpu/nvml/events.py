"""XIDs and other events: they occur once, at any time; NVML queues them between two waits, but not before the first.

Events before registration are not delivered, so alerts use the driver's recovery action, which is a state.
"""

from __future__ import annotations

import ctypes
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vllm_sidecar.gpu.nvml.binding import TIMEOUT, CallError, GpuLostError, NvmlFailedError, UnsupportedError
from vllm_sidecar.gpu.nvml.mig import MigInstance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.gpu.nvml.binding import Nvml
    from vllm_sidecar.gpu.nvml.device import Gpu

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before registering again after a failure; doubled each time."""
NO_INSTANCE = 0xFFFFFFFF


class Events:
    """Registers for the events of all GPUs and waits for them between two polls.

    Events are published as `event`; `note` reports, once each time, that events are unsupported or interrupted.
    """

    def __init__(
        self, nvml: Nvml, gpus: Sequence[Gpu], types: int, publish: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self._nvml, self._types, self._publish = nvml, types, publish
        self._gpus = [gpu for gpu in gpus if not isinstance(gpu, MigInstance)]
        self._instances = {
            (gpu.parent.device.uuid, gpu.instance): gpu for gpu in gpus if isinstance(gpu, MigInstance)
        }  # fmt: skip
        self._by_handle = {_address(gpu.handle): gpu for gpu in self._gpus}
        self._set: Any = None
        self._due = 0.0
        self._pause = FIRST_PAUSE
        self._interrupted = False

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for an event and publish it; False if none arrived, at once if none can."""
        if self._set is None and not self._registered():
            return False
        try:
            data = self._nvml.call("nvmlEventSetWait_v2", self._set, max(0, int(seconds * 1e3)))
        except (CallError, NvmlFailedError) as error:
            if isinstance(error, CallError) and error.code == TIMEOUT:
                self._pause, self._interrupted = FIRST_PAUSE, False
            elif isinstance(error, UnsupportedError):
                self._give_up(error)
            else:
                self._interrupt(error)
            return False
        self._took(data)
        return True

    def _registered(self) -> bool:
        """Register all GPUs if it is due; a GPU that refuses has no events, which does not mean that it is healthy."""
        if time.monotonic() < self._due:
            return False
        try:
            self._set = self._nvml.call("nvmlEventSetCreate")
            wanted = [self._register(gpu) for gpu in self._gpus]
        except UnsupportedError as error:
            self._give_up(error)
        except (CallError, NvmlFailedError) as error:
            self._interrupt(error)
        else:
            if not any(wanted):
                self._give_up(None)
        return self._set is not None

    def _register(self, gpu: Gpu) -> bool:
        """Register one GPU for the counted types that it supports."""
        self._nvml.about = f" of GPU {gpu.device.index}"
        try:
            types = self._nvml.call("nvmlDeviceGetSupportedEventTypes", gpu.handle) & self._types
            if types:
                self._nvml.call("nvmlDeviceRegisterEvents", gpu.handle, types, self._set)
            gpu.events = bool(types)
        except GpuLostError:
            gpu.events = False
        except CallError as error:
            gpu.events = False
            self._publish("note", {"what": "gpu_without_events", "gpu": gpu.device.index, "detail": str(error)})
        finally:
            self._nvml.about = ""
        return gpu.events

    def _interrupt(self, error: Exception) -> None:
        """Register again after a pause; reported once, regardless of the number of failures."""
        self.close()
        self._due = time.monotonic() + self._pause
        self._pause = min(2.0 * self._pause, LONGEST_PAUSE)
        if not self._interrupted:
            self._interrupted = True
            self._publish("note", {"what": "gpu_events_interrupted", "detail": str(error)})

    def _give_up(self, error: Exception | None) -> None:
        """Continue without events until NVML is initialized again: the driver does not support them."""
        self.close()
        self._due = float("inf")
        if error is not None:
            self._publish("note", {"what": "gpu_events_unsupported", "detail": str(error)})

    def _took(self, data: Any) -> None:
        gpu = self._by_handle.get(_address(data.device))
        if gpu is None:
            return
        if data.gpuInstanceId != NO_INSTANCE:
            gpu = self._instances.get((gpu.device.uuid, data.gpuInstanceId), gpu)
        self._publish(
            "event",
            {
                "index": gpu.device.index,
                "uuid": gpu.device.uuid,
                "types": int(data.eventType),
                "data": int(data.eventData),
                "at": time.time(),
            },
        )

    def close(self) -> None:
        """Release the registration."""
        for gpu in self._gpus:
            gpu.events = False
        if self._set is not None:
            with suppress(CallError, NvmlFailedError):
                self._nvml.call("nvmlEventSetFree", self._set)
            self._set = None


def _address(handle: Any) -> int:
    """Return the address in a handle, which identifies the device of an event."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
