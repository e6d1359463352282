"""The loop of the process that calls NVML: polls at an interval, waits for events in between, ends with its parent.

It speaks in lines of JSON, `[kind, content]`, on what was its standard output:

    opened    NVML was initialised
    poll      all chosen devices, as NVML says it
    event     an event of one device
    note      something about events that is worth a line in the log
    failed    why it ends: a reason of the sidecar, and a detail
    outdated  it ends because there are other devices than at the start

On its standard input it gets `plan` first, then `pids` whenever vLLM's processes change. The end of that is its own.
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
"""Seconds of one wait for events, in which nothing that the parent says is heard, and so not its end."""
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
        """Wait for the plan and carry it out until the parent ends, NVML fails, or there are other devices."""
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
                                  "devices": len(driver.devices), "gone": len(driver.gone)})  # fmt: skip
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
        """Let time pass, at most so long, for events where there can be any."""
        until = time.monotonic() + seconds
        came = events.wait(seconds)
        self._page.write("waiting for the next poll")
        # Where there is nothing to wait with, or a driver returns at once, the rest is waited for here.
        self._listen(0.0 if came else max(0.0, until - time.monotonic()))

    def _listen(self, seconds: float | None) -> None:
        """Take what the parent says, waiting for it as long as this (None: without end)."""
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
    os.dup2(2, 1)  # what a library prints must not get among the frames
    with suppress(BrokenPipeError):  # the parent is gone
        Worker(0, frames, CallPage(page)).run()
    os._exit(0)  # without the finalisers of the driver's library, which nobody needs here


def _depend_on_parent() -> None:
    """End with the parent whatever happens, and leave it to the parent to end before."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
