"""The snapshots of all targets -> bytes, made once and served to every scraper until the next poll.

Snapshots and bytes are made at the first scrape after a poll: with a poll each second and a scrape each 15 s, most
would never be read. A scrape never waits for a server: it returns the result of the last poll, and its age.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import zlib
from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector

from vllm_sidecar import __version__
from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.metric_profiles import MetricProfile, exported
from vllm_sidecar.catalog.types import Kind
from vllm_sidecar.catalog.upstream import CANONICAL_SOURCES
from vllm_sidecar.exposition import Family, Renderer, labels_text
from vllm_sidecar.logs import event
from vllm_sidecar.slices import EvenSlices, at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from vllm_sidecar.exposition.metric_values import Value
    from vllm_sidecar.series.health import Health
    from vllm_sidecar.series.store import WindowStore
    from vllm_sidecar.serve.snapshot import Snapshot
    from vllm_sidecar.vllm.client import Response

    Samples = Mapping[str, list[tuple[str, Value]]]

GZIP_LEVEL = 1
"""Level 1 makes a tenth of the text in a fraction of the time of the default."""
GZIP_FORMAT = 16 + zlib.MAX_WBITS
"""Makes zlib write gzip's header and checksum."""
AGE = "last_success_age_seconds"
ERROR_PARTS = ("target", "gpus", "gpu_series")
"""Parts that survive a bug: the loop of a target or of the GPUs, which is restarted, and the creation of GPU series."""


MOST_LOGGED = 20
"""Kinds of bugs that are logged, once each."""

_log = logging.getLogger(__name__)


class MetricsSource(Protocol):
    """One target as the exporter sees it."""

    name: str
    """Empty for a sole target."""

    @property
    def labels(self) -> Sequence[tuple[str, str]]:
        """Labels on every series of the target."""

    @property
    def health(self) -> Health:
        """How the last polls went; unlike a snapshot it costs nothing."""

    @property
    def windows(self) -> WindowStore:
        """The polls that are remembered."""

    @property
    def last_response(self) -> Response | None:
        """The last complete body, also one that could not be read; it costs nothing."""

    @property
    def last_success_age(self) -> float | None:
        """Seconds since the last successful poll; None before the first."""

    def snapshot(self) -> Snapshot:
        """Return the data of the last poll; the same object until the next one."""

    async def history(self, since: float, engine: str | None) -> list[dict[str, object]]:
        """Return the charts of the status page for the polls after a Unix time, of one engine or (None) of all."""

    async def explanations(self) -> list[dict[str, object]]:
        """Return how the recent quantiles of each engine came about."""

    async def prepare(self, slices: EvenSlices) -> None:
        """Do the costly part of the next snapshot, one engine after the other."""


class Node(Protocol):
    """A source that is exported next to the targets: the GPUs of the node."""

    health: Health

    @property
    def last_success_age(self) -> float | None:
        """Seconds since the last successful poll; None before the first."""

    def samples(self) -> Samples:
        """Return signal -> its series; the same object until something changes."""


