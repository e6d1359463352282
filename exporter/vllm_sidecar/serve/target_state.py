"""The data of one target: what its polls and probes found, kept through a reload."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.series.health import Health
from vllm_sidecar.series.startup import Startup
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.serve.gpu_join import GpuJoin, gpus_here
from vllm_sidecar.serve.target_parts import exceeded, make_prober, make_slo_counters
from vllm_sidecar.vllm.probes.identity import ServerIdentity
from vllm_sidecar.vllm.probes.local_process import local_listener
from vllm_sidecar.vllm.served_model import ServedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from vllm_sidecar.config import Config, Target
    from vllm_sidecar.gpu.monitor import GpuMonitor
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.series.server_process import Change
    from vllm_sidecar.series.slo_counters import SloCounters
    from vllm_sidecar.vllm.client import Client
    from vllm_sidecar.vllm.probes import Prober
    from vllm_sidecar.vllm.scraper import Scrape

SOURCE = "vllm"


class TargetState:
    """Windows, health, identity and counters of one target.

    `clock` returns monotonic seconds, `wall` Unix time.
    """

    def __init__(
        self,
        target: Target,
        config: Config,
        gpus: Callable[[], GpuMonitor | None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.clock, self.wall = clock, wall
        self.windows = WindowStore(config.windows.length, config.windows.keep)
        self.windows_lock = asyncio.Lock()
        """Locked while windows are prepared one by one: a poll in between would make that useless."""
        self.health = Health(SOURCE, interval=config.scrape.interval, watched_since=wall())
        self.startup = Startup()
        self.readings: Readings | None = None
        """The last successful poll; None before the first and while the source is down."""
        self.last_readings: Readings | None = None
        """The last successful poll, also while the source is down."""
        self.scraped: Scrape | None = None
        self.health_detail: str | None = None
        """Result of /health since the body has no metric of vLLM; None if it was not requested."""
        self.succeeded_at: float | None = None
        self.prober: Prober | None = None
        self.slo_counters: SloCounters | None = None
        self.local = local_listener(str(target.url), target.unix_socket) is not None
        self.gpu_join = GpuJoin(gpus, config.windows.length, local=self.local)
        self._served = ServedModel()

    def use(self, target: Target, config: Config, client: Client) -> None:
        """Take the settings of probes; their facts remain."""
        self.prober = make_prober(self.prober, target, config, client, self.wall)

    def use_derivation(self, config: Config) -> None:
        """Take the settings of what is counted; the counts remain."""
        self.gpu_join.warm_up = config.windows.length
        self.slo_counters = make_slo_counters(self.slo_counters, config.slos)

    @property
    def identity(self) -> ServerIdentity:
        """The facts of the probes; without probes an empty identity."""
        return self.prober.identity if self.prober else ServerIdentity()

    @property
    def model_name(self) -> str:
        """The model that the server serves, the first of several; empty until it is known."""
        return self._served.name(self.identity)

    @property
    def models(self) -> Sequence[str]:
        """Every model that the server serves, or served last; empty before the first successful poll."""
        return self._served.all

    @property
    def last_success_age(self) -> float | None:
        """Seconds since the last successful poll; None before the first."""
        return None if self.succeeded_at is None else self.clock() - self.succeeded_at

    @property
    def gpus_used(self) -> int | None:
        """GPUs of this machine that the server uses, according to its parallel sizes; None if unknown."""
        return gpus_here(self.identity.flags, local=self.local)

    def succeeded(
        self, began: float, scraped: Scrape, readings: Readings, interval: float
    ) -> Generator[None, None, Change]:
        """Take a poll that began at a monotonic time, of polls each `interval` seconds; return what it changed.

        Pauses after each group; once begun it must be finished.

        Raises:
            PollError: Several servers answer at the address; the poll is not taken.
        """
        date = scraped.response.date
        clock = self.wall() if date is None else date
        self.windows.expect(interval)
        self.windows.in_flight = self.identity.requests_in_flight
        change = yield from self.windows.steps(began, readings, clock)
        self.startup.answered(began, readings, clock, change)
        self.scraped, self.readings, self.last_readings, self.health_detail = scraped, readings, readings, None
        self._served.observe(readings)
        self.succeeded_at = self.clock()
        self._count(scraped, readings)
        self.gpu_join.follow(self.windows, began, restarted=change.restarted or change.resumed)
        if self.slo_counters:
            yield from self.slo_counters.steps(readings, self.windows)
        if self.prober and (change.restarted or change.resumed):
            self.prober.restart()
        return change

    def _count(self, scraped: Scrape, readings: Readings) -> None:
        health, exposition, response = self.health, scraped.exposition, scraped.response
        self.health = health.succeeded(
            last_success=self.wall(),
            seconds=response.seconds,
            body_bytes=len(response.body),
            rejected_lines=health.rejected_lines + exposition.rejected_count,
            anomalies=_added(health.anomalies, readings.anomalies),
            limits=_added(health.limits, Counter(exceeded(readings, self.identity))),
        )

    def failed(self, began: float, error: PollError) -> None:
        """Take a failed poll that began at a monotonic time."""
        self.startup.missed(began, error.reason)
        self.health = self.health.failed(error.reason, error.detail)
        if error.reason is not Reason.SEVERAL_SERVERS:
            self.windows.missed()
        if not self.health.up:
            self.readings = None

    def failed_internally(self, error: BaseException) -> None:
        """Drop everything that would look live: a bug is the reason."""
        self.health = self.health.failed_internally(f"{type(error).__name__}: {error}")
        self.readings = None

    def pause(self) -> None:
        """Drop everything that would look live, without a failure."""
        self.health = replace(self.health, up=False, misses=0, reason=None, detail="")
        self.readings = None


def _added(before: Mapping[str, int], new: Mapping[str, int]) -> Mapping[str, int]:
    return Counter(before) + Counter(new) if new else before
