"""Probes of a vLLM server: its identity, its flags, and its requests in flight -> ServerIdentity.

Only GETs, one at a time, which never delay the polls. Every source is optional: the facts of a source without an answer
are missing in the identity, and the source is listed in `source_errors`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.vllm.probes.arguments import Arguments, parse_arguments
from vllm_sidecar.vllm.probes.endpoints import (
    parse_cache_config,
    parse_load,
    parse_models,
    parse_server_info,
    parse_version,
)
from vllm_sidecar.vllm.probes.identity import Facts, FactSource, IdentityKeeper, ServerIdentity
from vllm_sidecar.vllm.probes.local_process import PROC, ProcessFinder, local_listener
from vllm_sidecar.vllm.probes.schedule import Failure, ProbeHealth, Schedule
from vllm_sidecar.vllm.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from vllm_sidecar.vllm.client import Response

__all__ = ["Introspector", "ProbeHealth"]

log = logging.getLogger(__name__)

BAD_BODY: Final = "bad_body"
"""In `source_errors`: an answer that is not from vLLM; the log has the details."""

NO_PROCESS: Final = "no_process"
"""In `source_errors`: no process in /proc listens at the target's address."""

LOAD_INTERVAL: Final = 10.0
"""Seconds between two probes of /load, whose value changes quickly; less where other sources are probed often."""
LOAD_PER_INTERVAL: Final = 6.0
"""Fewest probes of /load per probe of another source."""
LOAD_EXPIRES: Final = 3.0
"""Intervals of /load after which its value is too old to be exported."""

MAX_BODY: Final = 4 << 20
"""Bytes of the largest answer that is read, enough for 5,000 models; JSON is read without a pause."""

_PARSERS: Final[Mapping[FactSource, Callable[[bytes], Facts]]] = {
    FactSource.VERSION: parse_version,
    FactSource.MODELS: parse_models,
    FactSource.SERVER_INFO: parse_server_info,
    FactSource.LOAD: parse_load,
}
_QUERIES: Final[Mapping[FactSource, tuple[tuple[str, str], ...]]] = {
    FactSource.SERVER_INFO: (("config_format", "json"),)
}
_IDENTIFYING: Final = frozenset({FactSource.VERSION, FactSource.MODELS, FactSource.SERVER_INFO})
_WHILE_ASLEEP: Final = (FactSource.PROC, FactSource.VERSION)
_FAILURES: Final = {
    **dict.fromkeys((Reason.HTTP_401, Reason.HTTP_403, Reason.HTTP_404, Reason.HTTP_4XX), Failure.CLOSED),
    **dict.fromkeys((Reason.REFUSED, Reason.UNREACHABLE, Reason.DNS), Failure.UNREACHED),
}
"""Failures with other reasons may have cost the server time."""


class ProbeClient(Protocol):
    """The HTTP client of one target (vllm.client.Client)."""

    async def get(
        self,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        accept: str = "",
        timeout: float = ...,  # noqa: ASYNC109 - the client owns its deadline
        max_size: int = ...,
    ) -> Response:
        """Fetch `path` with a deadline in seconds; raises PollError unless the answer is a body with status 200."""
        ...


@dataclass(frozen=True, slots=True)
class Probing:
    """The settings of a server's probes.

    `interval` and `timeout` are seconds, `args` is a vLLM command line from the config (may be empty), `proc` allows
    reading /proc for a local target. All endpoints together take `server_time_ratio` of the server's time, each an
    equal share.
    """

    interval: float
    timeout: float
    server_time_ratio: float
    args: Sequence[str]
    proc: bool
    url: str
    unix_socket: Path | None


