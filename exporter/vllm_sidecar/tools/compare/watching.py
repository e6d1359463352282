"""vLLM servers, and recordings of them, through the loops of the sidecar -> observations."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import HINTS, Reason
from vllm_sidecar.serve.target import TargetLoop
from vllm_sidecar.tools.compare.facts import facts_of, size_facts
from vllm_sidecar.tools.compare.observation import SIDECAR, Growth, Observation, bounds_of, values_of
from vllm_sidecar.tools.observing import ticks, unanswered
from vllm_sidecar.tools.recording.playback import Playback, outline
from vllm_sidecar.tools.targets import names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vllm_sidecar.config import Config
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.serve.snapshot import Snapshot

MOST_POLLS = 1800
"""Polls of a recording that are read; those of a longer one are further apart."""


class Watcher:
    """Follows the snapshots of one target."""

    def __init__(self, name: str, source: str) -> None:
        self.observation = Observation(name, source)
        self._growth = Growth()
        self._last: Readings | None = None
        self._why = ""

    def follow(self, target: TargetLoop, at: float) -> None:
        """Take the last poll of the target at a time in seconds, if it is a new one."""
        reason = target.health.reason
        if reason is not None:
            self._why = f"{reason}: {target.health.detail}. {HINTS[reason]}"
            if reason is Reason.NOT_AN_ENGINE:
                self._why += f" A sidecar is named {SIDECAR}http://HOST:PORT"
        readings = target.readings
        if readings is None or readings is self._last:
            return
        self._last = readings
        values = values_of(readings)
        self.observation.bounds = bounds_of(values)
        interval = self._growth.take(at, values)
        if interval is not None:
            self.observation.intervals.append(interval)

    def end(self, snapshot: Snapshot, unanswered: str = "") -> Observation:
        """Return the observation, with why there is none or which part of it is missing.

        `unanswered` is the reason if no poll has ended.
        """
        observation = self.observation
        observation.facts = facts_of(asdict(snapshot.identity))
        observation.restarts = snapshot.restarts
        if self._last is not None:
            observation.facts["engines"] = str(max(1, len(self._last.engines)))
            observation.facts = size_facts(self._last) | observation.facts
        if self._why:
            what = "polls failed" if self._last is not None else "no poll succeeded"
            observation.notes.append(f"{observation.name}: {what}: {self._why}")
        elif self._last is None and unanswered:
            observation.notes.append(f"{observation.name}: {unanswered}")
        return observation


async def watch(config: Config, seconds: float, stop: asyncio.Event, show: Callable[[str], None]) -> list[Observation]:
    """Watch all servers of a configuration at the same time, for so many seconds or until `stop`."""
    targets = config.all_targets
    shown = names([str(target.url) for target in targets])
    loops = [TargetLoop(target, config, lambda: None) for target in targets]
    watchers = [Watcher(name, f"vLLM at {name}") for name in shown]
    tasks = [asyncio.create_task(each.run()) for each in loops]
    began = time.monotonic()
    try:
        async for _ in ticks(seconds, stop, show):
            for each, watcher in zip(loops, watchers, strict=True):
                watcher.follow(each, time.monotonic())
        why = unanswered(time.monotonic() - began, config)
        return [watcher.end(each.snapshot(), why) for each, watcher in zip(loops, watchers, strict=True)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def recording(path: Path, stop: asyncio.Event, show: Callable[[str], None]) -> dict[str, Observation]:
    """Play a recording to its end or until `stop`; return the observations by the names of its servers.

    Raises:
        RecordingError: It cannot be read.
    """
    found = outline(path)
    playback = Playback(path, found)
    servers = found.head.servers
    watchers = [
        Watcher(f"{path.name}#{each.name}" if each.name else path.name, f"recording {path}") for each in servers
    ]

    def follow() -> None:
        for each, watcher in zip(playback.loops, watchers, strict=True):
            watcher.follow(each, playback.at)

    async def pause() -> None:
        follow()
        show(f"playing {path.name}: {playback.at / max(found.seconds, 1.0):.0%}")

    await playback.run(max(found.head.interval, found.seconds / MOST_POLLS), pause, stop)
    follow()
    observations = {
        server.name: watcher.end(each.snapshot())
        for server, each, watcher in zip(servers, playback.loops, watchers, strict=True)
    }
    if found.cut_off:
        for each in observations.values():
            each.notes.append(f"{each.name}: the recording is not complete: {found.cut_off}")
    return observations
