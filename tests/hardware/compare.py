"""Values of the sidecar against readings of another program before and after: which of them do not agree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TOLERANCES: dict[str, tuple[float, float]] = {
    "utilization_ratio": (0.3, 0.0),
    "memory_used_bytes": (64e6, 0.02),
    "memory_reserved_bytes": (64e6, 0.05),
    "power_watts": (25.0, 0.25),
    "sm_clock_hertz": (50e6, 0.3),
    "memory_clock_hertz": (50e6, 0.3),
    "temperature_celsius": (5.0, 0.0),
    "temperature_margin_celsius": (5.0, 0.0),
    "memory_temperature_celsius": (5.0, 0.0),
    "sm_active_ratio": (0.25, 0.0),
    "tensor_active_ratio": (0.25, 0.0),
    "dram_active_ratio": (0.25, 0.0),
    "energy_joules_total": (0.0, 1e-9),
}
"""By how much a value may be outside of the two readings: absolute, and relative to the larger one. Else not at all."""
OLDER = ("throttle_seconds_total|thermal", "nvlink_errors_total|crc_flit", "nvlink_errors_total|crc_data",
         "nvlink_errors_total|replay", "nvlink_errors_total|recovery")  # fmt: skip
"""What only GPUs before Hopper have, and is not held against anything."""
SMI = {
    "memory_total_bytes": ("memory.total", 1 << 20),
    "memory_used_bytes": ("memory.used", 1 << 20),
    "power_watts": ("power.draw", 1.0),
    "power_limit_watts": ("enforced.power.limit", 1.0),
    "power_default_limit_watts": ("power.default_limit", 1.0),
    "sm_clock_hertz": ("clocks.sm", 1e6),
    "memory_clock_hertz": ("clocks.mem", 1e6),
    "sm_clock_max_hertz": ("clocks.max.sm", 1e6),
    "memory_clock_max_hertz": ("clocks.max.mem", 1e6),
    "temperature_celsius": ("temperature.gpu", 1.0),
    "utilization_ratio": ("utilization.gpu", 0.01),
    "pcie_link_generation": ("pcie.link.gen.current", 1.0),
    "pcie_link_max_generation": ("pcie.link.gen.max", 1.0),
    "pcie_link_width": ("pcie.link.width.current", 1.0),
    "pcie_link_max_width": ("pcie.link.width.max", 1.0),
    "ecc_volatile_errors_total|corrected": ("ecc.errors.corrected.volatile.total", 1.0),
    "ecc_volatile_errors_total|uncorrected": ("ecc.errors.uncorrected.volatile.total", 1.0),
    "ecc_aggregate_errors_total|corrected": ("ecc.errors.corrected.aggregate.total", 1.0),
    "ecc_aggregate_errors_total|uncorrected": ("ecc.errors.uncorrected.aggregate.total", 1.0),
    "remapped_rows_total|corrected": ("remapped_rows.correctable", 1.0),
    "remapped_rows_total|uncorrected": ("remapped_rows.uncorrectable", 1.0),
}
"""Field -> its name in nvidia-smi, and that one's unit; nvidia-smi rounds to a hundredth or to one of its units."""
_SAMPLE = re.compile(r'vllm_sidecar_gpu_(\w+)\{gpu="[^"]*",uuid="([^"]+)"(?:,\w+="([^"]*)")?\} (\S+)')


class Row(NamedTuple):
    """One value: of which GPU, what the sidecar says (None for absent), and between what it should be."""

    uuid: str
    name: str
    value: float | None
    low: float | None
    high: float | None

    @property
    def agrees(self) -> bool:
        """Whether it is within tolerance; absent has to be absent on both sides."""
        if self.value is None or self.low is None or self.high is None:
            return self.value is None and self.low is None
        absolute, relative = TOLERANCES.get(self.name.partition("|")[0], (0.0, 0.0))
        slack = absolute + relative * max(abs(self.low), abs(self.high))
        return self.low - slack <= self.value <= self.high + slack


def values(metrics: str, fields: Iterable[str]) -> dict[str, dict[str, float]]:
    """Read the sidecar's fields off its metrics: UUID -> name and label -> value."""
    known, found = set(fields), dict[str, dict[str, float]]()
    for line in metrics.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match and match[1] in known:
            found.setdefault(match[2], {})[f"{match[1]}|{match[3]}" if match[3] is not None else match[1]] = float(
                match[4]
            )
    return found


def of_smi(name: str, text: str) -> tuple[float, float] | None:
    """Read what nvidia-smi prints for a field: between what the value is, for it is rounded; None where it has none."""
    unit = SMI[name][1]
    try:
        number = float(text)
    except ValueError:  # [N/A], [Not Supported]
        return None
    rounding = 0.01 if "." in text else 1.0 if unit > 1.0 else 0.0
    return (number - rounding) * unit, (number + rounding) * unit


def compare(
    said: Mapping[str, Mapping[str, float]],
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
) -> Iterator[Row]:
    """Yield a row for each value that either side has; a reading of 0 that the sidecar leaves out is no value."""
    for uuid in before:
        of_gpu, first, last = said.get(uuid, {}), before[uuid], after.get(uuid, {})
        for name in sorted(of_gpu.keys() | first.keys()):
            if name in OLDER:
                continue
            both = [readings[name] for readings in (first, last) if name in readings]
            row = Row(uuid, name, of_gpu.get(name), min(both, default=None), max(both, default=None))
            if not (row.value is None and row.high == 0.0):
                yield row
