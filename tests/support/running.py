"""A pipeline and its exporter in this process, on clocks that the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm_sidecar.config import Config
from vllm_sidecar.serve.metrics import Exporter
from vllm_sidecar.serve.target import TargetLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

from contextlib import asynccontextmanager

WALL = 1_800_000_000.0
"""Unix time at which every such run begins."""


def config(url: str = "http://127.0.0.1:8000", **sections: dict[str, Any]) -> Config:
    """Make a configuration for one target; durations are text, as in the file."""
    sections.setdefault("introspection", {"proc": False})
    sections.setdefault("vllm", {})["url"] = url
    return Config.model_validate(sections)


@dataclass
class Run:
    """One target that is polled when the test says so."""

    target_loop: TargetLoop
    exporter: Exporter
    clock: list[float] = field(default_factory=lambda: [1000.0])

    async def poll(self, *, after: float = 1.0) -> dict[str, float]:
        """Let time pass, poll, send the probe that is due, and return all samples by their text up to the value."""
        self.clock[0] += after
        await self.target_loop.poll_once()
        await self.target_loop.probe_once()
        return self.samples()

    def samples(self) -> dict[str, float]:
        """Return what a scrape gets now."""
        lines = self.exporter.render(openmetrics=False).decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("vllm_sidecar_"): float(value) for name, value in pairs}


@asynccontextmanager
async def run(settings: Config) -> AsyncIterator[Run]:
    """Make a pipeline for the first target of a configuration, with its HTTP client open."""
    clock = [1000.0]
    exporter = Exporter(settings.windows.length)
    target_loop = TargetLoop(
        settings.all_targets[0],
        settings,
        exporter.changed,
        clock=lambda: clock[0],
        wall=lambda: WALL + clock[0] - 1000.0,
    )
    exporter.set_sources([target_loop], settings.windows.length)
    async with target_loop:
        yield Run(target_loop, exporter, clock)
