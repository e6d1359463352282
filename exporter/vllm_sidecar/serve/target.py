"""Wires the stages of one target, and runs its loops.

    scrape -> exposition -> normalize -> window -> derive -> snapshot

One loop polls the metrics, another sends one probe at a time. No poll waits for a probe, and slow or failing
probes change neither when the next poll is sent nor when its result is visible. `TargetState` keeps the results,
`TargetView` makes the snapshot, the charts and the explanations out of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from vllm_sidecar.canary import Canary, Situation
from vllm_sidecar.catalog.reasons import NOT_ONE_ENGINE, PollError, Reason
from vllm_sidecar.series.health import MAX_FAILED_POLLS, Health
from vllm_sidecar.serve.model_loading import model_loaded
from vllm_sidecar.serve.target_log import TargetLog
from vllm_sidecar.serve.target_parts import asleep, check_usable, poll_phase, why_no_metrics
from vllm_sidecar.serve.target_state import SOURCE, TargetState
from vllm_sidecar.serve.target_view import TargetView
from vllm_sidecar.slices import in_slices, to_the_end
from vllm_sidecar.vllm.cancellation import is_canceled
from vllm_sidecar.vllm.client import Client
from vllm_sidecar.vllm.engines import MAX_ENGINES
from vllm_sidecar.vllm.memory_limit import memory_limit, most_engines
from vllm_sidecar.vllm.normalize import Normalizer
from vllm_sidecar.vllm.scraper import Scraper
from vllm_sidecar.vllm.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.config import Config, Target
    from vllm_sidecar.gpu.monitor import GpuMonitor
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.series.store import WindowStore
    from vllm_sidecar.serve.snapshot import Snapshot
    from vllm_sidecar.slices import EvenSlices
    from vllm_sidecar.vllm.client import Response

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
        self.target = target
        self._label = target.name or SOURCE
        self._changed, self._clock = changed, clock
        self._normalizer = Normalizer(most_engines(memory_limit(), MAX_ENGINES))
        self._state = TargetState(target, config, gpus, clock, wall)
        self._log = TargetLog(self._label, clock)
        self._hold_until = -math.inf
        self._probe_soon = asyncio.Event()
        """Set by a poll that makes a probe due, such as one that finds a restart."""
        self._canary = Canary(self._situation, self._publish, clock=clock, wall=wall)
        self._view = TargetView(self._state, self._canary, self._log, target, config)
        self._use_polling(target, config, client or Client(target, config.scrape))
        self._state.use_derivation(config)
        self._state.health = replace(self._state.health, model_name=self._state.model_name)

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
        self.target = target
        self._view.use(target, config)
        self._state.use_derivation(config)
        async with self._state.windows_lock:
            self._state.windows.resize(config.windows.length, config.windows.keep)
        self._publish()

    def _use_polling(self, target: Target, config: Config, client: Client) -> None:
        scrape = self._scrape = config.scrape
        self._probe_settings, self._canary_settings = config.introspection, config.canary
        self._client = client
        self._scraper = Scraper(client, target.metrics_path)
        self._throttle = Throttle(
            scrape.interval, scrape.max_interval, scrape.server_time_ratio, answers_needed=POLLS_NEEDED
        )
        self._state.use(target, config, client)
        self._canary.use(target, config.canary)

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

    async def _keep_probing(self) -> None:
        """Probe until canceled; a bug is logged once, makes probes rarer, and affects no poll."""
        pause = PROBE_TICK
        while True:
            await asyncio.sleep(pause)
            try:
                await self._until_probe_is_due()
                await self.probe_once()
                pause = PROBE_TICK
            except (Exception, asyncio.CancelledError) as error:
                if is_canceled():
                    raise
                self._log.bug(error)
                pause = min(2.0 * pause, MAX_PROBE_PAUSE)

    async def _until_probe_is_due(self) -> None:
        """Wait without waking up each second: between probes the program has nothing else to do than to poll."""
        while (seconds := self._probe_due() - self._clock()) > 0.0:
            self._probe_soon.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if seconds == math.inf else seconds):
                    await self._probe_soon.wait()

    def _probe_due(self) -> float:
        """Return when the next probe is to be sent, in monotonic seconds; infinity while the server answers no poll."""
        if self._lacks_health_check():
            return -math.inf
        prober, health = self._state.prober, self._state.health
        if prober is None or not health.polls or health.reason not in (None, Reason.NO_VLLM_METRICS):
            return math.inf
        return max(self._hold_until, prober.due(asleep=self._asleep()))

    def _lacks_health_check(self) -> bool:
        """Return whether the server exposes no metrics of vLLM, and its /health was not asked yet."""
        return self._state.health.reason is Reason.NO_VLLM_METRICS and self._state.health_detail is None

    def _asleep(self) -> bool:
        readings = self._state.readings
        return readings is not None and asleep(readings)

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
        self._state.health = replace(
            self._state.health,
            interval=self._throttle.interval,
            server_time_ratio=self._throttle.server_time_ratio,
            model_name=self._state.model_name,
            models=self._state.models,
            certificates=self._client.certificates,
        )
        self._publish()
        if self._probe_due() <= self._clock():
            self._probe_soon.set()

    async def _poll(self) -> float:
        """Poll once; return the seconds that the answer cost the server."""
        state, began = self._state, self._clock()
        scraped = await self._scraper.scrape()
        readings = await in_slices(self._normalizer.steps(scraped.exposition, state.identity.served_model, began))
        check_usable(readings, scraped.exposition, state.health_detail)
        await model_loaded(readings)
        async with state.windows_lock:
            change = await to_the_end(state.succeeded(began, scraped, readings, self._throttle.interval))
        self._log.succeeded(scraped, readings)
        if change.restarted:
            self._log.restarted(state.windows.restarts)
        return scraped.response.cost

    def _poll_failed(self, began: float, error: PollError) -> None:
        state = self._state
        state.failed(began, error)
        if error.reason in NOT_ONE_ENGINE:
            self._hold_until = self._clock() + NOT_ONE_ENGINE_HOLD
            if state.prober:
                state.prober.start_over()
        if state.health.misses >= MAX_FAILED_POLLS or state.scraped is None:
            self._log.down(error)

    def _update_prober(self) -> None:
        """Pass the cache configuration of a poll to the prober."""
        prober, readings = self._state.prober, self._state.readings
        if prober is None or readings is None:
            return
        config, changes = readings.cache_config, prober.identity.changes
        try:
            prober.observe_cache_config(config[min(config)] if config else None)
        except Exception as error:  # noqa: BLE001 - a bug of the identity must not affect the poll
            self._log.bug(error)
        self._log.changed(prober.identity, changes)

    async def probe_once(self) -> None:
        """Send the probe that is due, if any, to a server that answers polls; never while another one is open."""
        prober = self._state.prober
        if self._probe_due() > self._clock():
            return
        if prober is None or self._lacks_health_check():
            await self._check_health()
        else:
            changes = prober.identity.changes
            if not await prober.step(self._clock(), asleep=self._asleep()):
                return
            self._log.changed(prober.identity, changes)
        self._publish()

    async def _check_health(self) -> None:
        """Find out with `/health` why there are no metrics: a healthy server probably runs with them disabled."""
        state = self._state
        state.health_detail = await why_no_metrics(self._client)
        if state.health.reason is Reason.NO_VLLM_METRICS:
            state.health = replace(state.health, detail=state.health_detail)

    def pause(self) -> None:
        """Drop all series that would look live, without a failure: the target is not polled until `run` is called."""
        self._state.pause()
        self._publish()

    def drop_series(self, error: BaseException) -> None:
        """Drop all series that would look live: `run` ended, which is a bug."""
        health = self._state.health
        if health.up or health.reason is not Reason.INTERNAL:
            self._state.failed_internally(error)
        self._state.readings = None
        self._publish()

    def _publish(self) -> None:
        """Expire old probe results, and let the next scrape make a new snapshot."""
        if self._state.prober:
            self._state.prober.expire(self._clock())
        self._view.changed()
        self._changed()

    def _situation(self) -> Situation:
        state, last = self._state, self._state.last_readings
        return Situation(
            state.model_name, state.identity.fingerprint, last is not None, last is not None and asleep(last)
        )

    @property
    def labels(self) -> Sequence[tuple[str, str]]:
        """Labels on every series of the target."""
        return self._view.labels

    @property
    def windows(self) -> WindowStore:
        """The polls that are remembered."""
        return self._state.windows

    @property
    def last_response(self) -> Response | None:
        """The last complete body, also one that could not be read; it costs nothing."""
        return self._scraper.last_response

    @property
    def last_success_age(self) -> float | None:
        """Seconds since the last successful poll; None before the first."""
        return self._state.last_success_age

    @property
    def readings(self) -> Readings | None:
        """The last successful poll; None before the first and while the source is down."""
        return self._state.readings

    @property
    def health(self) -> Health:
        """How the last polls went; unlike a snapshot it costs nothing."""
        return self._state.health

    @property
    def server_pid(self) -> int | None:
        """The server's process on this machine; None if unknown."""
        return self._state.prober.server_pid if self._state.prober else None

    @property
    def gpus_used(self) -> int | None:
        """GPUs of this machine that the server uses, according to its parallel sizes; None if unknown."""
        return self._state.gpus_used

    def snapshot(self) -> Snapshot:
        """Return the data of the last poll; the same object until the next one."""
        return self._view.snapshot()

    async def prepare(self, slices: EvenSlices) -> None:
        """Make the next snapshot engine by engine, so that many engines do not delay other tasks."""
        await self._view.prepare(slices)

    async def history(self, since: float, engine: str | None) -> list[dict[str, object]]:
        """Return the charts of the status page for the polls after a Unix time, of one engine or (None) of all."""
        return await self._view.history(since, engine)

    async def explanations(self) -> list[dict[str, object]]:
        """Return how the recent quantiles of each engine came about."""
        return await self._view.explanations()
