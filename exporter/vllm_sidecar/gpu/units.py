"""Raw values of NVML -> base units under the catalog's names; impossible values are left out and counted."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.gpu_fields import (
    FABRIC_CHECKS,
    FABRIC_STATES,
    FIELDS_BY_NAME,
    PREFIX,
    RECOVERY_ACTIONS,
    THROTTLE_BITS,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Mapping

    from vllm_sidecar.catalog.gpu_fields import GpuField
    from vllm_sidecar.series.readings import Key

Raw = dict[tuple[str, ...], float]
"""Name of a field without its prefix, then the values of its labels -> raw value."""

SENTINELS = frozenset((2.0**32 - 1, 2.0**64 - 1, 2.0**63))
"""All ones in 32 or 64 bits: NVML's "not available" with the return code SUCCESS."""


def decode(rows: Iterable[Iterable[str | float]]) -> Raw:
    """Return the raw values of a frame by name and label; bit sets and coded numbers become one value for each meaning.

    Raises:
        ValueError, TypeError: they are not names and numbers.
    """
    raw: Raw = {}
    for *names, value in rows:
        key = tuple(str(name) for name in names)
        if key[0] in _MEANINGS and len(key) == 1:
            raw.update(((key[0], label), number) for label, number in _MEANINGS[key[0]](int(value)))
        else:
            raw[key] = float(value)
    return raw


def _throttled(bits: int) -> Iterator[tuple[str, float]]:
    return ((reason, float(bool(bits & bit))) for reason, bit in THROTTLE_BITS.items())


def _recovery_action(number: int) -> Iterator[tuple[str, float]]:
    return ((action, float(number == each)) for each, action in enumerate(RECOVERY_ACTIONS))


def _fabric_state(number: int) -> Iterator[tuple[str, float]]:
    return ((state, float(number == each)) for each, state in enumerate(FABRIC_STATES) if each)


def _fabric_unhealthy(mask: int) -> Iterator[tuple[str, float]]:
    checks = ((check, mask >> shift & 3) for check, shift in FABRIC_CHECKS.items())
    return ((check, float(value == 1)) for check, value in checks if value)


_MEANINGS = {
    "throttled": _throttled,
    "recovery_action": _recovery_action,
    "fabric_state": _fabric_state,
    "fabric_unhealthy": _fabric_unhealthy,
}
"""Field whose value is a set of bits or a coded number -> its labels and their values."""


def to_base_units(
    raw: Mapping[tuple[str, ...], float], anomalies: Counter[str], *, scaled: bool = False
) -> dict[Key, float]:
    """Return the values in base units by signal and labels.

    Args:
        raw: The values from NVML; unknown names raise KeyError.
        anomalies: Counts values that are left out: sentinel, zero, out_of_range, not_finite, negative.
        scaled: The values are already in base units (the simulator's are).
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
