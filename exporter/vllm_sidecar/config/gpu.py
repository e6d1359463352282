"""The configuration of GPUs."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from vllm_sidecar.config.section import Section, written
from vllm_sidecar.config.values import Seconds, described, format_duration, not_allowed

SHORTEST_INTERVAL = 0.2
_DEVICE = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z-]+|\d{1,4}(?::\d)?", re.ASCII)
_WORDS = ("auto", "all", "none")


def _devices(value: object) -> str | tuple[str, ...]:
    """Read `auto`, `all`, `none`, or a list of indices and UUIDs."""
    if isinstance(value, str) and value in _WORDS:
        return value
    items = value if isinstance(value, list | tuple) else ()
    names = tuple(str(item) for item in items if isinstance(item, int | str) and not isinstance(item, bool))
    if not names or len(names) < len(items) or not all(map(_DEVICE.fullmatch, names)):
        raise not_allowed("auto, all, none, or a list of indices (0, or 0:1 for a MIG instance) and UUIDs (GPU-, MIG-)")
    return names


_DEVICE_SCHEMA = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^(?:{_DEVICE.pattern})$"}]
}
Devices = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_devices),
    described(
        anyOf=[
            {"enum": [*_WORDS]},
            {"type": "array", "minItems": 1, "items": _DEVICE_SCHEMA},
        ]
    ),
]


class GpuSettings(Section):
    """The GPUs of this node."""

    devices: Devices = Field(
        default="auto",
        description="auto (those that vLLM uses, otherwise all), all, none, or a list of indices and UUIDs.",
    )
    interval: Seconds = written("5s", "Time between two polls of the fast fields; at least 200ms.")
    slow_interval: Seconds = written("60s", "Time between two polls of the slow fields; at least interval.")
    timeout: Seconds = written(
        "10s", "A call to the driver that takes longer counts as hung, and its process is replaced."
    )
    processes: bool = Field(default=False, description="Count the processes on each GPU; an expensive call.")
    expected: int | None = Field(
        default=None,
        ge=1,
        description="Number of GPUs that should answer; by default as vLLM's parallel sizes require on this machine, "
        "otherwise the most that ever answered.",
    )
    only: bool = Field(default=False, description="Watch GPUs but no vLLM server, for a DaemonSet.")
    simulate: bool = Field(default=False, description="Take the GPUs from vllm-sidecar's simulator instead of NVML.")

    @property
    def wanted(self) -> tuple[str, ...] | None:
        """Indices and UUIDs to read; empty for all, None for those that vLLM uses."""
        if isinstance(self.devices, tuple):
            return self.devices
        return None if self.devices == "auto" else ()

    @property
    def enabled(self) -> bool:
        """Whether GPUs are read."""
        return self.devices != "none"

    @field_validator("interval")
    @classmethod
    def _not_too_often(cls, value: float) -> float:
        if value < SHORTEST_INTERVAL:
            raise not_allowed("at least 200ms, because each poll takes the driver's lock")
        return value

    @field_validator("slow_interval")
    @classmethod
    def _not_below_interval(cls, value: float, info: ValidationInfo) -> float:
        interval = info.data.get("interval")
        if interval is not None and value < interval:
            raise not_allowed(f"at least interval ({format_duration(interval)})")
        return value

    @field_validator("only", "simulate")
    @classmethod
    def _needs_gpus(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("devices") == "none":
            raise not_allowed("false where devices is none")
        if value and info.data.get("only"):
            raise not_allowed("false with only: the simulated GPUs belong to a simulated vLLM server")
        return value
