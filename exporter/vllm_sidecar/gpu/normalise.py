"""Raw values of NVML -> base units under the catalog's names; what cannot be true is left out and counted."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.gpu import FIELDS_BY_NAME, PREFIX

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from vllm_sidecar.catalog.gpu import GpuField
    from vllm_sidecar.model import Key

Raw = dict[tuple[str, ...], float]
"""Name of a field without its prefix, then the values of its labels -> raw value."""

SENTINELS = frozenset((2.0**32 - 1, 2.0**64 - 1, 2.0**63))
"""All ones in 32 or 64 bits: NVML's "not available" that comes with SUCCESS."""


def normalise(
    raw: Mapping[tuple[str, ...], float], anomalies: Counter[str], *, scaled: bool = False
) -> dict[Key, float]:
    """Return the values in base units by signal and labels.

    Args:
        raw: As NVML says them; unknown names raise KeyError.
        anomalies: Counts what is left out: sentinel, zero, out_of_range, not_finite, negative.
        scaled: They are in base units already (the simulator's are).
    """
    values: dict[Key, float] = {}
    for key, value in raw.items():
        field = FIELDS_BY_NAME[key[0]]
        number = float(value)
        wrong = _wrong(number, number * (1.0 if scaled else field.factor), field)
        if wrong:
            anomalies[wrong] += 1
            continue
        name = PREFIX + key[0]
        values[(name, *key[1:]) if len(key) > 1 else name] = number * (1.0 if scaled else field.factor)
    return values


def _wrong(raw: float, value: float, field: GpuField) -> str | None:
    if not isfinite(raw):
        return "not_finite"
    if raw in SENTINELS:
        return "sentinel"
    if value < field.least:
        return "negative"
    if value > field.most:
        return "out_of_range"
    return "zero" if field.zero_is_wrong and value == 0.0 else None
