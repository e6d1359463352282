"""What happens to a few replicas one after the other, played by the simulator through the whole sidecar."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cache
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from scenario_run import SCRAPE, ScenarioRun, run_scenario

from fleets.clock import MINUTE, Grid
from fleets.export import Series
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.config import parse_duration
from vllm_sidecar.simulator.scenarios import SCENARIOS, Scenario
from vllm_sidecar.simulator.script import Phase, Script, read_script

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fleets.clock import Floats

LOAD = 9 * MINUTE
"""Seconds until a server answers; `startup` is ten minutes."""
DRAIN = 4 * MINUTE
OWN_SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("idle", "Nobody asks.", {"rate": 0.0}),
        Scenario("batch", "Unique documents at once; their clients are patient.",
                 {"rate": 10.3, "shared_ratio": 0.0, "patience_seconds": 3600.0}),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One pod: what is played to its sidecar, from when until when it is a target."""

    pod: str
    script: str
    begin: float = 0.0
    end: float = inf
    drains: float = 0.0
    """Seconds after its end for which it is still a target that does not answer."""
    load: float = 0.0
    seed: int = 1
    utilization: float = 0.92
    """`--gpu-memory-utilization`: another one is another fingerprint."""
    instance: str = ""
    """Its address where it has that of another pod, as with hostNetwork."""


@dataclass(frozen=True)
class Sequence:
    """Pods of one model, and what should come of it."""

    name: str
    seconds: float
    parts: tuple[Part, ...]
    pages: tuple[tuple[str, ...], ...] = ()
    """Of each page, in order, the alert that comes first, and those that may join it."""
    tickets: frozenset[str] = frozenset()
    thresholds: Mapping[str, object] = field(default_factory=dict)
    away: tuple[tuple[float, float], ...] = ()

    def __str__(self) -> str:
        """Return its name."""
        return self.name


def read(text: str, seed: int, utilization: float) -> Script:
    """Read a script that may name the scenarios of this module too."""
    server = {"model_name": "chat", "gpu_memory_utilization": utilization}
    script = read_script("healthy", None, {"seed": seed}).model_copy(
        update={"phases": tuple(map(_phase, text.split(" -> ")))}
    )
    return script.model_copy(update={"server": script.server.model_copy(update=server)})


def _phase(text: str) -> Phase:
    name, _, seconds = text.partition(" ")
    return Phase({**SCENARIOS, **OWN_SCENARIOS}[name], parse_duration(seconds) if seconds else inf)


@cache
def _played(text: str, seconds: float, load: float, seed: int, utilization: float) -> ScenarioRun:
    """Play a script, once for all pods and sequences that share it."""
    return asyncio.run(run_scenario(read(text, seed, utilization), seconds, load=load))


def scraped(sequence: Sequence) -> Series:
    """Return what Prometheus has of all pods of a sequence."""
    series = Series(Grid(0.0, sequence.seconds, SCRAPE))
    for number, part in enumerate(sequence.parts):
        _add(series, part, part.instance or f"10.0.0.{number}:10190")
    for begin, end in sequence.away:
        series.interrupt(begin, end)
    return series


def _add(series: Series, part: Part, instance: str) -> None:
    grid = series.grid
    end = min(part.end, grid.end)
    played = _played(part.script, grid.end, part.load, part.seed, part.utilization)
    labels = {"cluster": "c1", "namespace": "llm", "job": "llm/vllm-sidecar", "pod": part.pod, "instance": instance}
    target = ",".join(f'{name}="{value}"' for name, value in labels.items())
    there = grid.between(part.begin, end)
    alive = np.where(there, 1.0, np.where(grid.between(end, end + part.drains), 0.0, np.nan))
    series.add(f"up{{{target}}}", alive)
    for text, values in played.series.items():
        name, _, rest = text.partition("{")
        prefix = "" if name.startswith("process_") else PREFIX
        full = f"{prefix}{name}{{{target}{',' + rest if rest else '}'}"
        series.add(full, _placed(name, values, part, grid))


