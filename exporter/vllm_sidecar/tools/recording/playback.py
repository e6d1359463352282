"""A recording -> the loops of the sidecar, on the clock of the recording.

The loops are those of `serve`: only the answers and the time are replaced. Nothing of the machine that replays gets in:
no GPU is read, and no command line in /proc.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.config import Config
from vllm_sidecar.serve.metrics import Exporter
from vllm_sidecar.serve.target import TargetLoop
from vllm_sidecar.tools.recording.events import METRICS, Exchange, Flags
from vllm_sidecar.tools.recording.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from vllm_sidecar.config import Target
    from vllm_sidecar.tools.recording.events import Event, Head
    from vllm_sidecar.vllm.client import Response
    from vllm_sidecar.vllm.validity import Validity

MONOTONIC = 1000.0
"""Monotonic time at which every recording starts."""


@dataclass
class Outline:
    """The results of a first reading of a recording; `seconds` is its length."""

    head: Head
    seconds: float = 0.0
    polls: int = 0
    failed: int = 0
    cut_off: str = ""
    arguments: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Command lines by server."""
    probed: dict[tuple[int, str], Exchange] = field(default_factory=dict)
    """The first outcome of each probe."""


def outline(path: Path) -> Outline:
    """Read a recording to its end.

    Raises:
        RecordingError: It cannot be read, is not a recording, or holds no poll.
    """
    reader = Reader(path)
    found = Outline(reader.head)
    for event in reader:
        if isinstance(event, Flags):
            found.arguments.setdefault(event.server, event.arguments)
            continue
        found.seconds = max(found.seconds, event.at + event.took)
        if event.path == METRICS:
            found.polls += 1
            found.failed += event.reason is not None
        else:
            found.probed.setdefault((event.server, event.path), event)
    found.cut_off = reader.cut_off
    return found


class RecordedServer:
    """Stands for the HTTP client of a target: answers as the server did."""

    certificates: ClassVar[Mapping[str, Validity]] = {}
    """Empty: a recording has no connection."""

    def __init__(self, metrics_path: str, probed: dict[str, Exchange]) -> None:
        self.now = 0.0
        """Seconds since the start of the recording."""
        self._metrics_path = metrics_path
        self._last = probed

    async def __aenter__(self) -> RecordedServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close nothing."""

    def take(self, exchange: Exchange) -> None:
        """Answer its path with this exchange from now on."""
        self.now = exchange.at
        self._last[exchange.path] = exchange

    async def get(self, path: str, **_: object) -> Response:
        """Answer as the server did last.

        Raises:
            PollError: It failed then, or the recording has no answer for this path.
        """
        found = self._last.get(METRICS if path == self._metrics_path else path)
        if found is None:
            raise PollError(Reason.HTTP_404, f"{path} was not recorded")
        self.now = max(self.now, found.at + found.took if found.path == METRICS else self.now)
        if found.response is None:
            raise PollError(found.reason or Reason.INTERNAL, found.detail)
        return found.response


class Playback:
    """Plays one recording; `at` is the time of the recording in seconds."""

    def __init__(self, path: Path, found: Outline, sections: dict[str, Any] | None = None) -> None:
        self._path, self._outline = path, found
        self.at = 0.0
        config = _config(found, sections or {})
        self.exporter = Exporter(config.windows.length)
        self._servers: list[RecordedServer] = []
        self.loops: list[TargetLoop] = []
        for number, target in enumerate(config.all_targets):
            server = RecordedServer(
                target.metrics_path, {path: each for (owner, path), each in found.probed.items() if owner == number}
            )
            self._servers.append(server)
            self.loops.append(self._loop(server, target, config))
        self.exporter.set_sources(self.loops, config.windows.length)

    def _loop(self, server: RecordedServer, target: Target, config: Config) -> TargetLoop:
        started = self._outline.head.started
        return TargetLoop(
            target,
            config,
            self.exporter.changed,
            client=server,  # type: ignore[arg-type] # it has what the loop uses
            clock=lambda: MONOTONIC + server.now,
            wall=lambda: started + server.now,
        )

    async def run(self, every: float, pause: Callable[[], Awaitable[None]], stop: asyncio.Event | None = None) -> None:
        """Play the recording to its end or until `stop`, and call `pause` each `every` seconds of it.

        Raises:
            RecordingError: It can no longer be read.
        """
        due = every
        for event in Reader(self._path):
            if isinstance(event, Flags):
                continue
            while event.at + event.took > due:
                self._advance(due)
                await pause()
                due += every
                await asyncio.sleep(0)  # for the handler of signals
                if stop is not None and stop.is_set():
                    return
            await self._play(event)
        self._advance(self._outline.seconds)
        if self._outline.seconds >= due:
            await pause()

    def _advance(self, at: float) -> None:
        self.at = at
        for server in self._servers:
            server.now = at

    async def _play(self, event: Event) -> None:
        server, target_loop = self._servers[event.server], self.loops[event.server]
        if isinstance(event, Exchange):
            server.take(event)
            await (target_loop.poll_once() if event.path == METRICS else target_loop.probe_once())
            self.at = max(self.at, server.now)


def _config(found: Outline, sections: dict[str, Any]) -> Config:
    """Return a configuration with the recorded servers, which are reached through their recordings alone."""
    head = found.head
    base: dict[str, Any] = {
        **sections,
        "gpu": {"devices": "none"},
        "introspection": {"proc": False},
        "scrape": {**sections.get("scrape", {}), "interval": _written(head.interval)},
    }
    servers: list[dict[str, Any]] = [
        {"args": list(found.arguments.get(number, ()))} for number in range(len(head.servers))
    ]
    if len(servers) == 1 and not head.servers[0].name:
        return Config.model_validate({**base, "vllm": {**servers[0], "headless": False}})
    named = [{**each, "name": server.name} for each, server in zip(servers, head.servers, strict=True)]
    return Config.model_validate({**base, "targets": named})


def _written(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
