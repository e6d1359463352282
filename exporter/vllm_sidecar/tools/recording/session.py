"""Records servers with the loops of the sidecar: what they request, and when, is what a sidecar would have received."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_sidecar import __version__
from vllm_sidecar.catalog.reasons import NOT_ONE_ENGINE, Reason
from vllm_sidecar.logs import PROGRAM
from vllm_sidecar.serve.target import TargetLoop
from vllm_sidecar.tools.observing import set_by_signals
from vllm_sidecar.tools.recording.client import RecordingClient
from vllm_sidecar.tools.recording.events import METRICS, Exchange, Flags, Head, Server
from vllm_sidecar.tools.recording.flags import READ_ELSEWHERE, command_line
from vllm_sidecar.tools.targets import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vllm_sidecar.config import Config
    from vllm_sidecar.tools.recording.events import Event
    from vllm_sidecar.tools.recording.hashing import Hasher
    from vllm_sidecar.tools.recording.writer import Writer

SHOW_SECONDS = 1.0
_OTHER_PROGRAMS = (Reason.NO_VLLM_METRICS, *NOT_ONE_ENGINE)
FLAG_SECONDS = 10.0
"""Time between two looks at flags that were read from /proc."""


@dataclass
class Counts:
    """Numbers of recorded polls, so far."""

    polls: int = 0
    failed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    """Reasons of failed polls with the last detail of each."""


@dataclass(frozen=True)
class Limits:
    """When a recording ends by itself: after so many seconds, or bytes."""

    seconds: float
    size: int


class Session:
    """One recording while it is made."""

    def __init__(self, config: Config, writer: Writer, hasher: Hasher | None, limits: Limits) -> None:
        self._config, self._writer, self._hasher, self._limits = config, writer, hasher, limits
        self._began = time.monotonic()
        self._flags: dict[int, tuple[str, ...]] = {}
        self._error: Exception | None = None
        self._stop = asyncio.Event()
        self.counts = Counts()
        self.not_vllm: dict[str, str] = {}
        """Why the answers of a server are not those of one vLLM, by its address; known at the end."""

    @property
    def seconds(self) -> float:
        """Seconds since the start of the recording."""
        return time.monotonic() - self._began

    async def run(self, show: Callable[[Session], None]) -> None:
        """Record until SIGINT, SIGTERM or a limit; calls `show` about each second.

        Raises:
            RecordingError: The file cannot be written.
            ExceptionGroup: The loop of a target ended, which is a bug.
        """
        targets = self._config.all_targets
        self._writer.head(
            Head(
                time.time(),
                tuple(map(self._server, range(len(targets)))),
                self._config.scrape.interval,
                self._hasher is not None,
                f"{PROGRAM} {__version__}",
            )
        )
        loops = list(map(self._loop, range(len(targets))))
        with set_by_signals(self._stop):
            tasks = [asyncio.create_task(each.run()) for each in loops]
            try:
                await self._watch(loops, tasks, show)
            finally:
                self.not_vllm = dict(_others(self._config, loops))
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [self._error, *(each for each in results if isinstance(each, Exception))]
        for error in errors:
            if error is not None:
                raise error

    async def _watch(
        self, loops: list[TargetLoop], tasks: list[asyncio.Task[None]], show: Callable[[Session], None]
    ) -> None:
        look_at = FLAG_SECONDS / 2
        while not (self._stop.is_set() or self._error or any(task.done() for task in tasks)):
            if self.seconds >= self._limits.seconds or self._writer.size >= self._limits.size:
                return
            if self.seconds >= look_at:
                look_at += FLAG_SECONDS
                for server, each in enumerate(loops):
                    self._look_at_flags(server, each)
            show(self)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), min(SHOW_SECONDS, self._limits.seconds - self.seconds))

    def _server(self, number: int) -> Server:
        target = self._config.all_targets[number]
        if self._hasher is None:
            (name,) = names([target.url])
            scheme = target.url.partition("://")[0]
            return Server(target.name or "", f"{scheme}://{name}")
        return Server(self._hasher.text(target.name) if target.name else "", "")

    def _loop(self, number: int) -> TargetLoop:
        target = self._config.all_targets[number]
        client = RecordingClient(target, self._config.scrape, number, self._record, lambda: self.seconds, self._hasher)
        return TargetLoop(target, self._config, lambda: None, client=client)

    def _record(self, event: Exchange) -> None:
        if event.path == METRICS:
            self.counts.polls += 1
            self.counts.failed += event.reason is not None
            if event.reason is not None:
                self.counts.reasons[event.reason] = event.detail
        self._write(event)

    def _write(self, event: Event) -> None:
        """Write an event; the first error ends the recording, and must not look like one of the server."""
        if self._error is None:
            try:
                self._writer.write(event)
            except Exception as error:  # noqa: BLE001 - raised by `run`
                self._error = error
                self._stop.set()

    def _look_at_flags(self, server: int, target_loop: TargetLoop) -> None:
        identity = target_loop.snapshot().identity
        read = {
            name: identity.flags[name] for name, source in identity.flag_sources.items() if source in READ_ELSEWHERE
        }
        line = command_line(read, self._hasher)
        if line and self._flags.get(server) != line:
            self._flags[server] = line
            self._write(Flags(server, self.seconds, line))


def _others(config: Config, loops: list[TargetLoop]) -> Iterator[tuple[str, str]]:
    """Yield the addresses that answer, but not as one vLLM server does, with the reason."""
    for target, loop in zip(config.all_targets, loops, strict=True):
        reason = loop.snapshot().health.reason
        if reason in _OTHER_PROGRAMS:
            yield target.url, f"{reason.value}. {reason.hint}"
