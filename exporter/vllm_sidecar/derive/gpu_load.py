"""How many GPUs are busy, and how many of them are explained by engines that make progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.derive.placement import gpus_of_engine, placement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.derive.inputs import ServerInputs
    from vllm_sidecar.gpu.device_window import GpuWindow
    from vllm_sidecar.series.window import Window

BUSY_FROM = 0.9
"""Lowest utilization of a busy GPU: a hung collective spins at 1."""
UTILIZATION = "gpu_utilization_ratio"


def whole(windows: Sequence[GpuWindow]) -> list[GpuWindow]:
    """Return the windows of GPUs that are not split by MIG between several users."""
    split = {window.device.parent for window in windows}
    return [window for window in windows if window.device.parent is None and window.device.uuid not in split]


def gpus_per_engine(server: ServerInputs) -> int | None:
    """Return how many GPUs one engine uses; None if no source exposes its tensor parallel size."""
    return gpus_of_engine(server.flags) if server.flag("tensor_parallel_size") else None


def ours(server: ServerInputs) -> list[GpuWindow]:
    """Return GPUs of the server, perhaps not all of them; none if GPUs of others may be among them.

    If it is unknown which GPUs vLLM uses (`all`), they are its own if there is only one, or no more than its parallel
    sizes require: a pod may see all GPUs of its node and use one.
    """
    gpus = server.gpus
    if gpus is None:
        return []
    found = whole(gpus.windows)
    if gpus.chosen_by == "all":
        where = placement(server.flags)
        return found if len(found) <= (where.here or where.in_all or 1) else []
    return found


def all_of_ours(server: ServerInputs) -> list[GpuWindow]:
    """Return all GPUs of the server; none if some may be in other machines, or are lost."""
    found, where = ours(server), placement(server.flags)
    if where.in_all is None:
        return found
    elsewhere = where.here is not None and where.here < where.in_all
    return [] if elsewhere or len(found) < where.in_all else found


def busy(server: ServerInputs, since: float) -> list[GpuWindow]:
    """Return the server's GPUs that have been busy since a (monotonic) time; never those without utilization."""
    return [w for w in ours(server) if (mean := w.mean(UTILIZATION, since)) is not None and mean >= BUSY_FROM]


def unexplained(server: ServerInputs, engine: Window, since: float) -> list[GpuWindow]:
    """Return the busy GPUs if there are more than the other engines can keep busy; otherwise none.

    An engine that made progress since then explains as many GPUs as it uses; if that is unknown, all.
    """
    found = busy(server, since)
    others = sum(other.progress.progress_at > since for other in server.engines.values() if other is not engine)
    if not others:
        return found
    each = gpus_per_engine(server)
    return found if each is not None and len(found) > others * each else []