class Exporter:
    """Holds the targets and the bytes made of their newest snapshots."""

    def __init__(self, window_seconds: float, profile: MetricProfile = MetricProfile.FULL) -> None:
        self._sources: Sequence[MetricsSource] = ()
        self.node: Node | None = None
        """The GPUs; None if they are not watched."""
        self.live: Callable[[], Samples] = dict
        """Returns series of the sidecar itself that change with each scrape, such as its requests."""
        self.discovery: Callable[[], Samples] = dict
        """Returns the series about the sources of servers."""
        self._profile = profile
        self._own: dict[str, float] = {"window_seconds": window_seconds, "config_restart_needed": 0.0}
        self._errors = dict.fromkeys(ERROR_PARTS, 0.0)
        self._logged: set[str] = set()
        self._build = labels_text((("version", __version__), ("python_version", platform.python_version())))
        self._renderer = Renderer()
        self._families = _families(window_seconds, profile)
        self._cache: dict[bool, Body] = {}
        self._formats: set[bool] = set()
        """Formats that were asked for: text, OpenMetrics (True)."""
        self._changes = 0
        self._late: set[bool] = set()
        """Formats whose bytes were already outdated when they were made: for one scrape, not until the next poll."""
        self._preparing = asyncio.Lock()
        self._process = ProcessCollector(registry=CollectorRegistry())

    @property
    def snapshots(self) -> dict[str, Snapshot]:
        """The newest snapshot of each target by name, in the order of the configuration."""
        return {source.name: source.snapshot() for source in self._sources}

    @property
    def sources(self) -> dict[str, MetricsSource]:
        """The targets by name, in the order of the configuration; derived signals are not computed."""
        return {source.name: source for source in self._sources}

    async def prepare(self) -> dict[str, Snapshot]:
        """Make the next snapshots and their bytes in slices, so that polls stay on time; return the snapshots.

        A target that is polled meanwhile is not computed again, which would never end with many targets.
        """
        async with self._preparing:  # scrapers at the same time share one result
            for openmetrics in self._late:
                self._cache.pop(openmetrics, None)
            self._late.clear()
            found, slices = {}, EvenSlices()
            for source in list(self._sources):
                await source.prepare(slices)
                found[source.name] = source.snapshot()
            for openmetrics in self._formats - self._cache.keys():
                changes = self._changes
                self._cache[openmetrics] = Body(await slices.run(self._text(openmetrics, found)))
                if changes != self._changes:
                    self._late.add(openmetrics)
            return found

    async def history(self, since: float, target: str | None, engine: str | None) -> dict[str, list[dict[str, object]]]:
        """Return the charts of the status page for the polls after a Unix time, by target; None for all of them."""
        wanted = [source for source in self._sources if target in (None, source.name)]
        return {source.name: await source.history(since, engine) for source in wanted}

    async def explanations(self) -> dict[str, list[dict[str, object]]]:
        """Return how the recent quantiles came about, by target."""
        return {source.name: await source.explanations() for source in self._sources}

    def node_samples(self) -> Samples:
        """Return the series of the GPUs; none if a bug prevents that: the targets' series remain."""
        if self.node is None:
            return {}
        try:
            return self.node.samples()
        except Exception as error:  # noqa: BLE001 - a bug in the GPU part must not affect vLLM's metrics
            self.count_error("gpu_series")
            self._log_once(error)
            return {}

    def _log_once(self, error: Exception) -> None:
        kind = f"{type(error).__name__}: {error}"
        if kind not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(kind)
            event(_log, logging.ERROR, "internal_error", part="gpu_series", exc_info=error)

    def changed(self) -> None:
        """Drop the cached bytes: a target was polled."""
        self._changes += 1
        self._cache.clear()

    def set_sources(
        self,
        sources: Sequence[MetricsSource],
        window_seconds: float,
        profile: MetricProfile = MetricProfile.FULL,
    ) -> None:
        """Export these targets from now on, with the signals of a profile."""
        self._sources = sources
        if window_seconds != self._own["window_seconds"] or profile != self._profile:
            self._profile = profile
            self._own["window_seconds"] = window_seconds
            self._families = _families(window_seconds, profile)
            self._renderer = Renderer()  # it caches HELP texts, which name the window
        self.changed()

    def set_own(self, name: str, value: float) -> None:
        """Set a signal of the sidecar itself."""
        self._own[name] = value
        self.changed()

    def count_error(self, part: str) -> None:
        """Count a bug of a part of the sidecar, one of ERROR_PARTS; the program continues."""
        self._errors[part] += 1.0
        self.changed()

    def render(
        self, *, openmetrics: bool, compressed: bool = False, snapshots: Mapping[str, Snapshot] | None = None
    ) -> bytes:
        """Return all series in one of the formats, gzipped if `compressed`, from these snapshots or the newest ones.

        Until the next poll the bytes are the same, except for the end: ages, and series of the sidecar itself.
        """
        self._formats.add(openmetrics)
        body = self._cache.get(openmetrics)
        if body is None:
            newest = self.snapshots if snapshots is None else snapshots
            body = self._cache[openmetrics] = Body(at_once(self._text(openmetrics, newest)))
        fresh = [(self._families[AGE], self._ages())]
        fresh += [(self._families[name], list(samples)) for name, samples in self.live().items()]
        end = self._renderer.render(fresh, openmetrics=openmetrics)
        return body.gzipped(end) if compressed else body.text + end

    def _text(self, openmetrics: bool, snapshots: Mapping[str, Snapshot]) -> Generator[None, None, bytes]:
        targets = [snapshot.samples for snapshot in snapshots.values()]
        node = self.node_samples()
        own: dict[str, list[tuple[str, Value]]] = {name: [("", value)] for name, value in self._own.items()}
        own["build_info"] = [(self._build, 1.0)]
        own["internal_errors_total"] = [(labels_text((("part", part),)), n) for part, n in self._errors.items()]
        discovery = self.discovery()
        series: dict[str, list[tuple[str, Value]]] = defaultdict(list)
        for samples in (*targets, node, own, discovery):
            for name, some in samples.items():
                series[name] += some
            yield
        families = ((family, series[name]) for name, family in self._families.items() if name in series)
        parts = chain(self._own_process(), families)
        return (yield from self._renderer.steps(parts, openmetrics=openmetrics, whole=False))

    def _ages(self) -> list[tuple[str, Value]]:
        """Return how long ago each source answered, by the monotonic clock, so that clocks need not be in sync."""
        sources = [(source.labels, source.health, source.last_success_age) for source in self._sources]
        if self.node is not None:
            sources.append(((), self.node.health, self.node.last_success_age))
        return [
            (labels_text((*labels, ("source", health.source))), round(age, 3))
            for labels, health, age in sources
            if age is not None
        ]

    def _own_process(self) -> Iterator[tuple[Family, list[tuple[str, Value]]]]:
        """Yield CPU, memory and open files of this process under the names that every exporter has."""
        for family in self._process.collect():
            for sample in family.samples:
                yield Family(sample.name, family.type, family.documentation), [("", float(sample.value))]


class Body:
    """The bytes of one poll; compressed once, for all the ends that are appended to them."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._head: tuple[bytes, zlib._Compress] | None = None

    def gzipped(self, end: bytes) -> bytes:
        """Return the bytes and their end as one gzip stream."""
        if self._head is None:
            compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_FORMAT)
            # Flushed, so that only the end is left to be encoded at each scrape.
            head = compressor.compress(self.text) + compressor.flush(zlib.Z_SYNC_FLUSH)
            self._head = (head, compressor)
        head, compressor = self._head[0], self._head[1].copy()
        return head + compressor.compress(end) + compressor.flush()


def _families(window_seconds: float, profile: MetricProfile) -> dict[str, Family]:
    """Return the families that are exported, in the order of the catalog."""
    wanted = exported(profile)
    return {name: _family(name, window_seconds) for name in SIGNALS if name in wanted}


def _family(name: str, window_seconds: float) -> Family:
    signal = SIGNALS[name]
    text = signal.help.replace("{window}", f"{window_seconds:g} s")
    source = CANONICAL_SOURCES.get(name)
    if source:
        text += f" From {source}."
    unit = signal.unit.suffix if signal.kind is not Kind.INFO else ""
    return Family(signal.metric, signal.kind.value, text, unit)
