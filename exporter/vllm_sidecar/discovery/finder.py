"""Runs the sources of the configuration, and merges their lists into the targets of this process."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.discovery import EntryState
from vllm_sidecar.config import DnsList, FileList, HttpList, PodList
from vllm_sidecar.config.discovery import split_shard
from vllm_sidecar.discovery.dns_names import DnsSource
from vllm_sidecar.discovery.files import FileSource
from vllm_sidecar.discovery.http_lists import HttpSource
from vllm_sidecar.discovery.kubernetes import PodSource
from vllm_sidecar.discovery.selection import Selection, select, server_key
from vllm_sidecar.logs import event

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from vllm_sidecar.config import DiscoverySettings, ServerList, Target
    from vllm_sidecar.discovery.source import Source

    Start = Callable[[Coroutine[object, object, None], str], asyncio.Task[None]]

MISTAKES = (EntryState.INVALID, EntryState.NAME_TAKEN, EntryState.OVER_LIMIT)
"""States of entries that somebody has to correct, so they are logged."""

_log = logging.getLogger("vllm_sidecar.discovery")


class Finder:
    """The sources of servers, one task each.

    `changed` is called after each change of a list, or of the health of a source; `start` runs a source in a task with
    a name.
    """

    def __init__(self, settings: DiscoverySettings, changed: Callable[[], None], start: Start) -> None:
        self._settings = settings
        self._changed, self._start = changed, start
        self._running: dict[str, tuple[object, Source, asyncio.Task[None]]] = {}
        """Settings, source and task by place."""
        self.selection = Selection((), {})
        """The last result of `select`."""

    @property
    def sources(self) -> list[Source]:
        """The sources, in the order of their precedence."""
        return [source for _, source, _ in self._running.values()]

    @property
    def has_answered(self) -> bool:
        """Whether every source has a list, if only an old one; False without sources."""
        return bool(self._running) and all(source.has_answered for source in self.sources)

    def use(self, settings: DiscoverySettings) -> None:
        """Run the sources of these settings; one that did not change is not interrupted."""
        self._settings = settings
        before, self._running = self._running, {}
        for place, found, namespace in _places(settings):
            known = before.get(place)
            if known is not None and known[0] == (found, namespace):
                self._running[place] = before.pop(place)
                continue
            source = _make(place, found, namespace, self._changed)
            if known is not None:
                source.take_over(known[1])
            task = self._start(source.run(), f"discovery {place}")
            self._running[place] = ((found, namespace), source, task)
        for _, _, task in before.values():
            task.cancel()

    def select(self, named: Sequence[Target], watched: Sequence[Target]) -> Selection:
        """Return the targets of this process: those of the configuration, and those that were found.

        Args:
            named: The targets of the configuration.
            watched: Those that are watched now.
        """
        lists = {place: source.listed for place, (_, source, _) in self._running.items()}
        keys = {server_key(target) for target in watched}
        settings = self._settings
        before = self.selection.outcomes
        self.selection = select(named, lists, shard=split_shard(settings.shard), limit=settings.limit, watched=keys)
        for place, outcome in self.selection.outcomes.items():
            refused = [one for one in outcome.refused if one.state is not EntryState.DUPLICATE]
            known = before[place].refused if place in before else ()
            if refused and any(one not in known for one in refused):
                event(_log, logging.WARNING, "targets_refused", discovery=place, address=refused[0].address,
                      why=refused[0].why, **{state: outcome.counts[state] for state in MISTAKES})  # fmt: skip
        return self.selection

    def stop(self) -> None:
        """Cancel all sources."""
        for _, _, task in self._running.values():
            task.cancel()


def _places(settings: DiscoverySettings) -> Iterator[tuple[str, ServerList, str | None]]:
    """List the place and settings of every source; each namespace of pods is a source, named in the third part."""
    for place, found in settings.lists:
        namespaces = found.namespaces if isinstance(found, PodList) else ()
        if len(namespaces) > 1:
            yield from ((f"{place}.{namespace}", found, namespace) for namespace in namespaces)
        else:
            yield place, found, namespaces[0] if namespaces else None


def _make(place: str, settings: ServerList, namespace: str | None, changed: Callable[[], None]) -> Source:
    if isinstance(settings, FileList):
        return FileSource(place, settings, changed)
    if isinstance(settings, HttpList):
        return HttpSource(place, settings, changed)
    if isinstance(settings, DnsList):
        return DnsSource(place, settings, changed)
    return PodSource(place, settings, namespace, changed)
