"""Builds GPU polls and windows from plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from readings import START, window

from vllm_sidecar.derive.inputs import DeriveSettings, GpuInputs, ServerInputs
from vllm_sidecar.gpu.device_window import GpuWindow
from vllm_sidecar.gpu.polls import GpuDevice, GpuPoll, GpuReading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_sidecar.series.readings import Key
    from vllm_sidecar.series.window import Window
    from vllm_sidecar.vllm.probes.flag_values import FlagValue

EVERY = 5.0


def device(index: int | str, parent: str | None = None, uuid: str = "") -> GpuDevice:
    kind = "MIG" if parent else "GPU"
    return GpuDevice(str(index), uuid or f"{kind}-{index}", "NVIDIA H100", parent=parent)


def values(**fields: float) -> dict[Key, float]:
    """Name fields without their prefix."""
    return {f"gpu_{name}": value for name, value in fields.items()}


def poll(at: float, *readings: Mapping[Key, float] | None, chosen_by: str = "all", present: int = 0) -> GpuPoll:
    """Make a poll of GPUs 0, 1, ...; None is one that is lost."""
    made = (GpuReading(device(i), found or {}, lost=found is None) for i, found in enumerate(readings))
    return GpuPoll(tuple(made), at, 0.01, chosen_by=chosen_by, present=present)


def gpu(*polls: Mapping[Key, float], index: int | str = 0, parent: str | None = None) -> GpuWindow:
    """Make the window of one GPU, polled each 5 s from the time of the engine's first poll on."""
    made = GpuWindow(device(index, parent), 60.0)
    for i, found in enumerate(polls):
        made.append(START + i * EVERY, found)
    return made


def steady(index: int = 0, seconds: float = 60.0, **fields: float) -> GpuWindow:
    """Make the window of a GPU that does the same all the time; energy goes with power."""
    watts = fields.get("power_watts", 0.0)
    times = range(int(seconds / EVERY) + 1)
    return gpu(*(values(**fields) | values(energy_joules_total=1000.0 + watts * i * EVERY) for i in times), index=index)


def server(
    engines: Sequence[Window],
    gpus: Sequence[GpuWindow] | None,
    *,
    flags: Mapping[str, FlagValue] | None = None,
    chosen_by: str = "configured",
    warm: Mapping[str, float] | None = None,
    stall_after: float = 120.0,
) -> ServerInputs:
    """Make the view of a server and its GPUs."""
    beside = None if gpus is None else GpuInputs(gpus, chosen_by, warm or {})
    every = {("m", str(i)): seen for i, seen in enumerate(engines)}
    return ServerInputs(None, flags or {}, None, None, DeriveSettings(stall_after=stall_after), every, beside)


def working(seconds: int = 60, tokens: float = 100.0, **gauges: float) -> Window:
    """Make the window of an engine that generates so many tokens each second."""
    base = {"requests_running": 4, "requests_waiting": 0, **gauges}
    return window(*({**base, "generation_tokens_total": tokens * i, "prompt_tokens_total": 10 * tokens * i}
                    for i in range(seconds + 1)))  # fmt: skip


def frozen(seconds: int = 150, **gauges: float) -> Window:
    """Make the window of an engine with work that does not move."""
    return window(*[{"requests_running": 4, "requests_waiting": 0, "generation_tokens_total": 7, **gauges}] * seconds)
