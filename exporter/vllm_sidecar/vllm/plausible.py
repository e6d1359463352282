"""Values that a server cannot have: how much a signal can be, and how fast it can grow.

Later stages never forget (SLO counters) or forget slowly (windows, charts), so one impossible value would spoil them
for long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.types import Kind, Unit

if TYPE_CHECKING:
    from vllm_sidecar.catalog.types import Signal
    from vllm_sidecar.series.readings import Group, Key

MOST = 2.0**63
"""Largest count of any server."""
MOST_WORK = 1e30
"""Largest number of bytes or floating point operations: a fleet counts 2^63 of them within hours."""
MOST_NOW = 1e9
"""Largest gauge that counts requests or files."""
MOST_RATIO = 1.001
"""Largest ratio, with room for rounding."""
PLAUSIBLE_TIMES = (1e9, 1e11)
"""Plausible Unix times of a start: a sandbox without a boot time exposes seconds since its own start."""
OBSERVATIONS_PER_SECOND = 1e6
"""Requests or observations per second beyond any server's."""
MOST_PER_SECOND = {Unit.NONE: 1e9, Unit.TOKENS: 1e9, Unit.SECONDS: 1e9, Unit.BYTES: 1e15}
WORK_PER_SECOND = 1e18
"""Floating point operations per second of one GPU, with room for the next generations."""
SUM_PER_SECOND = 1e10
"""The same for the sum of a histogram, in seconds or tokens."""
WORK = "estimated_flops_total"


def most_of(key: Key) -> float:
    """Return the largest value that a signal of a server can have."""
    signal = SIGNALS[key if isinstance(key, str) else key[0]]
    if signal.unit is Unit.RATIO:
        return MOST_RATIO
    if signal.unit is Unit.BYTES or signal.name == WORK:
        return MOST_WORK
    return MOST_NOW if signal.kind is Kind.GAUGE else MOST


def most_per_second(signal: Signal) -> float:
    """Return by how much a counter can grow in a second."""
    if signal.name == WORK:
        return WORK_PER_SECOND
    return OBSERVATIONS_PER_SECOND if "requests" in signal.name else MOST_PER_SECOND[signal.unit]


def is_time(value: float) -> bool:
    """Return whether a Unix time can be that of a server's start."""
    return PLAUSIBLE_TIMES[0] < value < PLAUSIBLE_TIMES[1]


class Growing(NamedTuple):
    """A series that only grows: its group, and by how much it can grow in a second."""

    group: Group
    per_second: float
