"""Inputs of a derivation: the windows of its scope and the facts about the server. Plain values, no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_sidecar.series.front_end import FrontEnd
from vllm_sidecar.series.good_observations import objectives_of
from vllm_sidecar.series.step_costs import FIRST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_sidecar.gpu.device_window import GpuWindow
    from vllm_sidecar.series.good_observations import Objective
    from vllm_sidecar.series.readings import Adapters
    from vllm_sidecar.series.window import Window
    from vllm_sidecar.vllm.probes.flag_values import FlagValue


STANDARD_FIRST_TOKEN = 2.5
"""Seconds: the objective of the profile `standard`."""


@dataclass(frozen=True, slots=True)
class DeriveSettings:
    """The settings that derivations use."""

    min_observations: int = 5
    """Fewest observations for which a quantile is exported."""
    stall_after: float = 120.0
    """Seconds without progress after which work in flight is a stall."""
    max_adapters: int = 100
    objectives: Sequence[Objective] = ()
    """Objectives of latencies."""

    def first_token_seconds(self, model: str) -> float:
        """Return the shortest objective for the time to the first token; `STANDARD_FIRST_TOKEN` without one."""
        found = [each.threshold for each in objectives_of(self.objectives, model) if each.histogram == FIRST]
        return min(found, default=STANDARD_FIRST_TOKEN)


@dataclass(frozen=True, slots=True)
class GpuInputs:
    """The GPUs of a server: their windows, and how they were chosen (see `gpu.nvml.selection`)."""

    windows: Sequence[GpuWindow]
    chosen_by: str = "configured"
    warm: Mapping[str, float] = field(default_factory=dict)
    """Bytes in use at the end of the server's warm-up, by UUID."""


@dataclass(frozen=True, slots=True)
class ServerInputs:
    """The target: its own window (HTTP counters; None without any), flags, adapters and sleep."""

    window: Window | None = None
    flags: Mapping[str, FlagValue] = field(default_factory=dict)
    adapters: Adapters | None = None
    requests_in_flight: float | None = None
    """Open HTTP requests from `/load`; None without --enable-server-load-tracking."""
    settings: DeriveSettings = field(default_factory=DeriveSettings)
    engines: Mapping[tuple[str, ...], Window] = field(default_factory=dict)
    """Windows of all engines by model name and engine."""
    gpus: GpuInputs | None = None
    """None if no GPU can be read, or if it is unknown which server uses them."""
    front_end: FrontEnd = field(default_factory=FrontEnd)
    """Signs of waiting clients."""
    adapters_in_use: int = 0
    """Different LoRA adapters with requests in the window."""

    def flag(self, name: str) -> float | None:
        """Return a numeric flag of the server; None if no source exposes it or it is not above 0."""
        value = self.flags.get(name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else None


@dataclass(frozen=True, slots=True)
class EngineInputs:
    """One engine of one model."""

    model_name: str
    window: Window
    server: ServerInputs
    cache_config: Mapping[str, str] = field(default_factory=dict)
    engines: int = 1
    """How many engines the server reports; vLLM exposes the sum of their KV blocks on each."""
    shared: dict[str, object] = field(default_factory=dict, compare=False, repr=False)
    """Results that several derivations of this poll use."""


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """One model over all its engines; `window` has its counters without an engine label, None without any."""

    windows: Mapping[str, Window]
    window: Window | None
    server: ServerInputs
    work: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Engine -> labels that separate its work from that of others, such as the stage of a pipeline; empty for most."""
