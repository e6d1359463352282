"""The loops of all targets, one task each: targets are added and removed while the others continue."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.metric_profiles import MetricProfile
from vllm_sidecar.serve.supervision import supervise
from vllm_sidecar.serve.target import TargetLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.config import Config, Target
    from vllm_sidecar.gpu.monitor import GpuMonitor
    from vllm_sidecar.serve.metrics import Exporter


class Changes(NamedTuple):
    """How many targets a change affected."""

    kept: int
    started: int
    stopped: int


class WatchedTargets:
    """Runs the loop of every target in the task group of the program.

    A target that leaves ends its series at once, and its loop is kept for `windows.keep`: if the same server returns
    under the same name until then, its counters and restarts continue.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        exporter: Exporter,
        gpus: Callable[[], GpuMonitor | None],
        make: Callable[..., TargetLoop] | None = None,
    ) -> None:
        self._group = group
        self._make = make
        self._exporter = exporter
        self._gpus = gpus
        self._loops: dict[str, TargetLoop] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._left: dict[str, tuple[TargetLoop, asyncio.TimerHandle]] = {}
        """Loops of targets that left, with the timer that forgets them."""

    @property
    def targets(self) -> list[Target]:
        """The targets, in the order of the configuration."""
        return [loop.target for loop in self._loops.values()]

    async def use(self, targets: Sequence[Target], config: Config) -> Changes:
        """Watch these targets with these settings, and export them in this order."""
        wanted = {target.name or "": target for target in targets}
        kept = {
            name
            for name, target in wanted.items()
            if name in self._loops and target.is_same_server(self._loops[name].target)
        }
        new = [self._loop(target, config) for name, target in wanted.items() if name not in kept]
        # Nothing below can fail because of the configuration.
        removed = self._loops.keys() - kept
        await self._stop(removed, config)
        for name in kept:
            await self._apply(self._loops[name], wanted[name], config)
        for target_loop in new:
            await self._start_new(target_loop, wanted[target_loop.name], config)
        self._loops = {name: self._loops[name] for name in wanted}
        profile = MetricProfile(config.metrics.profile)
        self._exporter.set_sources(list(self._loops.values()), config.windows.length, profile)
        return Changes(len(kept), len(new), len(removed))

    def cancel(self) -> None:
        """Cancel all loops."""
        for task in self._tasks.values():
            task.cancel()
        for _, timer in self._left.values():
            timer.cancel()

    def server_pids(self) -> list[int]:
        """Return the processes of the servers on this machine."""
        return [pid for target_loop in list(self._loops.values()) if (pid := target_loop.server_pid) is not None]

    def gpus_used(self) -> int | None:
        """Return how many GPUs of this machine all servers use together; None if it is unknown for one of them."""
        sizes = [target_loop.gpus_used for target_loop in self._loops.values()]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else None

    def _loop(self, target: Target, config: Config) -> TargetLoop:
        """Return the loop of a target that is not watched: that of the same server if it left shortly before."""
        left = self._left.get(target.name or "")
        if left is not None and target.is_same_server(left[0].target):
            return left[0]
        return (self._make or TargetLoop)(target, config, self._exporter.changed, gpus=self._gpus)

    async def _start_new(self, target_loop: TargetLoop, target: Target, config: Config) -> None:
        left = self._left.pop(target_loop.name, None)
        if left is not None:
            left[1].cancel()
            if left[0] is target_loop:
                await target_loop.apply(target, config)
        self._start(target_loop)

    def _start(self, target_loop: TargetLoop) -> None:
        self._loops[target_loop.name] = target_loop
        label = target_loop.name or str(target_loop.target.url)
        supervised = supervise(target_loop, label, lambda: self._exporter.count_error("target"))
        self._tasks[target_loop.name] = self._group.create_task(supervised, name=f"poll {label}")

    async def _apply(self, target_loop: TargetLoop, target: Target, config: Config) -> None:
        """Apply changed settings to a target; its polling is interrupted only if the settings of polling changed."""
        if not target_loop.needs_new_client(target, config):
            await target_loop.apply(target, config)
            return
        await cancel(self._tasks.pop(target_loop.name))
        await target_loop.apply(target, config)
        self._start(target_loop)

    async def _stop(self, names: set[str], config: Config) -> None:
        for name in names:
            self._tasks[name].cancel()
        for name in names:
            await cancel(self._tasks.pop(name))
            target_loop = self._loops.pop(name)
            target_loop.pause()
            if target_loop.last_success_age is not None:
                self._remember(target_loop, config)

    def _remember(self, target_loop: TargetLoop, config: Config) -> None:
        """Keep the loop of a target that left, for as long as its polls would be kept, and at most `limit` loops."""
        name = target_loop.name
        surplus = max(0, len(self._left) + 1 - config.discovery.limit)
        for each in [name] if name in self._left else list(self._left)[:surplus]:
            self._left.pop(each)[1].cancel()
        timer = asyncio.get_running_loop().call_later(config.windows.keep, self._left.pop, name, None)
        self._left[name] = (target_loop, timer)


async def cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
