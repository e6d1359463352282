"""Asks a vLLM server slowly who it is and how it was started -> Identity. Only GETs, at most one per step.

Every source is optional: what does not answer is missing in the Identity and named in `source_errors`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Final, Protocol

from vllm_sidecar.introspect.arguments import parse_arguments
from vllm_sidecar.introspect.endpoints import (
    parse_cache_config,
    parse_load,
    parse_models,
    parse_server_info,
    parse_version,
)
from vllm_sidecar.introspect.identity import Facts, IdentityKeeper, Source
from vllm_sidecar.introspect.process import PROC, ProcessFinder, local_listener
from vllm_sidecar.model import Identity, PollError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from vllm_sidecar.model import Response

__all__ = ["Introspector"]

log = logging.getLogger(__name__)

BAD_BODY: Final = "bad_body"
"""In `source_errors`: an answer that is not vLLM's; the log has the details."""

NO_PROCESS: Final = "no_process"
"""In `source_errors`: no process in /proc listens where the target is."""

_PARSERS: Final[Mapping[Source, Callable[[bytes], Facts]]] = {
    Source.VERSION: parse_version,
    Source.MODELS: parse_models,
    Source.SERVER_INFO: parse_server_info,
    Source.LOAD: parse_load,
}
_QUERIES: Final[Mapping[Source, tuple[tuple[str, str], ...]]] = {Source.SERVER_INFO: (("config_format", "json"),)}
_IDENTIFYING: Final = frozenset({Source.VERSION, Source.MODELS, Source.SERVER_INFO})
_DENIED: Final = frozenset({Reason.HTTP_401, Reason.HTTP_403, Reason.HTTP_404, Reason.HTTP_4XX})
_UNREACHED: Final = frozenset({Reason.REFUSED, Reason.UNREACHABLE, Reason.DNS})
_DENIED_INTERVALS: Final = 10.0
_UNREACHED_INTERVALS: Final = 0.1


class Client(Protocol):
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