def _placed(name: str, values: list[float | None], part: Part, grid: Grid) -> Floats:
    """Return the values of a series at the scrapes of the whole sequence; times are moved to when its pod began."""
    found = np.full(grid.times.shape, np.nan)
    first = round(part.begin / SCRAPE) + 1
    last = min(len(found), round(min(part.end, grid.end) / SCRAPE))
    own = np.array([np.nan if value is None else value for value in values])[: last - first]
    if name.endswith("_timestamp_seconds"):
        own = own + part.begin
    found[first : first + len(own)] = own
    return found


BURN = "VllmTimeToFirstTokenSloBurn"
HEALTHY = "healthy"
TO_STALL = "healthy 600s -> queue-buildup 60s -> stall"
TO_LEFT = "healthy 600s -> queue-buildup 240s -> stale-gauges"
TO_BATCH = "healthy 900s -> batch 1200s -> healthy"
TO_ZERO = "healthy 900s -> idle"
LONG = 45 * MINUTE
GAP = (15 * MINUTE, 30 * MINUTE)
SEQUENCES = (
    Sequence(
        "a queue builds up, then all engines stall",
        25 * MINUTE,
        (Part("a", TO_STALL), Part("b", TO_STALL, seed=2)),
        pages=(("VllmReplicasUnavailable", BURN, "VllmAvailabilitySloBurn", "VllmAbortRatioHigh"),),
        tickets=frozenset(("VllmEngineStalled",)),
    ),
    Sequence(
        "overload, then all clients leave and the gauges freeze",
        30 * MINUTE,
        (Part("a", TO_LEFT), Part("b", TO_LEFT, seed=2)),
        pages=(("VllmQueueWaitHigh", BURN),),
        tickets=frozenset(("VllmGaugesStale",)),
    ),
    Sequence(
        "a rolling deploy of an equally good release",
        LONG,
        (
            Part("old-1", HEALTHY, end=20 * MINUTE, drains=DRAIN),
            Part("old-2", HEALTHY, end=30 * MINUTE, drains=DRAIN),
            Part("new-1", HEALTHY, begin=10 * MINUTE, load=LOAD, utilization=0.9, seed=3),
            Part("new-2", HEALTHY, begin=20 * MINUTE, load=LOAD, utilization=0.9, seed=3),
        ),
    ),
    Sequence(
        "replicas come and go with the load",
        LONG,
        (
            Part("a", HEALTHY),
            Part("b", HEALTHY, begin=10 * MINUTE, end=35 * MINUTE, drains=DRAIN, load=LOAD, seed=2),
            Part("c", HEALTHY, begin=10 * MINUTE, end=35 * MINUTE, drains=DRAIN, load=LOAD, seed=2),
        ),
    ),
    Sequence(
        "a batch in hours that the thresholds name",
        LONG,
        (Part("a", TO_BATCH),),
        thresholds={"batch_hours": ["08:15-08:45"]},
    ),
    Sequence("Prometheus is away for a quarter of an hour", LONG, (Part("a", HEALTHY),), away=(GAP,)),
    Sequence(
        "the node of one of four replicas reboots and its pod comes back with the same address",
        LONG,
        (
            *(Part(name, HEALTHY) for name in "abc"),
            Part("d-1", HEALTHY, end=15 * MINUTE, drains=5 * MINUTE, instance="10.1.0.1:10190"),
            Part("d-2", HEALTHY, begin=20 * MINUTE, load=LOAD, seed=2, instance="10.1.0.1:10190"),
        ),
    ),
    Sequence(
        "the node of the only replica reboots",
        LONG,
        (
            Part("a-1", HEALTHY, end=15 * MINUTE, drains=5 * MINUTE, instance="10.1.0.1:10190"),
            Part("a-2", HEALTHY, begin=20 * MINUTE, load=LOAD, seed=2, instance="10.1.0.1:10190"),
        ),
        pages=(("VllmModelGone", "VllmReplicasUnavailable", "VllmAvailabilitySloBurn"),),
    ),
    Sequence(
        "a model is scaled to zero once nobody asks, and comes back",
        LONG,
        (
            Part("a", TO_ZERO, end=20 * MINUTE, drains=DRAIN),
            Part("b", HEALTHY, begin=30 * MINUTE, load=LOAD, seed=2),
        ),
    ),
)
