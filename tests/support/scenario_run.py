"""Plays a simulator's script to the whole sidecar on one simulated clock, and keeps what each scrape shows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fake_vllm import FakeVllm
from running import WALL, config, run

from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.script import read_script

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.simulator.script import Script

POLL = 1.0
SCRAPE = 15.0
CALM, INCIDENT, RECOVERY = 240.0, 255.0, 390.0
"""Seconds of the phases of `around`; multiples of a scrape."""


def around(scenario: str) -> str:
    """Return the script that plays a scenario between calm phases."""
    return f"healthy {CALM:g}s -> {scenario} {INCIDENT:g}s -> healthy"


@dataclass
class ScenarioRun:
    """What Prometheus would have scraped: per series its value at each scrape, None where it was not there."""

    scrapes: int = 0
    series: dict[str, list[float | None]] = field(default_factory=dict)

    def add(self, samples: Mapping[str, float]) -> None:
        """Take one scrape."""
        for name, value in samples.items():
            self.series.setdefault(name, [None] * self.scrapes).append(value)
        self.scrapes += 1
        for values in self.series.values():
            if len(values) < self.scrapes:
                values.append(None)

    def at(self, seconds: float, name: str) -> dict[str, float]:
        """Return the series of a metric at the last scrape before a time, by the text of their labels."""
        index = min(self.scrapes, math.floor(seconds / SCRAPE)) - 1
        found = {text: values[index] for text, values in self.series.items() if text.partition("{")[0] == name}
        return {text.partition("{")[2].rstrip("}"): value for text, value in found.items() if value is not None}


async def run_scenario(script: str | Script, seconds: float, *, load: float = 0.0, **overrides: object) -> ScenarioRun:
    """Play a script for so many simulated seconds, of which the server loads its model for the first ones."""
    given = read_script(script, None, overrides) if isinstance(script, str) else script
    look = Lookalike(given, WALL + load)
    played = ScenarioRun()
    async with FakeVllm() as fake, run(config(fake.url)) as watched:
        fake.body = lambda: exposition(look)
        for second in range(1, round(seconds / POLL) + 1):
            loaded = second * POLL > load
            if loaded:
                look.advance(second * POLL - load)
            fake.status = 200 if loaded and look.listening else 503
            watched.clock[0] += POLL
            await watched.target_loop.poll_once()
            await watched.target_loop.probe_once()
            if second % SCRAPE == 0:
                played.add(watched.samples())
    return played
