"""The running program: targets, GPUs, HTTP server, signals and reload."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING

from vllm_sidecar import __version__, logs
from vllm_sidecar.catalog.metric_profiles import MetricProfile
from vllm_sidecar.config import ConfigError
from vllm_sidecar.discovery import Finder
from vllm_sidecar.discovery.report import samples as discovery_samples
from vllm_sidecar.gpu.monitor import GpuMonitor
from vllm_sidecar.logs import event
from vllm_sidecar.serve.event_loop import LoopTime, loop_factory
from vllm_sidecar.serve.http import make_app
from vllm_sidecar.serve.listener.server import WebServer, raise_file_limit
from vllm_sidecar.serve.listener.sockets import open_sockets
from vllm_sidecar.serve.listener.web_file import WebFileInUse
from vllm_sidecar.serve.metrics import Exporter
from vllm_sidecar.serve.otlp.push import OtlpPush
from vllm_sidecar.serve.own_metrics import own_samples
from vllm_sidecar.serve.supervision import supervise
from vllm_sidecar.serve.watched_targets import Changes, WatchedTargets, cancel
from vllm_sidecar.vllm.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from vllm_sidecar.config import Config

RELOAD_PAUSE_SECONDS = 0.2
"""Pause between a reload and the next one: of many SIGHUPs in a row, the last one counts."""
DISCOVERY_PAUSE_SECONDS = 0.2
"""Time in which changes of lists are collected: many pods change together."""
GARBAGE_THRESHOLD = 20_000
"""Objects after which Python looks for garbage in cycles, which it does after 700 by default.

