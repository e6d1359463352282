"""Observations of simulated servers for `compare`, in simulated time and without sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.script import read_script
from vllm_sidecar.slices import at_once
from vllm_sidecar.tools.compare.observation import Growth, Observation, bounds_of, values_of
from vllm_sidecar.vllm.normalize import Normalizer

if TYPE_CHECKING:
    from collections.abc import Iterator

WARM_UP = 60
"""Seconds before the first window, in which the cache fills."""


def windows(seed: int, count: int, seconds: int = 60, **overrides: object) -> Iterator[Observation]:
    """Yield so many windows of one simulated server, one after the other, polled each second."""
    look = Lookalike(read_script("healthy", None, {"seed": seed, **overrides}), 1_800_000_000.0)
    parser, normalizer, growth = DifferentialParser(), Normalizer(), Growth()
    look.advance(float(WARM_UP))
    for number in range(count):
        found = Observation(f"{seed}.{number}", "simulator")
        for second in range(seconds):
            at = float(WARM_UP + number * seconds + second + 1)
            look.advance(at)
            values = values_of(at_once(normalizer.steps(parser.parse(exposition(look)), None, at)))
            found.bounds = bounds_of(values)
            if (interval := growth.take(at, values)) is not None:
                found.intervals.append(interval)
        yield found
