"""Probes of a vLLM server: who it is, how it was started, and what it has in flight -> Identity.

Only GETs, one at a time, next to the polls and never in their way. Every source is optional: what does not answer is
missing in the Identity and named in `source_errors`.
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
"""In `source_errors`: an answer that is not vLLM's; the log has the details."""

NO_PROCESS: Final = "no_process"
"""In `source_errors`: no process in /proc listens where the target is."""

LOAD_INTERVAL: Final = 10.0
"""Seconds between two probes of /load, whose value is that of a moment; less where the others are probed often."""
LOAD_PER_INTERVAL: Final = 6.0
"""Probes of /load to one of the others, at least."""
LOAD_KEPT: Final = 3.0
"""Intervals of /load after which its value is too old to be shown."""

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
"""What else goes wrong may have cost the server something."""


class ProbeClient(Protocol):
    """The HTTP client of one target (scrape.Client)."""

    async def get(
        self,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        accept: str = "",
        timeout: float = ...,  # noqa: ASYNC109 - the client owns its deadline
    ) -> Response:
        """Ask for `path` with a deadline in seconds; raises PollError when that gives no body with status 200."""
        ...


@dataclass(frozen=True, slots=True)
class Probing:
    """How a server is probed.

    `interval` and `timeout` are seconds, `args` is a vLLM command line from the config (may be empty), `proc` allows
    looking into /proc for a local target. All endpoints together take `server_time_ratio` of the server's time, each
    an equal share.
    """

    interval: float
    timeout: float
    server_time_ratio: float
    args: Sequence[str]
    proc: bool
    url: str
    unix_socket: Path | None


class Prober:
    """Keeps the Identity of one target up to date.

    `wall` gives Unix time, `proc_root` stands for /proc. `step` and `expire` take monotonic seconds.
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
        """Counts restarts: what was sent before one, and is answered after it, is of the process before."""
        self._confirmed: set[FactSource] = set()
        self._tried: set[FactSource] = set()
        self._labels: Mapping[str, str] | None = None
        self._loaded = False
        self._keeper.hold()
        self.use(client, probing)

    def use(self, client: ProbeClient, probing: Probing) -> None:
        """Take settings, also changed ones of the same server: what is known of it stays."""
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
        self._load_kept = LOAD_KEPT * load_interval
        if probing.args:
            self._keeper.update(FactSource.CONFIG, Facts(flags=parse_arguments(probing.args).flags))
        else:
            self._keeper.forget(FactSource.CONFIG)

    @property
    def identity(self) -> ServerIdentity:
        """What is known now; fingerprint and changes wait until every endpoint was tried once since the restart."""
        return self._keeper.identity

    @property
    def probes(self) -> Mapping[str, ProbeHealth]:
        """How the probes of each source went."""
        return {source.value: schedule.health for source, schedule in self._schedules.items()}

    @property
    def server_pid(self) -> int | None:
        """The server's process on this machine; None where /proc does not show it."""
        return self._finder.pid if self._finder else None

    def restart(self) -> None:
        """Note that the server is a new process: probe everything again now.

        What is known stays until its source answers, or says that it does not tell any more.
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
        """Note that it is not one server that answers: nothing that was answered is known, or a change of anything."""
        self.restart()
        self._keeper.start_over()

    def expire(self, now: float) -> None:
        """Forget what is too old to be live at a monotonic time."""
        if now - self._load_at > self._load_kept:
            self._keeper.forget(FactSource.LOAD)

    def observe_cache_config(self, labels: Mapping[str, str] | None) -> None:
        """Take the labels of cache_config_info from a metrics poll; None when the poll had no such metric.

        The Rust front end never has it. Cheap when nothing changed.
        """
        if labels is None:
            self._drop_unconfirmed(FactSource.CACHE_CONFIG)
        elif labels is not self._labels and labels != self._labels:
            self._keeper.update(FactSource.CACHE_CONFIG, parse_cache_config(labels))
            self._confirmed.add(FactSource.CACHE_CONFIG)
            self._labels = labels

    async def step(self, now: float, *, asleep: bool = False) -> bool:
        """Probe the one source that is due longest, if any; return whether one was.

        Args:
            now: Monotonic time in seconds.
            asleep: The engine sleeps (`engine_sleep_state`): only /version, which the engine does not see, is asked.
        """
        if asleep:
            self._keeper.forget(FactSource.LOAD)
        allowed = [source for source in self._schedules if not asleep or source in _WHILE_ASLEEP]
        source = min(allowed, key=lambda each: self._schedules[each].due)
        if self._schedules[source].due > now:
            return False
        self._schedules[source].sent(now)
        if self._finder is not None and source is FactSource.PROC:
            await self._look_into_proc(self._finder)
        else:
            await self._ask(source, now)
        return True

    async def _ask(self, source: FactSource, now: float) -> None:
        process = self._process
        try:
            answer = await self._client.get(
                str(source), query=_QUERIES.get(source, ()), accept="application/json", timeout=self._timeout
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
            self._failed(source, BAD_BODY, Failure.UNUSABLE, answer.seconds)
            self._drop_unconfirmed(source)
            return
        if source is FactSource.LOAD:
            self._load_at = now
            # Without --enable-server-load-tracking it says 0 for ever, which is not a number of requests.
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
            # The first failure of all may be a server that is not up yet, which will tell.
            self._tried.add(source)
        if source is FactSource.LOAD:
            self._keeper.forget(source)  # a number of requests is live or it is nothing

    async def _look_into_proc(self, finder: ProcessFinder) -> None:
        """Search /proc; a command line can block whoever reads it, for as long as its process hangs in the kernel."""
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
        """Forget what a source told of an earlier process of the server, now that it tells nothing of this one."""
        if source not in self._confirmed:
            self._keeper.forget(source)