The values of a window are such objects, and none of them is in a cycle: with 128 servers the search took 16 % of the
CPU, and held the event loop for up to a third of a second. With this threshold it takes 4 %. Modules, and all that
exists before the first poll, are left out of the search (`gc.freeze`): they are most of the objects of a sidecar with
one engine, for which a search of everything takes 0.2 ms without them and 30 ms with them.
"""
READ_SECONDS = 10.0
"""How long a reload waits for the file, which may be on a file system that hangs."""

_log = logging.getLogger(__name__)


class Sidecar:
    """One running sidecar: a pipeline for each target, the GPUs, and one exporter for all of them."""

    def __init__(self, config: Config, load: Callable[[], Config]) -> None:
        self.config = config
        self._load = load
        self.exporter = Exporter(config.windows.length, MetricProfile(config.metrics.profile))
        self._group = asyncio.TaskGroup()
        self._targets = WatchedTargets(self._group, self.exporter, self._gpus_of_target)
        self._list_changed = asyncio.Event()
        self.finder = Finder(config.discovery, self._list_changed.set, self._start_task)
        self.exporter.discovery = lambda: discovery_samples(self.finder)
        self.otlp = OtlpPush(self.exporter, self._start_task)
        self._reloading = asyncio.Lock()
        self._reload_requested = asyncio.Event()
        self._read_task: asyncio.Task[Config] | None = None
        self._reload_task: asyncio.Task[None] | None = None
        self._discovery_task: asyncio.Task[None] | None = None
        self._gpus: GpuMonitor | None = None
        self._gpu_task: asyncio.Task[None] | None = None
        self._report_loaded()

    async def start(self) -> None:
        """Start polling the GPUs and all targets.

        If a part ends and cannot be restarted, the task that called this is canceled, and `stop` raises the reason.
        """
        await self._group.__aenter__()
        self._reload_task = self._group.create_task(self._reload_on_request(), name="reload")
        if self.config.headless:
            event(_log, logging.INFO, "headless", detail="a worker without an HTTP server: only its GPUs are watched")
        self._start_gpus()
        self.finder.use(self.config.discovery)
        await self._use_targets(self.config)
        self.otlp.use(self.config)
        self._discovery_task = self._group.create_task(self._follow_discovery(), name="discovery")

    async def stop(self) -> None:
        """Push a last time, and stop polling.

        Raises:
            ExceptionGroup: A part ended and could not be restarted.
        """
        await self.otlp.finish()
        for task in (self._reload_task, self._discovery_task, self._gpu_task, self._read_task):
            if task is not None:
                task.cancel()
        self.finder.stop()
        self._targets.cancel()
        await self._group.__aexit__(*sys.exc_info())

    def request_reload(self) -> None:
        """Reload as soon as possible; several requests before that cause one reload."""
        self._reload_requested.set()

    async def _reload_on_request(self) -> None:
        while True:
            await self._reload_requested.wait()
            self._reload_requested.clear()
            await self.reload()
            await asyncio.sleep(RELOAD_PAUSE_SECONDS)

    async def reload(self) -> ConfigError | None:
        """Load the configuration again and use it; return the error of an invalid one.

        An invalid one changes only the metric that reports it. A valid one affects only what it changes: a target keeps
        its counters, windows and identity unless its address changes.
        """
        async with self._reloading:
            try:
                await self._apply(await self._read())
            except ConfigError as error:
                return self._report_refused(error)
            except Exception as error:  # noqa: BLE001 - a bug must not stop the polling
                event(_log, logging.ERROR, "internal_error", exc_info=error)
                return self._report_refused(ConfigError(None, [f"internal error: {type(error).__name__}: {error}"]))
            self._report_loaded()
            return None

    def _report_refused(self, error: ConfigError) -> ConfigError:
        self.exporter.set_own("config_last_reload_successful", 0.0)
        event(_log, logging.ERROR, "config_reload_failed", mistakes="; ".join(error.mistakes))
        return error

    async def _read(self) -> Config:
        """Load the configuration in a thread, because reading a file can hang.

        Raises:
            ConfigError: With every mistake found.
        """
        if self._read_task is not None and not self._read_task.done():
            raise ConfigError(None, ["an earlier read of the file has not ended"])
        self._read_task = asyncio.create_task(in_daemon_thread("config", self._load))
        done, _ = await asyncio.wait((self._read_task,), timeout=READ_SECONDS)
        if not done:
            raise ConfigError(None, [f"the file was not read within {READ_SECONDS:g} s"])
        return self._read_task.result()

    async def _apply(self, config: Config) -> None:
        before = self.config
        if config.web != before.web:
            event(_log, logging.WARNING, "restart_needed", changed="web")
        self.exporter.set_own("config_restart_needed", float(config.web != before.web))
        config = config.model_copy(update={"web": before.web})
        self.finder.use(config.discovery)
        try:
            changes = await self._use_targets(config)
        except Exception:
            self.finder.use(before.discovery)
            raise
        # Nothing below can fail because of the configuration.
        self.config = config
        logs.setup(config.log.level, config.log.format)
        await self._apply_to_gpus(before)
        self.otlp.use(config)
        changed = ",".join(name for name in type(config).model_fields if getattr(config, name) != getattr(before, name))
        event(_log, logging.INFO, "config_reloaded", changed=changed or "nothing",
              targets=changes.kept + changes.started, **changes._asdict())  # fmt: skip

    async def _use_targets(self, config: Config) -> Changes:
        """Watch the targets of the configuration and those that were found."""
        selection = self.finder.select(config.all_targets, self._targets.targets)
        return await self._targets.use(selection.targets, config)

    async def _follow_discovery(self) -> None:
        """Use each change of a list; several changes within a moment are used together."""
        while True:
            await self._list_changed.wait()
            await asyncio.sleep(DISCOVERY_PAUSE_SECONDS)
            self._list_changed.clear()
            async with self._reloading:
                try:
                    changes = await self._use_targets(self.config)
                except Exception as error:  # noqa: BLE001 - a bug must not stop the polling
                    event(_log, logging.ERROR, "internal_error", part="discovery", exc_info=error)
                    continue
            if changes.started or changes.stopped:
                event(_log, logging.INFO, "targets_changed", **changes._asdict())

    def _start_task(self, part: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        return self._group.create_task(part, name=name)

    async def _apply_to_gpus(self, before: Config) -> None:
        config = self.config
        if config.gpu != before.gpu or (config.gpu.simulate and config.all_targets != before.all_targets):
            await self._stop_gpus()
            self._start_gpus()
        elif self._gpus is not None and config.windows.length != before.windows.length:
            self._gpus.resize(config.windows.length)

    def _report_loaded(self) -> None:
        self.exporter.set_own("config_last_reload_successful", 1.0)
        self.exporter.set_own("config_last_reload_success_timestamp_seconds", time.time())

    def _start_gpus(self) -> None:
        if self.config.gpu.enabled:
            self._gpus = GpuMonitor(
                self.config, self.exporter.changed, self._targets.server_pids, self._targets.gpus_used
            )
            supervised = supervise(self._gpus, "gpus", lambda: self.exporter.count_error("gpus"))
            self._gpu_task = self._group.create_task(supervised, name="gpus")
        self.exporter.node = self._gpus
        self.exporter.changed()

    async def _stop_gpus(self) -> None:
        if self._gpu_task is not None:
            await cancel(self._gpu_task)
        self._gpus = self._gpu_task = None

    def _gpus_of_target(self) -> GpuMonitor | None:
        """Return the GPUs to join with a target; None where there may be several, because their owner is unknown."""
        return self._gpus if len(self.config.all_targets) == 1 and not self.config.discovery.is_used else None


def run(config: Config, load: Callable[[], Config]) -> int:
    """Run until SIGTERM or SIGINT; return the exit code.

    Raises:
        ConfigError: the web file has mistakes.
        OSError: an address cannot be listened on.
        ExceptionGroup: a part of the program ended and could not be restarted.
    """
    raise_file_limit()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    times = LoopTime()
    with asyncio.Runner(loop_factory=loop_factory(times)) as runner:
        return runner.run(serve(config, load, times))


async def serve(config: Config, load: Callable[[], Config], times: LoopTime) -> int:
    """Run in an event loop, whose turns `times` measures; see `run`."""
    sidecar = Sidecar(config, load)
    server = WebServer(config.web, WebFileInUse(config.web.config_file), len(config.all_targets))
    sidecar.exporter.live = lambda: {**own_samples(server, times), **sidecar.otlp.samples()}
    app = make_app(sidecar, config.web.telemetry_path)
    server.protect(app)
    listening = open_sockets(config.web)
    try:
        await server.start(app, listening)
        event(_log, logging.INFO, "listening", address=",".join(listening.addresses), version=__version__)
        stop = _on_signals(sidecar)
        await sidecar.start()
        try:
            await stop.wait()
            event(_log, logging.INFO, "stopping")
        finally:
            await sidecar.stop()
    finally:
        await server.stop()
        listening.close()
    return 0


def _on_signals(sidecar: Sidecar) -> asyncio.Event:
    """Reload on SIGHUP, also on one received while the program started; return the event of SIGTERM and SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, sidecar.request_reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    return stop
