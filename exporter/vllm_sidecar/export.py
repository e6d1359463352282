"""Stage 6: the snapshots of all targets -> bytes, made once and served to every scraper until the next poll.

Snapshots and bytes wait for the first scrape after a poll: with a poll each second and a scrape each fifteen, most
would be made for nobody. A scrape never waits for a server: it gets what the last poll left.
"""

from __future__ import annotations

import gzip
import logging
import platform
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector

from vllm_sidecar import __version__
from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.types import Kind
from vllm_sidecar.catalog.upstream import CANONICAL_SOURCES
from vllm_sidecar.exposition import Family, Renderer, labels_text
from vllm_sidecar.log import event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vllm_sidecar.health import Health
    from vllm_sidecar.model import Value
    from vllm_sidecar.snapshot import Snapshot

_log = logging.getLogger(__name__)

GZIP_LEVEL = 1
"""Level 1 makes a tenth of the text in a fraction of the time of the default."""


class Source(Protocol):
    """One target as the exporter sees it."""

    name: str
    """Empty for a sole target."""

    @property
    def health(self) -> Health:
        """How the last polls went; unlike a snapshot it costs nothing."""

    def snapshot(self) -> Snapshot:
        """Return what is known after the last poll; the same object until the next one."""

    def charts(self, since: float, engine: str | None) -> list[dict[str, object]]:
        """Return what the status page draws of the polls after a Unix time, of one engine or (None) of all."""

    async def prepare(self) -> None:
        """Do the costly part of the next snapshot, one engine after the other."""


class Node(Protocol):
    """What is exported beside the targets: the GPUs of the node."""

    health: Health

    def samples(self) -> Mapping[str, list[tuple[str, Value]]]:
        """Return signal -> its series; the same object until something changes."""


class Exporter:
    """Holds the targets and the bytes made of their newest snapshots."""

    def __init__(self, window_seconds: float) -> None:
        self._sources: Sequence[Source] = ()
        self.node: Node | None = None
        """The GPUs; None where nobody looks at them."""
        self._own: dict[str, float] = {"window_seconds": window_seconds}
        self._build = labels_text((("version", __version__), ("python_version", platform.python_version())))
        self._renderer = Renderer()
        self._families = {name: _family(name, window_seconds) for name in SIGNALS}
        self._cache: dict[tuple[bool, bool], bytes] = {}
        self._process = ProcessCollector(registry=CollectorRegistry())

    @property
    def snapshots(self) -> dict[str, Snapshot]:
        """The newest snapshot of each target by name, in the order of the configuration."""
        return {source.name: source.snapshot() for source in self._sources}

    @property
    def healths(self) -> list[Health]:
        """How the targets are, without what is derived of them."""
        return [source.health for source in self._sources]

    async def prepare(self) -> None:
        """Do the costly part of the next snapshots, one engine after the other, so that polls are in time meanwhile."""
        for source in self._sources:
            await source.prepare()

    def charts(self, since: float, target: str | None, engine: str | None) -> dict[str, list[dict[str, object]]]:
        """Return what the status page draws of the polls after a Unix time, by target; None stands for all of them."""
        wanted = (source for source in self._sources if target in (None, source.name))
        return {source.name: source.charts(since, engine) for source in wanted}

    def changed(self) -> None:
        """Forget the bytes: a target was polled."""
        self._cache.clear()

    def use(self, sources: Sequence[Source], window_seconds: float) -> None:
        """Export these targets from now on."""
        self._sources = sources
        self._own["window_seconds"] = window_seconds
        self._families = {name: _family(name, window_seconds) for name in SIGNALS}
        self._renderer = Renderer()  # it keeps help texts, which name the window
        self._cache.clear()

    def set_own(self, name: str, value: float) -> None:
        """Set a signal of the sidecar itself."""
        self._own[name] = value
        self._cache.clear()

    def render(self, *, openmetrics: bool, compressed: bool = False) -> bytes:
        """Return all series in one of the formats, gzipped if asked; the same bytes until the next poll."""
        body = self._cache.get((openmetrics, compressed))
        if body is None:
            body = self.render(openmetrics=openmetrics) if compressed else self._render(openmetrics)
            body = gzip.compress(body, GZIP_LEVEL) if compressed else body
            self._cache[openmetrics, compressed] = body
        return body

    def _render(self, openmetrics: bool) -> bytes:
        own: dict[str, list[tuple[str, Value]]] = {name: [("", value)] for name, value in self._own.items()}
        own["build_info"] = [(self._build, 1.0)]
        everything = [*(snapshot.samples for snapshot in self.snapshots.values()), self._of_node(), own]
        families = (
            (family, [one for samples in everything for one in samples.get(name, ())])
            for name, family in self._families.items()
        )
        return self._renderer.render(chain(self._own_process(), families), openmetrics=openmetrics)

    def _of_node(self) -> Mapping[str, list[tuple[str, Value]]]:
        """Return the series of the GPUs; a bug in them must not cost vLLM's, which are in the same scrape."""
        try:
            return self.node.samples() if self.node else {}
        except Exception as error:  # noqa: BLE001 - whatever it is
            event(_log, logging.ERROR, "internal_error", source="nvml", exc_info=error)
            return {}

    def _own_process(self) -> Iterator[tuple[Family, list[tuple[str, Value]]]]:
        """Yield CPU, memory and open files of this process under the names that every exporter has."""
        for family in self._process.collect():
            for sample in family.samples:
                yield Family(sample.name, family.type, family.documentation), [("", float(sample.value))]


def _family(name: str, window_seconds: float) -> Family:
    signal = SIGNALS[name]
    text = signal.help.replace("{window}", f"{window_seconds:g} s")
    source = CANONICAL_SOURCES.get(name)
    if source:
        text += f" From {source}."
    unit = signal.unit.suffix if signal.kind is not Kind.INFO else ""
    return Family(signal.metric, signal.kind.value, text, unit)
