"""The sources of a command line -> one observation for each side, A first."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.compare.observation import SIDECAR
from vllm_sidecar.tools.exported.stored import LARGEST
from vllm_sidecar.tools.observing import set_by_signals
from vllm_sidecar.tools.targets import address_of, configuration, other_server

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine, Sequence

    from vllm_sidecar.tools.compare.observation import Observation

T = TypeVar("T")
LIVE_SECONDS, STORED_SECONDS = 60.0, 1800.0
"""How long servers are observed, and the length of a window of Prometheus, by default."""
_ONE_SIDE = "there is only one side: name two servers, files or recordings, or --prometheus with two --at"


@dataclass(frozen=True)
class Observed:
    """The sides that were observed, A first, and whether Ctrl-C ended that early."""

    sides: list[Observation]
    interrupted: bool


async def observe(arguments: argparse.Namespace, show: Callable[[str], None]) -> Observed:
    """Observe all sides at the same time, until Ctrl-C at the latest.

    Raises:
        UserError: A source cannot be used; ConfigError and RecordingError for their mistakes.
    """
    stop = asyncio.Event()
    with set_by_signals(stop):
        work = _windows(arguments, show) if arguments.prometheus else _given(arguments, stop, show)
        tasks = [asyncio.ensure_future(each) for each in work]
        sides = await _until_stopped(tasks, stop, cancel=bool(arguments.prometheus))
    if len(sides) < 2:
        if stop.is_set():
            raise UserError("interrupted before two sides were read")
        raise UserError(_ONE_SIDE)
    return Observed(sides, stop.is_set())


async def _until_stopped(
    tasks: Sequence[asyncio.Future[list[Observation]]], stop: asyncio.Event, *, cancel: bool
) -> list[Observation]:
    """Wait for all tasks. Ctrl-C ends those that observe; those that do not watch for it are canceled."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        pending: set[asyncio.Future[Any]] = set(tasks)
        while pending and not (stop.is_set() and cancel):
            done, pending = await asyncio.wait(
                {*pending, *(() if stop.is_set() else (stopped,))}, return_when=asyncio.FIRST_COMPLETED
            )
            pending.discard(stopped)
            for task in done - {stopped}:
                task.result()  # an error of one source ends all
        return [side for task in tasks if task.done() and not task.cancelled() for side in task.result()]
    finally:
        stopped.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, stopped, return_exceptions=True)


def _windows(
    arguments: argparse.Namespace, show: Callable[[str], None]
) -> list[Coroutine[Any, Any, list[Observation]]]:
    from vllm_sidecar.tools.compare.prometheus import Window, time_of, window_of

    if arguments.sources:
        raise UserError("either sources or --prometheus, not both")
    seconds = arguments.duration or STORED_SECONDS
    selectors: list[str] = [each.strip().removeprefix("{").removesuffix("}") for each in arguments.selector or ()]
    try:
        times = [time_of(each, time.time()) for each in arguments.at or ["now"]]
    except ValueError as error:
        raise UserError(f"--at: got {' and '.join(arguments.at)}; allowed: {error}") from None
    count = max(len(times), len(selectors))
    if count < 2 or not {len(times), len(selectors)} <= {0, 1, count}:
        raise UserError(
            "--prometheus needs two --at (one server at two times), or two --selector (servers at one time); "
            f"got {len(times) if arguments.at else 0} --at and {len(selectors)} --selector"
        )
    config = other_server(arguments, arguments.prometheus, {"scrape.max_body_size": LARGEST})
    found = []
    for index in range(count):
        matchers = selectors[index if len(selectors) > 1 else 0] if selectors else ""
        at = times[index if len(times) > 1 else 0]
        name = matchers if len(selectors) > 1 else (arguments.at or ["now"])[index]
        found.append(_only(window_of(config, Window(at, seconds, matchers), name, show)))
    return found


