"""Days of the sidecar's loops in minutes, while engines, adapters, routes, servers and targets come and go.

    python tests/bench/bench_soak.py [WALL SECONDS]     600 by default

The loops, windows, derivations and the exporter are those of the program, on a clock that jumps; the servers are played
in the process. A line for every six simulated hours.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import virtual_time
from soak import soak

EVERY = 36
"""Periods between two lines."""
INTERVAL = "10s"
"""Of polls: what is kept depends on the number of polls in a window, not on their rate, and days take minutes."""


async def main(seconds: float) -> None:
    end = time.monotonic() + seconds
    print("| Simulated hours | Resident MiB | Tasks | Files | Log kB per hour | Series |\n" + "| --- " * 6 + "|")
    running = soak(EVERY, INTERVAL)
    async for at in running:
        hours = at.seconds / 3600.0
        print(f"| {hours:.0f} | {at.resident / 2**20:.1f} | {at.tasks} | {at.files} | "
              f"{at.log_bytes / (EVERY / 6) / 1000:.1f} | {at.series} |", flush=True)  # fmt: skip
        if time.monotonic() >= end:
            break
    await running.aclose()
    await asyncio.sleep(0)


if __name__ == "__main__":
    virtual_time.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 600.0))
