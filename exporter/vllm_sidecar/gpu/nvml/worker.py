"""The loop of the process that calls NVML: polls at an interval, waits for events in between, and ends with its parent.

It writes lines of JSON, `[kind, content]`, to its original standard output:

    opened    NVML was initialized
    poll      all chosen devices, in NVML's values
    event     an event of one device
    note      a change in the availability of events, for the log
    failed    why it ends: a reason of the sidecar, and a detail
    outdated  it ends because the set of devices has changed since its start

It reads `plan` from its standard input, then `pids` whenever vLLM's processes change. It ends when its standard input
does.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vllm_sidecar.gpu.nvml.binding import CallError, Nvml, NvmlFailedError, reason_of
from vllm_sidecar.gpu.nvml.call_page import CallPage
from vllm_sidecar.gpu.nvml.driver import Driver, DriverSettings
from vllm_sidecar.gpu.nvml.events import Events

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_WAIT = 0.3
"""Longest wait for events in seconds, during which it does not read from its parent, nor notice its parent's end."""
_PR_SET_PDEATHSIG = 1
_MOST_INPUT = 1 << 16


class Worker:
    """Reads requests from one file, writes frames to another, and calls NVML in between."""

    def __init__(self, requests: int, frames: int, page: CallPage) -> None:
        self._requests, self._frames, self._page = requests, frames, page
        self._pending = b""
        self._ended = False
        self._pids: Sequence[int] = ()
        self._settings: dict[str, Any] = {}

    def run(self) -> None:
        """Wait for the plan and execute it until the parent ends, NVML fails, or the set of devices changes."""
        while not (self._settings or self._ended):
            self._listen(None)
        if self._ended:
            return
        try:
            self._use_nvml()
        except NvmlFailedError as error:
            self._send("failed", {"reason": error.reason, "detail": error.detail})
        except CallError as error:
            self._send("failed", {"reason": reason_of(error), "detail": str(error)})
        except Exception as error:  # noqa: BLE001 - the parent says it to the user, who must not see a traceback
            self._send("failed", {"reason": "internal", "detail": f"{type(error).__name__}: {error}"})

    def _use_nvml(self) -> None:
        settings = self._settings
        nvml = Nvml(self._page.write)
        try:
            driver = Driver(nvml, DriverSettings(settings["wanted"], settings["slow_interval"], settings["processes"]))
            self._send("opened", {"driver": driver.driver_version, "nvml": driver.nvml_version,
                                  "devices": len(driver.devices),
                                  "without_handle": len(driver.without_handle)})  # fmt: skip
            events = Events(nvml, driver.devices, settings["event_types"], self._send)
            try:
                self._poll(driver, events)
            finally:
                events.close()
                driver.close()
        finally:
            nvml.close()

    def _poll(self, driver: Driver, events: Events) -> None:
        interval = self._settings["interval"]
        while not self._ended:
            now = time.monotonic()
            self._send("poll", driver.poll(now, self._pids))
            if driver.outdated:
                self._send("outdated", {})
                return
            while (left := now + interval - time.monotonic()) > 0.0 and not self._ended:
                self._wait(events, min(left, self._settings["heartbeat"], LONGEST_WAIT))

    def _wait(self, events: Events, seconds: float) -> None:
        """Wait up to a time limit, for events if they are available."""
        until = time.monotonic() + seconds
        came = events.wait(seconds)
        self._page.write("waiting for the next poll")
        # If there are no events to wait for, or a driver returns at once, the rest of the time is waited here.
        self._listen(0.0 if came else max(0.0, until - time.monotonic()))

    def _listen(self, seconds: float | None) -> None:
        """Read requests from the parent, waiting up to a time limit (None: without limit)."""
        if not select.select([self._requests], [], [], seconds)[0]:
            return
        data = os.read(self._requests, _MOST_INPUT)
        if not data:
            self._ended = True
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            kind, content = json.loads(line)
            if kind == "plan":
                self._settings = content
            elif kind == "pids":
                self._pids = content

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        data = memoryview(json.dumps([kind, content]).encode() + b"\n")
        while data:
            data = data[os.write(self._frames, data) :]


def main(page: int) -> None:
    """Serve the parent; `page` is the file of the call page."""
    _depend_on_parent()
    frames = os.dup(1)
    os.dup2(2, 1)  # output of a library must not mix with the frames
    with suppress(BrokenPipeError):  # the parent has ended
        Worker(0, frames, CallPage(page)).run()
    os._exit(0)  # without the finalizers of the driver's library, which are not needed here


def _depend_on_parent() -> None:
    """End with the parent in any case, and ignore signals before, so that the parent ends it in order."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
