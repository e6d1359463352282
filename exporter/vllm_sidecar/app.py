"""The running program: pipelines, HTTP server, signals and reload."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import TYPE_CHECKING

from aiohttp import web

from vllm_sidecar import __version__, log
from vllm_sidecar.config import ConfigError
from vllm_sidecar.export import Exporter
from vllm_sidecar.gpu.monitor import GpuMonitor
from vllm_sidecar.log import event
from vllm_sidecar.pipeline import Pipeline
from vllm_sidecar.server import make_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vllm_sidecar.config import Config, Target

SHUTDOWN_SECONDS = 0.5
"""What open scrapes get to finish after SIGTERM."""

_log = logging.getLogger(__name__)


class Sidecar:
    """One running sidecar: a pipeline for each target, and one exporter of them all."""

    def __init__(self, config: Config, load: Callable[[], Config]) -> None:
        self.config = config
        self._load = load
        self.exporter = Exporter(config.windows.length)
        self._pipelines: dict[str, Pipeline] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._reloading = asyncio.Lock()
        self._gpus: GpuMonitor | None = None
        self._gpu_task: asyncio.Task[None] | None = None
        self._loaded()

    async def start(self) -> None:
        """Start polling the GPUs and all targets."""
        self._start_gpus()
        self._start(self.config.all_targets)

    async def stop(self) -> None:
        """Stop polling."""
        await asyncio.gather(self._cancel(list(self._tasks)), self._stop_gpus())

    async def reload(self) -> ConfigError | None:
        """Load the configuration again and use it; return what is wrong with a bad one.

        A bad one changes nothing but the metric that says so.
        Targets that stay as they were keep polling, with their windows, unless a setting changed that applies to all.
        """
        async with self._reloading:
            try:
                config = self._load()
            except ConfigError as error:
                self.exporter.set_own("config_last_reload_successful", 0.0)
                event(_log, logging.ERROR, "config_reload_failed", mistakes="; ".join(error.mistakes))
                return error
            await self._use(config)
            self._loaded()
            event(_log, logging.INFO, "config_reloaded", targets=len(config.all_targets))
            return None

    async def _use(self, config: Config) -> None:
        before, self.config = self.config, config
        if config.web != before.web:
            event(_log, logging.WARNING, "restart_needed", changed="web")
        log.setup(config.log.level, config.log.format)
        if config.gpu != before.gpu or (config.gpu.simulate and config.all_targets != before.all_targets):
            await self._stop_gpus()
            self._start_gpus()
        apart = {"targets", "vllm", "log", "web", "gpu"}
        same = before.model_dump(exclude=apart) == config.model_dump(exclude=apart)
        old = {target.name or "": target for target in before.all_targets}
        new = {target.name or "": target for target in config.all_targets}
        kept = {name for name in old.keys() & new.keys() if same and old[name] == new[name]}
        await self._cancel(old.keys() - kept)
        self._start(new[name] for name in new if name not in kept)

    def _loaded(self) -> None:
        self.exporter.set_own("config_last_reload_successful", 1.0)
        self.exporter.set_own("config_last_reload_success_timestamp_seconds", time.time())

    def _start_gpus(self) -> None:
        if self.config.gpu.enabled:
            self._gpus = GpuMonitor(self.config, self.exporter.changed, self._server_pids, self._servers_use)
            self._gpu_task = asyncio.create_task(self._gpus.run(), name="gpus")
        self.exporter.node = self._gpus
        self.exporter.changed()

    async def _stop_gpus(self) -> None:
        if self._gpu_task is not None:
            self._gpu_task.cancel()
            await asyncio.gather(self._gpu_task, return_exceptions=True)
        self._gpus = self._gpu_task = None

    def _server_pids(self) -> list[int]:
        """Return the processes of the servers on this machine."""
        return [pid for pipeline in list(self._pipelines.values()) if (pid := pipeline.server_pid) is not None]

    def _servers_use(self) -> int | None:
        """Return how many GPUs of this machine all servers use together; None where one does not tell."""
        sizes = [pipeline.gpus_used for pipeline in self._pipelines.values()]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else None

    def _gpus_of(self) -> GpuMonitor | None:
        """Return the GPUs for a target to be joined with: of several targets it is not known whose they are."""
        return self._gpus if len(self.config.all_targets) == 1 else None

    def _start(self, targets: Iterable[Target]) -> None:
        for target in targets:
            pipeline = Pipeline(target, self.config, self.exporter.changed, gpus=self._gpus_of)
            self._pipelines[pipeline.name] = pipeline
            self._tasks[pipeline.name] = asyncio.create_task(pipeline.run(), name=f"poll {target.name or target.url}")
        ordered = [self._pipelines[target.name or ""] for target in self.config.all_targets]
        self.exporter.use(ordered, self.config.windows.length)

    async def _cancel(self, names: Iterable[str]) -> None:
        tasks = []
        for name in names:
            tasks.append(self._tasks.pop(name))
            del self._pipelines[name]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def serve(config: Config, load: Callable[[], Config]) -> int:
    """Run until SIGTERM or SIGINT; return the exit code.

    Raises:
        OSError: the address cannot be listened on.
    """
    sidecar = Sidecar(config, load)
    runner = web.AppRunner(make_app(sidecar), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        host, port = config.web.host, config.web.port
        site = web.TCPSite(runner, host, port, reuse_address=True)
        await site.start()
        addresses = ",".join(f"{name[0]}:{name[1]}" for name in runner.addresses)
        event(_log, logging.INFO, "listening", address=addresses, version=__version__)
        stop = _on_signals(sidecar)
        await sidecar.start()
        await stop.wait()
        event(_log, logging.INFO, "stopping")
        await sidecar.stop()
    finally:
        await runner.cleanup()
    return 0


def _on_signals(sidecar: Sidecar) -> asyncio.Event:
    """Reload on SIGHUP; return the event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[object]] = set()

    def reload() -> None:
        task: asyncio.Task[object] = asyncio.create_task(sidecar.reload())
        running.add(task)
        task.add_done_callback(running.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    return stop
