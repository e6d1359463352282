"""Wires the stages of one target, and runs its two loops.

    scrape -> exposition -> normalize -> window -> derive -> snapshot

One loop polls the metrics, the other sends one probe at a time. No poll waits for a probe, and slow or failing
probes change neither when the next poll is sent nor when its result is visible.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Self

from vllm_sidecar.canary import Canary, Situation
from vllm_sidecar.catalog.reasons import NOT_ONE_ENGINE, PollError, Reason
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.derive import latency
from vllm_sidecar.derive.inputs import DeriveSettings
from vllm_sidecar.series.health import MAX_FAILED_POLLS, Health
from vllm_sidecar.series.startup import Startup
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.serve.explanations import explanations
from vllm_sidecar.serve.gpu_join import GpuJoin, gpus_here
from vllm_sidecar.serve.history import History
from vllm_sidecar.serve.model_loading import model_loaded
from vllm_sidecar.serve.snapshot import Snapshot, Snapshotter
from vllm_sidecar.serve.target_log import TargetLog
from vllm_sidecar.serve.target_parts import (
    asleep,
    check_usable,
    exceeded,
    make_prober,
    make_slo_counters,
    objectives,
    poll_phase,
    why_no_metrics,
)
from vllm_sidecar.slices import at_once, in_slices
from vllm_sidecar.vllm.cancellation import is_canceled
from vllm_sidecar.vllm.client import Client
from vllm_sidecar.vllm.normalize import Normalizer
from vllm_sidecar.vllm.probes.identity import ServerIdentity
from vllm_sidecar.vllm.probes.local_process import local_listener
from vllm_sidecar.vllm.scraper import Scrape, Scraper
from vllm_sidecar.vllm.served_model import ServedModel
from vllm_sidecar.vllm.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from vllm_sidecar.config import Config, Target
    from vllm_sidecar.gpu.monitor import GpuMonitor
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.series.slo_counters import SloCounters
    from vllm_sidecar.slices import EvenSlices
    from vllm_sidecar.vllm.client import Response
    from vllm_sidecar.vllm.probes import Prober

SOURCE = "vllm"
POLLS_NEEDED = 3
"""Polls before their cost may lengthen the interval: the first one of a busy server would do so for a minute."""
PROBE_TICK = 1.0
"""Least seconds between two probes, so that probes that are due at the same time are spread."""
MAX_PROBE_PAUSE = 60.0
"""Longest pause in seconds; it is doubled while a bug ends each probe."""
NOT_ONE_ENGINE_HOLD = 120.0
"""Seconds after such a poll for which no probe is sent."""
NOT_CHARGED = frozenset(
    (Reason.REFUSED, Reason.UNREACHABLE, Reason.DNS, Reason.TLS, Reason.CREDENTIALS, Reason.TIMEOUT)
)
"""Failures for which the server did not render its metrics; a timeout would hide its end behind a long interval."""


class TargetLoop:
    """Polls one target until canceled; calls `changed` after each poll."""

    def __init__(
        self,
        target: Target,
        config: Config,
        changed: Callable[[], None],
        *,
        client: Client | None = None,
        gpus: Callable[[], GpuMonitor | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = target.name or ""
        self._label = target.name or SOURCE
        self._changed, self._clock, self._wall = changed, clock, wall
        self._normalizer = Normalizer()
        self._windows = WindowStore(config.windows.length, config.windows.keep)
        self._windows_lock = asyncio.Lock()
        """Locked while windows are prepared one by one: a poll in between would make that useless."""
        self._health = Health(SOURCE, interval=config.scrape.interval)
        self._served = ServedModel()
        self._startup = Startup()
        self._succeeded_at: float | None = None
        self._local = local_listener(str(target.url), target.unix_socket) is not None
        self._gpu_join = GpuJoin(gpus, config.windows.length, local=self._local)
        self._prober: Prober | None = None
        self._slo_counters: SloCounters | None = None
        self._history = History()
        self._readings: Readings | None = None
        self._scraped: Scrape | None = None
        self._log = TargetLog(self._label, clock)
        self._health_detail: str | None = None
        """Result of /health since the body has no metric of vLLM; None if it was not requested."""
        self._hold_until = -math.inf
        self._current: Snapshot | None = None
        self._published = 0
        """How often `_current` became old."""
        self._last_readings: Readings | None = None
        """Of the last successful poll, also while the source is down."""
        self._canary = Canary(self._situation, self._publish, clock=clock, wall=wall)
        self._use_polling(target, config, client or Client(target, config.scrape))
        self._use_derivation(target, config)
        self._health = replace(self._health, model_name=self._served.name(self._identity))

    def needs_new_client(self, target: Target, config: Config) -> bool:
        """Return whether settings of polling changed, so that `run` has to end before `apply`."""
        before = (
            self.target.model_copy(update={"labels": {}}),
            self._scrape,
            self._probe_settings,
            self._canary_settings,
        )
        after = (target.model_copy(update={"labels": {}}), config.scrape, config.introspection, config.canary)
        return before != after

    async def apply(self, target: Target, config: Config) -> None:
        """Apply changed settings of the same server, which keeps its counters, windows and identity."""
        if self.needs_new_client(target, config):
            self._use_polling(target, config, Client(target, config.scrape))
        self._use_derivation(target, config)
        async with self._windows_lock:
            self._windows.resize(config.windows.length, config.windows.keep)
        self._publish()

    def _use_polling(self, target: Target, config: Config, client: Client) -> None:
        scrape = self._scrape = config.scrape
        self._probe_settings, self._canary_settings = config.introspection, config.canary
        self._client = client
        self._scraper = Scraper(client, target.metrics_path)
        self._throttle = Throttle(
            scrape.interval, scrape.max_interval, scrape.server_time_ratio, answers_needed=POLLS_NEEDED
        )
        self._prober = make_prober(self._prober, target, config, client, self._wall)
        self._canary.use(target, config.canary)

    def _use_derivation(self, target: Target, config: Config) -> None:
        self.target = target
        labels = (*(((("target", target.name),)) if target.name else ()), *sorted(target.labels.items()))
        settings = DeriveSettings(
            config.windows.min_observations,
            config.progress.stall_after,
            config.limits.adapters,
            objectives(config.slos),
        )
        self._snapshotter = Snapshotter(self.name, labels, settings)
        self._gpu_join.warm_up = config.windows.length
        self._slo_counters = make_slo_counters(self._slo_counters, config.slos)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.__aexit__(*error)

    async def run(self) -> None:
        """Poll and probe until canceled.

        Raises:
            ExceptionGroup: Polling cannot continue; all series that would look live were dropped.
        """
        async with self, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_probing(), name=f"probe {self._label}")
            tasks.create_task(self._canary.run(poll_phase(self.target.name)), name=f"canary {self._label}")
            await self._keep_polling()

    async def _keep_polling(self) -> None:
        try:
            due = self._clock() + poll_phase(self.target.name) * self._throttle.interval
            while True:
                await asyncio.sleep(max(0.0, due - self._clock()))
                # From the time at which it was due, so that a late poll delays no other one.
                due = max(due, self._clock() - self._throttle.interval) + self._throttle.interval
                await self.poll_once()
        except (Exception, asyncio.CancelledError) as error:
            if is_canceled():
                raise
            self.drop_series(error)
            raise RuntimeError(f"polling of {self._label} ended") from error

    def pause(self) -> None:
        """Drop all series that would look live, without a failure: the target is not polled until `run` is called."""
        self._health = replace(self._health, up=False, misses=0, reason=None, detail="")
        self._readings = None
        self._publish()

    def drop_series(self, error: BaseException) -> None:
        """Drop all series that would look live: `run` ended, which is a bug."""
        if self._health.up or self._health.reason is not Reason.INTERNAL:
            self._health = self._health.failed_internally(f"{type(error).__name__}: {error}")
        self._readings = None
        self._publish()

    async def _keep_probing(self) -> None:
        """Probe until canceled; a bug is logged once, makes probes rarer, and affects no poll."""
        pause = PROBE_TICK
        while True:
            await asyncio.sleep(pause)
            try:
                await self.probe_once()
                pause = PROBE_TICK
            except (Exception, asyncio.CancelledError) as error:
                if is_canceled():
                    raise
                self._log.bug(error)
                pause = min(2.0 * pause, MAX_PROBE_PAUSE)

    async def poll_once(self) -> None:
        """Poll once, and publish the result."""
        began = self._clock()
        try:
            self._throttle.spent(await self._poll())
        except PollError as error:
            if error.reason not in NOT_CHARGED:
                self._throttle.spent(self._clock() - began)
            self._poll_failed(began, error)
        except Exception as error:  # noqa: BLE001 - one target's bug must not end the others
            self._log.bug(error)
            self._poll_failed(began, PollError(Reason.INTERNAL, f"{type(error).__name__}: {error}"))
        else:
            self._update_prober()
        self._health = replace(
            self._health,
            interval=self._throttle.interval,
            server_time_ratio=self._throttle.server_time_ratio,
            model_name=self._served.name(self._identity),
        )
        self._publish()

    async def probe_once(self) -> None:
        """Send the probe that is due, if any, to a server that answers polls; never while another one is open."""
        reason = self._health.reason
        if reason is Reason.NO_VLLM_METRICS and self._health_detail is None:
            await self._check_health()
        elif self._prober and self._health.polls and reason in (None, Reason.NO_VLLM_METRICS):
            if self._clock() < self._hold_until:
                return
            changes = self._prober.identity.changes
            sleeps = self._readings is not None and asleep(self._readings)
            if not await self._prober.step(self._clock(), asleep=sleeps):
                return
            self._log.changed(self._identity, changes)
        else:
            return
        self._publish()

    def _publish(self) -> None:
        """Expire old probe results, and let the next scrape make a new snapshot."""
        if self._prober:
            self._prober.expire(self._clock())
        self._current = None
        self._published += 1
        self._changed()

    async def _poll(self) -> float:
        now = self._clock()
        scraped = await self._scraper.scrape()
        served = self._identity.served_model
        readings = await in_slices(self._normalizer.steps(scraped.exposition, served, now))
        check_usable(readings, scraped.exposition, self._health_detail)
        await model_loaded(readings)
        date = scraped.response.date
        async with self._windows_lock:
            self._windows.expect(self._throttle.interval)
            self._windows.in_flight = self._identity.requests_in_flight
            clock = self._wall() if date is None else date
            change = self._windows.append(now, readings, clock)
            self._startup.answered(now, readings, clock, change)
            self._poll_succeeded(scraped, readings)
        self._gpu_join.follow(self._windows, now, restarted=change.restarted or change.resumed)
        if self._slo_counters:
            self._slo_counters.follow(readings, self._windows)
        if change.restarted:
            self._log.restarted(self._windows.restarts)
        if self._prober and (change.restarted or change.resumed):
            self._prober.restart()
        return scraped.response.cost

    def _poll_succeeded(self, scraped: Scrape, readings: Readings) -> None:
        """Store a successful poll and log its changes."""
        health = self._health
        self._scraped, self._readings, self._health_detail = scraped, readings, None
        self._last_readings = readings
        self._served.observe(readings)
        self._succeeded_at = self._clock()
        exposition, response = scraped.exposition, scraped.response
        self._health = health.succeeded(
            last_success=self._wall(),
            seconds=response.seconds,
            body_bytes=len(response.body),
            rejected_lines=health.rejected_lines + exposition.rejected_count,
            anomalies=Counter(health.anomalies) + Counter(readings.anomalies),
            limits=Counter(health.limits) + Counter(exceeded(readings, self._identity)),
        )
        self._log.succeeded(scraped, readings)

    def _update_prober(self) -> None:
        """Pass the cache configuration of a poll to the prober."""
        prober, readings = self._prober, self._readings
        if prober is None or readings is None:
            return
        config, changes = readings.cache_config, prober.identity.changes
        try:
            prober.observe_cache_config(config[min(config)] if config else None)
        except Exception as error:  # noqa: BLE001 - a bug of the identity must not affect the poll
            self._log.bug(error)
        self._log.changed(self._identity, changes)

    @property
    def _identity(self) -> ServerIdentity:
        return self._prober.identity if self._prober else ServerIdentity()

    def _poll_failed(self, began: float, error: PollError) -> None:
        self._startup.missed(began, error.reason)
        self._health = self._health.failed(error.reason, error.detail)
        if error.reason in NOT_ONE_ENGINE:
            self._hold_until = self._clock() + NOT_ONE_ENGINE_HOLD
            if self._prober:
                self._prober.start_over()
        if error.reason is not Reason.SEVERAL_SERVERS:
            self._windows.missed()
        if not self._health.up:
            self._readings = None
        if self._health.misses >= MAX_FAILED_POLLS or self._scraped is None:
            self._log.down(error)

    async def _check_health(self) -> None:
        """Find out with `/health` why there are no metrics: a healthy server probably runs with them disabled."""
        self._health_detail = await why_no_metrics(self._client)
        if self._health.reason is Reason.NO_VLLM_METRICS:
            self._health = replace(self._health, detail=self._health_detail)

    @property
    def labels(self) -> Sequence[tuple[str, str]]:
        """Labels on every series of the target."""
        return self._snapshotter.labels

    @property
    def windows(self) -> WindowStore:
        """The polls that are remembered."""
        return self._windows

    @property
    def last_response(self) -> Response | None:
        """The last complete body, also one that could not be read; it costs nothing."""
        return self._scraper.last_response

    @property
    def last_success_age(self) -> float | None:
        """Seconds since the last successful poll; None before the first."""
        return None if self._succeeded_at is None else self._clock() - self._succeeded_at

    @property
    def readings(self) -> Readings | None:
        """The last successful poll; None before the first and while the source is down."""
        return self._readings

    @property
    def health(self) -> Health:
        """How the last polls went; unlike a snapshot it costs nothing."""
        return self._health

    def snapshot(self) -> Snapshot:
        """Return the data of the last poll; the same object until the next one."""
        if self._current is None:
            try:
                self._current = at_once(self._make_snapshot())
            except Exception as error:  # noqa: BLE001 - a bug in a derivation must not blank the other targets
                self._log.bug(error)
                self._health = self._health.failed_internally(f"{type(error).__name__}: {error}")
                self._readings = None
                self._current = at_once(self._make_snapshot())
        return self._current

    async def prepare(self, slices: EvenSlices) -> None:
        """Make the next snapshot engine by engine, so that many engines do not delay other tasks."""
        if self._current is not None or self._readings is None:
            return
        async with self._windows_lock:
            for window in self._windows.of(Scope.ENGINE).values():
                with contextlib.suppress(Exception):  # the snapshot raises it again and logs the signal
                    latency.prepare(window, self._snapshotter.settings.min_observations)
                await slices.pause()
            published = self._published
            with contextlib.suppress(Exception):  # `snapshot` raises it again and handles it
                made = await slices.run(self._make_snapshot())
                if published == self._published:
                    self._current = made

    async def history(self, since: float, engine: str | None) -> list[dict[str, object]]:
        """Return the charts of the status page for the polls after a Unix time, of one engine or (None) of all."""
        if not self._health.up:
            return []
        return await self._history.draw(self._windows, self._wall() - self._clock(), since, engine)

    async def explanations(self) -> list[dict[str, object]]:
        """Return how the recent quantiles of each engine came about."""
        return await explanations(self._windows) if self._health.up else []

    def _make_snapshot(self) -> Generator[None, None, Snapshot]:
        identity = self._identity
        gpus = self._gpu_join.view(self._windows)
        followed = self._slo_counters if not self._windows.several else None
        slos = followed.rows(up=self._readings is not None) if followed else ()
        probes = self._prober.probes if self._prober else {}
        health, startup = self._health, self._startup.seconds
        counted = chain(slos, self._canary.samples())
        made = yield from self._snapshotter.steps(
            self._readings, self._windows, identity, health, self._scraped, gpus, counted, probes, startup
        )
        return replace(made, canary=self._canary.report())

    def _situation(self) -> Situation:
        identity, last = self._identity, self._last_readings
        return Situation(
            self._served.name(identity), identity.fingerprint, last is not None, last is not None and asleep(last)
        )

    @property
    def server_pid(self) -> int | None:
        """The server's process on this machine; None if unknown."""
        return self._prober.server_pid if self._prober else None

    @property
    def gpus_used(self) -> int | None:
        """GPUs of this machine that the server uses, according to its parallel sizes; None if unknown."""
        return gpus_here(self._identity.flags, local=self._local)