async def _only(one: Coroutine[Any, Any, Observation]) -> list[Observation]:
    return [await one]


def _given(
    arguments: argparse.Namespace, stop: asyncio.Event, show: Callable[[str], None]
) -> list[Coroutine[Any, Any, list[Observation]]]:
    if arguments.at or arguments.selector:
        raise UserError("--at and --selector are for --prometheus URL")
    if len(arguments.sources) == 1 and "://" in arguments.sources[0]:
        raise UserError(_ONE_SIDE)  # before it is observed for a minute
    seconds = arguments.duration or LIVE_SECONDS
    work: list[Coroutine[Any, Any, list[Observation]]] = []
    servers = [address_of(each) for each in arguments.sources if _is_server(each)]
    watched = _Servers(arguments, servers, seconds, stop, show)
    for source in arguments.sources:
        if source.startswith(SIDECAR):
            url, _, target = source.removeprefix(SIDECAR).partition("#")
            from vllm_sidecar.tools.compare.sidecars import watch_sidecar

            work.append(_only(watch_sidecar(other_server(arguments, url), target, seconds, stop, show)))
        elif _is_server(source):
            work.append(_only(watched.side(address_of(source))))
        else:
            work.append(_files(source, arguments.apart, len(arguments.sources) == 1, stop, show))
    return work


def _is_server(source: str) -> bool:
    return "://" in source and not source.startswith(SIDECAR)


class _Servers:
    """All vLLM servers of a command line, which are watched together."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        urls: Sequence[str],
        seconds: float,
        stop: asyncio.Event,
        show: Callable[[str], None],
    ) -> None:
        self._urls = list(dict.fromkeys(urls))
        self._seconds, self._stop, self._show = seconds, stop, show
        self._config = configuration(arguments, self._urls, {"gpu.devices": "none"}) if urls else None
        if len(self._urls) < len(urls):
            raise UserError("a server is given twice: it would be compared with itself; use --prometheus for two times")
        self._watching: asyncio.Future[list[Observation]] | None = None

    async def side(self, url: str) -> Observation:
        """Return the observation of one server."""
        from vllm_sidecar.tools.compare.watching import watch

        if self._watching is None and self._config is not None:
            self._watching = asyncio.ensure_future(watch(self._config, self._seconds, self._stop, self._show))
        if self._watching is None:
            raise RuntimeError("no server is watched")
        return (await self._watching)[self._urls.index(url)]


async def _files(
    source: str, apart: float | None, alone: bool, stop: asyncio.Event, show: Callable[[str], None]
) -> list[Observation]:
    from vllm_sidecar.tools.compare.saved import bodies
    from vllm_sidecar.tools.compare.watching import recording
    from vllm_sidecar.tools.recording.reader import is_recording

    paths, server = _place(source)
    if not is_recording(paths[0]):
        if len(paths) > 2 or any(map(is_recording, paths)):
            raise UserError(
                f"{source}: a side is one recording, one saved body, or two bodies as in first.prom,second.prom"
            )
        if len(paths) == 2 and apart is None:
            raise UserError("two bodies of a side need the time between them: add --apart, such as --apart 30s")
        return [bodies(paths, apart)]
    found = await recording(paths[0], stop, show)
    if server and server not in found:
        raise UserError(f"{paths[0]} has no server {server!r}; it has: {', '.join(found)}")
    if server or alone or len(found) == 1:
        return [found[server]] if server else list(found.values())
    raise UserError(
        f"{paths[0]} has {len(found)} servers ({', '.join(found)}): name one as in {paths[0]}#{next(iter(found))}"
    )


def _place(source: str) -> tuple[list[Path], str]:
    """Split a source into its files and the name of a server; a file with such a name is preferred."""
    if Path(source).exists():
        return [Path(source)], ""
    name, _, server = source.partition("#")
    return ([Path(name)] if Path(name).exists() else [Path(each) for each in name.split(",")]), server