class Prober:
    """Keeps the identity of one target up to date.

    `wall` returns Unix time, `proc_root` replaces /proc. `step` and `expire` take monotonic seconds.
    """

    def __init__(
        self, client: ProbeClient, probing: Probing, *, wall: Callable[[], float] = time.time, proc_root: Path = PROC
    ) -> None:
        self._wall = wall
        self._proc_root = proc_root
        self._finder: ProcessFinder | None = None
        self._search: asyncio.Task[Arguments | None] | None = None
        self._keeper = IdentityKeeper(wall)
        self._schedules: dict[FactSource, Schedule] = {}
        self._settings: tuple[float, float] | None = None
        self._load_at = 0.0
        self._process = 0
        """Counts restarts: an answer to a probe from before a restart belongs to the previous process."""
        self._confirmed: set[FactSource] = set()
        self._tried: set[FactSource] = set()
        self._labels: Mapping[str, str] | None = None
        self._loaded = False
        self._keeper.hold()
        self.use(client, probing)

    def use(self, client: ProbeClient, probing: Probing) -> None:
        """Apply settings, also changed settings of the same server: known facts remain."""
        self._client, self._timeout, interval = client, probing.timeout, probing.interval
        listener = local_listener(probing.url, probing.unix_socket) if probing.proc else None
        if listener is None:
            self._finder = None
            self._keeper.forget(FactSource.PROC)
        elif self._finder is None:
            self._finder = ProcessFinder(listener, self._proc_root)
        load_interval = min(interval / LOAD_PER_INTERVAL, LOAD_INTERVAL)
        share = probing.server_time_ratio / len(_PARSERS)
        before, self._settings = self._settings, (interval, share)
        kept = self._schedules if before == self._settings else {}
        self._schedules = {
            source: kept.get(source)
            or Schedule(load_interval if source is FactSource.LOAD else interval, interval, share)
            for source in (*((FactSource.PROC,) if self._finder else ()), *_PARSERS)
        }
        self._load_expires_after = LOAD_EXPIRES * load_interval
        if probing.args:
            self._keeper.update(FactSource.CONFIG, Facts(flags=parse_arguments(probing.args).flags))
        else:
            self._keeper.forget(FactSource.CONFIG)

    @property
    def identity(self) -> ServerIdentity:
        """The known facts; fingerprint and changes wait until every endpoint was tried once since the restart."""
        return self._keeper.identity

    @property
    def probes(self) -> Mapping[str, ProbeHealth]:
        """The health of the probes of each source."""
        return {source.value: schedule.health for source, schedule in self._schedules.items()}

    @property
    def server_pid(self) -> int | None:
        """The server's process on this machine; None if /proc does not show it."""
        return self._finder.pid if self._finder else None

    def restart(self) -> None:
        """Note that the server is a new process: probe everything again now.

        Known facts remain until their source answers, or no longer exposes them.
        """
        self._process += 1
        for schedule in self._schedules.values():
            schedule.restart()
        self._confirmed.clear()
        self._tried.clear()
        self._labels = None
        self._loaded = False
        self._keeper.forget(FactSource.LOAD)
        self._keeper.hold()

    def start_over(self) -> None:
        """Note that several servers answer: discard all facts from answers, and count no change."""
        self.restart()
        self._keeper.start_over()

    def expire(self, now: float) -> None:
        """Forget values that are too old to be live at a monotonic time."""
        if now - self._load_at > self._load_expires_after:
            self._keeper.forget(FactSource.LOAD)

    def observe_cache_config(self, labels: Mapping[str, str] | None) -> None:
        """Take the labels of cache_config_info from a metrics poll; None if the poll had no such metric.

        The Rust front end never exposes it. Cheap if nothing changed.
        """
        if labels is None:
            self._drop_unconfirmed(FactSource.CACHE_CONFIG)
        elif labels is not self._labels and labels != self._labels:
            self._keeper.update(FactSource.CACHE_CONFIG, parse_cache_config(labels))
            self._confirmed.add(FactSource.CACHE_CONFIG)
            self._labels = labels

    def due(self, *, asleep: bool = False) -> float:
        """Return when `step` probes next, in monotonic seconds."""
        return self._schedules[self._next(asleep=asleep)].due

    def _next(self, *, asleep: bool) -> FactSource:
        allowed = [source for source in self._schedules if not asleep or source in _WHILE_ASLEEP]
        return min(allowed, key=lambda each: self._schedules[each].due)

    async def step(self, now: float, *, asleep: bool = False) -> bool:
        """Probe the source that has been due longest, if any; return whether one was probed.

        Args:
            now: Monotonic time in seconds.
            asleep: The engine sleeps (`engine_sleep_state`): only /version, which does not reach the engine, is probed.
        """
        if asleep:
            self._keeper.forget(FactSource.LOAD)
        source = self._next(asleep=asleep)
        if self._schedules[source].due > now:
            return False
        self._schedules[source].sent(now)
        if self._finder is not None and source is FactSource.PROC:
            await self._search_proc(self._finder)
        else:
            await self._probe(source, now)
        return True

    async def _probe(self, source: FactSource, now: float) -> None:
        process = self._process
        try:
            answer = await self._client.get(
                str(source),
                query=_QUERIES.get(source, ()),
                accept="application/json",
                timeout=self._timeout,
                max_size=MAX_BODY,
            )
        except PollError as error:
            if process == self._process:
                self._refused(source, error.reason)
        else:
            if process == self._process:
                self._read(source, answer, now)
        if self._tried >= _IDENTIFYING:
            self._keeper.settle()

    def _read(self, source: FactSource, answer: Response, now: float) -> None:
        self._tried.add(source)
        try:
            facts = _PARSERS[source](answer.body)
        except ValueError as error:
            if self.identity.source_errors.get(source) != BAD_BODY:
                log.warning("answer of %s is not vLLM's: %s", source, error)
            self._failed(source, BAD_BODY, Failure.UNUSABLE, answer.cost)
            self._drop_unconfirmed(source)
            return
        if source is FactSource.LOAD:
            self._load_at = now
            # Without --enable-server-load-tracking the value is always 0, and not a number of requests.
            self._loaded |= bool(facts.requests_in_flight)
            facts = facts if self._loaded else Facts()
        self._answered(source, facts, answer.seconds)

    def _refused(self, source: FactSource, reason: Reason) -> None:
        failure = _FAILURES.get(reason, Failure.COSTLY)
        self._failed(source, reason.value, failure)
        if failure is Failure.CLOSED:
            self._tried.add(source)
            self._drop_unconfirmed(source)
        elif failure is Failure.COSTLY and (self._tried or self._schedules[source].keeps_failing):
            # The first failure may be that of a server that is still starting, whose facts are yet to come.
            self._tried.add(source)
        if source is FactSource.LOAD:
            self._keeper.forget(source)  # a number of requests is only useful while it is live

    async def _search_proc(self, finder: ProcessFinder) -> None:
        """Search /proc; reading a command line can block as long as its process hangs in the kernel."""
        if self._search is not None and not self._search.done():
            self._failed(FactSource.PROC, Reason.TIMEOUT.value, Failure.COSTLY)
            return
        process, began = self._process, time.monotonic()
        self._search = asyncio.create_task(in_daemon_thread("proc", finder.find))
        await asyncio.wait((self._search,), timeout=self._timeout)
        if process != self._process:
            return
        if not self._search.done():
            self._failed(FactSource.PROC, Reason.TIMEOUT.value, Failure.COSTLY)
            return
        found = self._search.result()
        if found is None:
            self._failed(FactSource.PROC, NO_PROCESS, Failure.UNUSABLE)
            self._drop_unconfirmed(FactSource.PROC)
            return
        self._answered(FactSource.PROC, Facts(flags=found.flags), time.monotonic() - began)

    def _answered(self, source: FactSource, facts: Facts, seconds: float) -> None:
        self._confirmed.add(source)
        self._schedules[source].answered(seconds, self._wall())
        self._keeper.update(source, facts)
        self._keeper.fail(source, None)

    def _failed(self, source: FactSource, reason: str, failure: Failure, seconds: float | None = None) -> None:
        self._schedules[source].failed(failure, seconds)
        self._keeper.fail(source, reason)

    def _drop_unconfirmed(self, source: FactSource) -> None:
        """Forget facts of an earlier process of the server if this source exposes none of the current one."""
        if source not in self._confirmed:
            self._keeper.forget(source)
