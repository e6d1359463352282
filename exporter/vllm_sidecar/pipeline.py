"""Wires the stages of one target; the only loop.

    scrape -> exposition -> normalise -> window -> derive -> snapshot

One request at a time: a poll of the metrics, then at most one question of the introspection, then sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from vllm_sidecar.beside import Beside, gpus_here
from vllm_sidecar.charts import charts
from vllm_sidecar.derive import latency
from vllm_sidecar.derive.slo import Objective
from vllm_sidecar.derive.views import Settings
from vllm_sidecar.health import MISSES, Health
from vllm_sidecar.introspect import Introspector
from vllm_sidecar.introspect.process import local_listener
from vllm_sidecar.log import event
from vllm_sidecar.model import Identity, PollError, Reason, Scope
from vllm_sidecar.normalise import Normaliser
from vllm_sidecar.pace import Pace
from vllm_sidecar.poller import Polled, Poller
from vllm_sidecar.remedy import REMEDY
from vllm_sidecar.scrape import Client
from vllm_sidecar.snapshot import Snapshot, Snapshotter
from vllm_sidecar.tally import Tally
from vllm_sidecar.window import Windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.config import Config, Slos, Target
    from vllm_sidecar.gpu.monitor import GpuMonitor
    from vllm_sidecar.model import Readings

SOURCE = "vllm"
HEALTH_TIMEOUT = 2.0
COSTS_NOTHING = frozenset(
    (Reason.REFUSED, Reason.UNREACHABLE, Reason.DNS, Reason.TLS, Reason.CREDENTIALS, Reason.TIMEOUT)
)
"""Failures for which the server did not render its metrics; a timeout would hide its end behind a long interval."""
SLEEPING = frozenset(("weights_offloaded", "discard_all"))

_log = logging.getLogger(__name__)


class Pipeline:
    """Polls one target for ever; says after each poll that there is something new."""

    def __init__(
        self,
        target: Target,
        config: Config,
        changed: Callable[[], None],
        *,
        gpus: Callable[[], GpuMonitor | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        scrape = config.scrape
        self.name = target.name or ""
        self._label = target.name or SOURCE
        self._changed, self._clock, self._wall = changed, clock, wall
        self._client = Client(target, scrape)
        self._poller = Poller(
            self._client, target.metrics_path, filtered=scrape.filtered, discovery_interval=scrape.discovery_interval
        )
        self._pace = Pace(scrape.interval, scrape.max_interval, scrape.server_time_ratio)
        self._normaliser = Normaliser()
        self._windows = Windows(config.windows.length, config.windows.keep)
        self._windows_still = asyncio.Lock()
        """Held while they are read one after the other, for a poll in between would undo them."""
        self._introspector = _introspector(target, config, self._client, wall)
        labels = (*(((("target", target.name),)) if target.name else ()), *sorted(target.labels.items()))
        settings = Settings(config.windows.min_observations, config.progress.stall_after, config.limits.adapters)
        self._snapshotter = Snapshotter(self.name, labels, settings)
        self._health = Health(SOURCE, interval=scrape.interval)
        self._local = local_listener(str(target.url), target.unix_socket) is not None
        self._beside = Beside(gpus, config.windows.length, local=self._local)
        self._tally = _tally(config.slos)
        self._readings: Readings | None = None
        self._polled: Polled | None = None
        self._logged_down: Reason | None = None
        self._unknown: tuple[str, ...] = ()
        self._current: Snapshot | None = None

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.__aexit__(*error)

    async def run(self) -> None:
        """Poll until cancelled."""
        async with self:
            while True:
                due = self._clock() + self._pace.interval
                await self.poll_once()
                await asyncio.sleep(max(0.0, due - self._clock()))

    async def poll_once(self) -> None:
        """Poll once and ask the introspection's next question."""
        began = self._clock()
        try:
            self._pace.spent(await self._poll(), await self._introspect())
        except PollError as error:
            if error.reason not in COSTS_NOTHING:
                self._pace.spent(self._clock() - began)
            await self._failed(error)
        except Exception as error:  # noqa: BLE001 - one target's bug must not end the others
            event(_log, logging.ERROR, "internal_error", target=self._label, exc_info=error)
            await self._failed(PollError(Reason.INTERNAL, f"{type(error).__name__}: {error}"))
        self._health = replace(
            self._health, interval=self._pace.interval, server_time_ratio=self._pace.server_time_ratio
        )
        self._current = None
        self._changed()

    async def _poll(self) -> float:
        now = self._clock()
        polled = await self._poller.poll(now)
        readings = self._normaliser.normalise(polled.exposition)
        if not readings.dialect.prefix:
            raise PollError(Reason.NO_VLLM_METRICS, await self._why_no_metrics())
        if polled.filtered:  # it holds only what is known
            readings = replace(readings, unknown=self._unknown)
        async with self._windows_still:
            self._took(polled, readings)
            self._windows.expect(self._pace.interval)
            restarted = self._windows.append(now, readings)
        self._beside.follow(self._windows, now, restarted=restarted)
        if self._tally:
            self._tally.follow(readings, self._windows)
        if restarted:
            event(_log, logging.WARNING, "server_restarted", target=self._label, restarts=self._windows.restarts)
            self._poller.rediscover()
            if self._introspector:
                self._introspector.restart()
        return polled.response.seconds

    def _took(self, polled: Polled, readings: Readings) -> None:
        """Keep a successful poll and log what is new about it."""
        before, health = self._polled, self._health
        self._polled, self._readings = polled, readings
        exposition, response = polled.exposition, polled.response
        self._health = health.succeeded(
            last_success=self._wall(),
            seconds=response.seconds,
            body_bytes=len(response.body),
            filtered=polled.filtered,
            rejected_lines=health.rejected_lines + exposition.rejected_count,
            anomalies=Counter(health.anomalies) + Counter(readings.anomalies),
        )
        if before is None or self._logged_down:
            event(_log, logging.INFO, "target_up", target=self._label, engine=readings.dialect.engine)
            self._logged_down = None
        if exposition.rejected and (before is None or before.exposition.rejected != exposition.rejected):
            first = exposition.rejected[0]
            event(_log, logging.WARNING, "lines_rejected", target=self._label, count=exposition.rejected_count,
                  line=first.line, why=first.why, text=first.text)  # fmt: skip
        if readings.unknown != self._unknown:
            self._unknown = readings.unknown
            event(_log, logging.INFO, "unknown_families", target=self._label, families=",".join(self._unknown))

    async def _introspect(self) -> float:
        introspector, readings = self._introspector, self._readings
        if introspector is None or readings is None:
            return 0.0
        config = readings.cache_config
        introspector.observe_cache_config(config[min(config)] if config else None)
        changes = introspector.identity.changes
        try:
            seconds = await introspector.step(self._clock(), asleep=_asleep(readings))
        except Exception as error:  # noqa: BLE001 - what the server is called must not cost what it measures
            event(_log, logging.ERROR, "internal_error", target=self._label, exc_info=error)
            return 0.0
        if introspector.identity.changes != changes:
            event(_log, logging.WARNING, "server_config_changed", target=self._label,
                  fingerprint=introspector.identity.fingerprint)  # fmt: skip
        return seconds

    async def _failed(self, error: PollError) -> None:
        self._health = self._health.failed(error.reason, error.detail)
        if not self._health.up:
            self._readings = None
        down = self._health.misses >= MISSES or self._polled is None
        if down and self._logged_down is not error.reason:
            self._logged_down = error.reason
            event(_log, logging.WARNING, "target_down", target=self._label, reason=error.reason.value,
                  detail=error.detail, remedy=REMEDY[error.reason])  # fmt: skip

    async def _why_no_metrics(self) -> str:
        """Say what `/health` says; asked on the first such poll only, for it is no answer to anything else."""
        if self._health.reason is Reason.NO_VLLM_METRICS:
            return self._health.detail
        try:
            await self._client.get("/health", timeout=HEALTH_TIMEOUT)
        except PollError as error:
            return f"no vLLM metric in the body, and /health fails: {error.detail}"
        return "no vLLM metric in the body though /health is fine: is vLLM running with --disable-log-stats?"

    @property
    def health(self) -> Health:
        """How the last polls went; unlike a snapshot it costs nothing."""
        return self._health

    def snapshot(self) -> Snapshot:
        """Return what is known after the last poll; the same object until the next one."""
        if self._current is None:
            try:
                self._current = self._take()
            except Exception as error:  # noqa: BLE001 - a bug in a derivation must not blank the other targets
                event(_log, logging.ERROR, "internal_error", target=self._label, exc_info=error)
                self._health = self._health.unusable(f"{type(error).__name__}: {error}")
                self._readings = None
                self._current = self._take()
        return self._current

    async def prepare(self) -> None:
        """Do the costly part of the next snapshot engine by engine: a scrape of many must not hold up all else."""
        if self._current is not None or self._readings is None:
            return
        async with self._windows_still:
            for window in self._windows.of(Scope.ENGINE).values():
                with contextlib.suppress(Exception):  # the snapshot meets it again, and says which signal it is
                    latency.prepare(window, self._snapshotter.settings.min_observations)
                await asyncio.sleep(0)

    def charts(self, since: float, engine: str | None) -> list[dict[str, object]]:
        """Return what the status page draws of the polls after a Unix time, of one engine or (None) of all."""
        return charts(self._windows, self._wall() - self._clock(), since, engine) if self._health.up else []

    def _take(self) -> Snapshot:
        identity = self._introspector.identity if self._introspector else Identity()
        gpus = self._beside.view(self._windows)
        slos = self._tally.rows(up=self._readings is not None) if self._tally else ()
        return self._snapshotter.take(self._readings, self._windows, identity, self._health, self._polled, gpus, slos)

    @property
    def server_pid(self) -> int | None:
        """The server's process on this machine; None where it is not known."""
        return self._introspector.server_pid if self._introspector else None

    @property
    def gpus_used(self) -> int | None:
        """GPUs of this machine that the server uses, as its parallel sizes say; None where no source tells."""
        flags = self._introspector.identity.flags if self._introspector else {}
        return gpus_here(flags, local=self._local)


def _asleep(readings: Readings) -> bool:
    return any(
        reading.gauges.get(("engine_sleep_state", state), 0.0) > 0.0
        for group, reading in readings.groups.items()
        if group.scope is Scope.ENGINE
        for state in SLEEPING
    )


def _introspector(target: Target, config: Config, client: Client, wall: Callable[[], float]) -> Introspector | None:
    asked = config.introspection
    if not asked.enabled:
        return None
    return Introspector(
        client,
        interval=asked.interval,
        timeout=asked.timeout,
        args=target.args,
        proc=asked.proc,
        url=str(target.url),
        unix_socket=target.unix_socket,
        wall=wall,
    )


def _tally(slos: Slos) -> Tally | None:
    if not slos.enabled:
        return None
    found = [
        Objective(each.name, latency.LATENCIES[each.latency], each.threshold, each.model) for each in slos.latencies
    ]
    return Tally(found, availability=slos.availability)
