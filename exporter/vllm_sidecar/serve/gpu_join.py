"""The GPUs of a server, and their memory in use when the server was warm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.derive.inputs import GpuInputs
from vllm_sidecar.derive.placement import placement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_sidecar.gpu.monitor import GpuMonitor
    from vllm_sidecar.series.store import WindowStore
    from vllm_sidecar.vllm.probes.flag_values import FlagValue

USED = "gpu_memory_used_bytes"


def gpus_here(flags: Mapping[str, FlagValue], *, local: bool) -> int | None:
    """Return how many GPUs of this machine a server uses: 0 if it runs elsewhere, None if unknown."""
    return placement(flags).here if local else 0


class GpuJoin:
    """Joins one server with the GPUs of its node, if they are its own.

    A server counts as warm once it has generated tokens for the length of a window without a restart: graphs are
    captured, workspaces are allocated, and memory should no longer grow.
    """

    def __init__(self, gpus: Callable[[], GpuMonitor | None], warm_up: float, *, local: bool) -> None:
        self._gpus = gpus
        self._local = local
        """The server is reached through the loopback or a socket, so it is on this machine or in this pod."""
        self.warm_up = warm_up
        """Seconds of work after which a server counts as warm."""
        self._working_since: float | None = None
        self._warm: dict[str, float] = {}

    def follow(self, windows: WindowStore, now: float, *, restarted: bool) -> None:
        """Process a poll of the server at the monotonic time `now`."""
        if restarted:
            self._working_since = None
            self._warm.clear()
        if self._working_since is None and _has_generated(windows):
            self._working_since = now
        if self._working_since is None or now - self._working_since < self.warm_up:
            return
        monitor = self._gpus()
        for gpu in monitor.windows if monitor else ():
            used = gpu.latest.get(USED)
            if used is not None:
                self._warm.setdefault(gpu.device.uuid, used)

    def view(self, windows: WindowStore) -> GpuInputs | None:
        """Return the inputs of derivations; None without GPUs, or if they may belong to another server."""
        monitor = self._gpus()
        if monitor is None or monitor.poll is None or not windows.of(Scope.ENGINE):
            return None
        if monitor.poll.chosen_by == "all" and not self._local:
            return None
        return GpuInputs(monitor.windows, monitor.poll.chosen_by, dict(self._warm))


def _has_generated(windows: WindowStore) -> bool:
    engines = windows.of(Scope.ENGINE).values()
    return any(window.latest.counters.get("generation_tokens_total", 0.0) > 0.0 for window in engines)