class Introspector:
    """Keeps the Identity of one target up to date.

    `interval` and `timeout` are seconds, `args` is a vLLM command line from the config (may be empty), `proc` allows
    looking into /proc (`proc_root`) for a local target, `wall` gives Unix time. `step` takes monotonic seconds.
    """

    def __init__(
        self,
        client: Client,
        *,
        interval: float,
        timeout: float,
        args: Sequence[str],
        proc: bool,
        url: str,
        unix_socket: Path | None,
        wall: Callable[[], float] = time.time,
        proc_root: Path = PROC,
    ) -> None:
        self._client = client
        self._interval = interval
        self._timeout = timeout
        listener = local_listener(url, unix_socket) if proc else None
        self._finder = ProcessFinder(listener, proc_root) if listener is not None else None
        self._keeper = IdentityKeeper(wall)
        self._due = dict.fromkeys(_PARSERS, -math.inf)
        self._proc_due = -math.inf
        self._confirmed: set[Source] = set()
        self._tried: set[Source] = set()
        self._labels: Mapping[str, str] | None = None
        self._loaded = False
        self._keeper.hold()
        if args:
            self._keeper.update(Source.CONFIG, Facts(flags=parse_arguments(args).flags))

    @property
    def identity(self) -> Identity:
        """What is known now; fingerprint and changes wait until every endpoint was asked once in this life."""
        return self._keeper.identity

    @property
    def server_pid(self) -> int | None:
        """The server's process on this machine; None where /proc does not show it."""
        return self._finder.pid if self._finder else None

    def restart(self) -> None:
        """Note that the server has a new life: ask everything again now.

        What is known stays until its source answers, or says that it does not tell any more.
        """
        self._due = dict.fromkeys(_PARSERS, -math.inf)
        self._proc_due = -math.inf
        self._confirmed.clear()
        self._tried.clear()
        self._labels = None
        self._loaded = False
        self._keeper.forget(Source.LOAD)
        self._keeper.hold()

    def observe_cache_config(self, labels: Mapping[str, str] | None) -> None:
        """Take the labels of cache_config_info from a metrics poll; None when the poll had no such metric.

        The Rust front end never has it. Cheap when nothing changed.
        """
        if labels is None:
            self._drop_unconfirmed(Source.CACHE_CONFIG)
        elif labels is not self._labels and labels != self._labels:
            self._keeper.update(Source.CACHE_CONFIG, parse_cache_config(labels))
            self._confirmed.add(Source.CACHE_CONFIG)
            self._labels = labels

    async def step(self, now: float, *, asleep: bool = False) -> float:
        """Ask the one endpoint that is due longest, if any.

        Args:
            now: Monotonic time in seconds.
            asleep: The engine sleeps (`engine_sleep_state`): only /version, which the engine does not see, is asked.

        Returns:
            Seconds that the server spent on it; 0.0 when nothing was due.
        """
        if self._finder is not None and now >= self._proc_due:
            self._proc_due = now + self._interval
            await self._look_into_proc(self._finder)
        if asleep:
            self._keeper.forget(Source.LOAD)
        source = min((Source.VERSION,) if asleep else self._due, key=lambda source: self._due[source])
        return await self._ask(source, now) if self._due[source] <= now else 0.0

    async def _ask(self, source: Source, now: float) -> float:
        self._due[source] = now + self._interval
        started = time.monotonic()
        try:
            answer = await self._client.get(
                str(source), query=_QUERIES.get(source, ()), accept="application/json", timeout=self._timeout
            )
        except PollError as error:
            # A request that failed may well have kept the server busy, so it costs what it took.
            self._refused(source, error, now)
            return time.monotonic() - started
        self._read(source, answer.body)
        self._settle()
        return answer.seconds

    def _read(self, source: Source, body: bytes) -> None:
        self._tried.add(source)
        try:
            facts = _PARSERS[source](body)
        except ValueError as error:
            if self.identity.source_errors.get(source) != BAD_BODY:
                log.warning("answer of %s is not vLLM's: %s", source, error)
            self._keeper.fail(source, BAD_BODY)
            self._drop_unconfirmed(source)
            return
        if source is Source.LOAD:
            # Without --enable-server-load-tracking it says 0 for ever, which is not a number of requests.
            self._loaded |= bool(facts.requests_in_flight)
            facts = facts if self._loaded else Facts()
        self._confirmed.add(source)
        self._keeper.update(source, facts)
        self._keeper.fail(source, None)

    def _refused(self, source: Source, error: PollError, now: float) -> None:
        if error.reason in _DENIED:
            self._due[source] = now + self._interval * _DENIED_INTERVALS
            self._tried.add(source)
            self._drop_unconfirmed(source)
        elif error.reason in _UNREACHED:
            # Costs a server that starts or is gone nothing, and it should be known soon after it is up.
            self._due[source] = now + self._interval * _UNREACHED_INTERVALS
        elif self._tried:
            self._tried.add(source)
        if source is Source.LOAD:
            self._keeper.forget(source)  # a number of requests is live or it is nothing
        self._keeper.fail(source, str(error.reason))
        self._settle()

    def _settle(self) -> None:
        if self._tried >= _IDENTIFYING:
            self._keeper.settle()

    async def _look_into_proc(self, finder: ProcessFinder) -> None:
        found = await asyncio.to_thread(finder.find)
        if found is None:
            self._keeper.fail(Source.PROC, NO_PROCESS)
            self._drop_unconfirmed(Source.PROC)
            return
        self._keeper.update(Source.PROC, Facts(flags=found.flags))
        self._keeper.fail(Source.PROC, None)
        self._confirmed.add(Source.PROC)

    def _drop_unconfirmed(self, source: Source) -> None:
        """Forget what a source told of an earlier life of the server, now that it tells nothing of this one."""
        if source not in self._confirmed:
            self._keeper.forget(source)
