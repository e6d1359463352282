"""GPUs that fit the simulated load, with the values that NVML would return.

A GPU is busy while its engine is in a step; it draws more power in prefill than in decode; it spins at low power while
a collective hangs; a slowdown is thermal, with lower clocks.
"""

from __future__ import annotations

import random
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.simulator.scheduler import SimulatedEngine
    from vllm_sidecar.simulator.settings import Conditions, ServerSettings

MEMORY_BYTES = 80 * 1024**3
RESERVED_BYTES = 600 * 1024**2
POWER_LIMIT = 700.0
IDLE_POWER = 75.0
SPINNING_POWER = 95.0
DECODE_POWER = 380.0
PREFILL_POWER = 660.0
CLOCK_HERTZ = 1.98e9
IDLE_CLOCK_HERTZ = 345e6
MEMORY_CLOCK_HERTZ = 2.619e9
SLOWDOWN_CELSIUS = 87.0
AMBIENT_CELSIUS = 28.0
CELSIUS_PER_WATT = 0.065
WARMING_SECONDS = 20.0
"""Time constant of the temperature."""


class SimulatedGpu:
    """One GPU of one engine."""

    def __init__(self, index: int, seed: int) -> None:
        self.index = index
        self.uuid = f"GPU-{uuid.UUID(int=random.Random(f'{seed}-{index}').getrandbits(128))}"  # noqa: S311
        self._busy = self._prefill = self._at = 0.0
        self._utilization = self._dense = 0.0
        self._power = IDLE_POWER
        self._energy = 0.0
        self._celsius = AMBIENT_CELSIUS + IDLE_POWER * CELSIUS_PER_WATT
        self._clock = IDLE_CLOCK_HERTZ
        self._throttled: list[str] = []
        self._memory = True

    def restart(self, engine: SimulatedEngine) -> None:
        """Start with a new engine, whose time in steps begins at 0."""
        self._busy, self._prefill = engine.busy_seconds, engine.prefill_seconds

    def follow(self, now: float, engine: SimulatedEngine, conditions: Conditions, *, alive: bool) -> None:
        """Apply the engine's work since the last call, at a later time."""
        seconds = now - self._at
        busy = min(1.0, (engine.busy_seconds - self._busy) / seconds) if alive else 0.0
        self._dense = min(busy, (engine.prefill_seconds - self._prefill) / seconds) if alive else 0.0
        self._busy, self._prefill, self._at = engine.busy_seconds, engine.prefill_seconds, now
        self._memory = alive
        hangs = conditions.stalled and engine.load > 0 and alive
        self._utilization = 1.0 if hangs else busy
        power = IDLE_POWER + (busy - self._dense) * (DECODE_POWER - IDLE_POWER)
        power += self._dense * (PREFILL_POWER - IDLE_POWER)
        slow = conditions.slowdown > 1.0
        if slow:
            power = IDLE_POWER + (power - IDLE_POWER) / conditions.slowdown
        self._power = SPINNING_POWER if hangs else min(power, POWER_LIMIT)
        self._energy += self._power * seconds
        target = AMBIENT_CELSIUS + self._power * CELSIUS_PER_WATT if not slow else SLOWDOWN_CELSIUS + 2.0
        self._celsius += (target - self._celsius) * min(1.0, seconds / WARMING_SECONDS)
        full = CLOCK_HERTZ / conditions.slowdown
        self._clock = full if self._utilization > 0.0 else IDLE_CLOCK_HERTZ
        self._throttled = ["hw_thermal"] if slow else []

    def report(self, settings: ServerSettings) -> dict[str, object]:
        """Return its values, in base units."""
        return {
            "index": self.index,
            "uuid": self.uuid,
            "name": "Simulated H100 80GB HBM3",
            "fields": {
                "utilization_ratio": round(self._utilization, 4),
                "memory_used_bytes": int(settings.gpu_memory_utilization * MEMORY_BYTES) if self._memory else 0,
                "memory_total_bytes": MEMORY_BYTES,
                "memory_reserved_bytes": RESERVED_BYTES,
                "power_watts": round(self._power, 3),
                "power_limit_watts": POWER_LIMIT,
                "energy_joules_total": round(self._energy, 3),
                "sm_clock_hertz": self._clock,
                "sm_clock_max_hertz": CLOCK_HERTZ,
                "memory_clock_hertz": MEMORY_CLOCK_HERTZ,
                "temperature_celsius": round(self._celsius, 1),
                "temperature_margin_celsius": round(max(0.0, SLOWDOWN_CELSIUS + 3.0 - self._celsius), 1),
                "sm_active_ratio": round(0.7 * self._utilization + 0.25 * self._dense, 4),
                "dram_active_ratio": round(0.6 * max(0.0, self._utilization - self._dense), 4),
            },
            "throttle_reasons": self._throttled,
            "xid": {},
        }
