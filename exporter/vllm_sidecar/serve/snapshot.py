"""Windows, derivations, identity and health of one target -> a snapshot of all its series.

Data and health are separate: the server's data and the signals derived from it exist only while the source is up,
health always.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import DERIVED, SIGNALS, UPSTREAM
from vllm_sidecar.catalog.server import FLAG_GAUGES, FLAGS_SHOWN
from vllm_sidecar.catalog.types import RESERVED_LABELS, Scope
from vllm_sidecar.catalog.upstream import DIFFERENT_WORK
from vllm_sidecar.derive.inputs import DeriveSettings, EngineInputs, ModelInputs, ServerInputs
from vllm_sidecar.derive.registry import DERIVATIONS
from vllm_sidecar.derive.saturation import slug
from vllm_sidecar.exposition import labels_text
from vllm_sidecar.exposition.metric_values import Summary
from vllm_sidecar.logs import event
from vllm_sidecar.series.readings import TARGET, Group
from vllm_sidecar.series.request_totals import request_totals
from vllm_sidecar.slices import at_once
from vllm_sidecar.vllm.engines import shown_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from vllm_sidecar.derive.inputs import GpuInputs
    from vllm_sidecar.exposition.metric_values import Value
    from vllm_sidecar.series.health import Health
    from vllm_sidecar.series.readings import Key, Readings
    from vllm_sidecar.series.request_totals import Periods
    from vllm_sidecar.series.slo_counters import SloSample
    from vllm_sidecar.series.store import WindowStore
    from vllm_sidecar.series.window import Window
    from vllm_sidecar.vllm.probes import ProbeHealth
    from vllm_sidecar.vllm.probes.identity import ServerIdentity
    from vllm_sidecar.vllm.scraper import Scrape

Samples = dict[str, list[tuple[str, "Value"]]]
"""Signal -> its series: text of the labels, value."""

_log = logging.getLogger(__name__)
_BY_SCOPE = {scope: [entry.signal.name for entry in DERIVED if entry.signal.scope is scope] for scope in Scope}
CHECKLIST = tuple(entry.signal.name for entry in UPSTREAM if entry.checklist)
MOST_TEXTS = 5000
"""Texts of labels that are cached for the target, plus 1000 for each group."""
MAX_MODELS = 200
"""Entries of /v1/models that are exported; there can be many adapters."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All series of one target after one poll, and further data for the status."""

    target: str
    samples: Samples
    health: Health
    identity: ServerIdentity
    readings: Readings | None
    """The last successful poll; None before the first and while the source is down."""
    restarts: int
    """Restarts of the server that were detected."""
    recent_restarts: int
    """Those of the last 15 minutes."""
    scraped: Scrape | None
    """The last body and its parsed form, kept while the source is down."""
    probes: Mapping[str, ProbeHealth] = field(default_factory=dict)
    """Health of the probes of each source."""
    request_totals: Periods | None = None
    """Totals of the requests of the window, and of those before it; None without an engine."""
    canary: Sequence[Mapping[str, object]] = ()
    """The last result of each prompt and model of the canary."""


@dataclass(slots=True)
class Snapshotter:
    """Makes the snapshots of one target; caches the texts of labels between them."""

    target: str
    labels: Sequence[tuple[str, str]]
    """Labels on every series of the target: its name if there are several targets, and its static labels."""
    settings: DeriveSettings
    _texts: dict[Group, dict[Key, str]] = field(default_factory=dict)
    _broken: set[str] = field(default_factory=set)
    """Signals whose derivation has failed; logged once."""
    _reused: dict[str, tuple[object, Samples]] = field(default_factory=dict)

    def take(
        self,
        readings: Readings | None,
        windows: WindowStore,
        identity: ServerIdentity,
        health: Health,
        scraped: Scrape | None = None,
        gpus: GpuInputs | None = None,
        counted: Iterable[SloSample] = (),
        probes: Mapping[str, ProbeHealth] | None = None,
        startup: float | None = None,
    ) -> Snapshot:
        """Make a snapshot without a pause; see `steps`."""
        return at_once(self.steps(readings, windows, identity, health, scraped, gpus, counted, probes, startup))

    def steps(
        self,
        readings: Readings | None,
        windows: WindowStore,
        identity: ServerIdentity,
        health: Health,
        scraped: Scrape | None,
        gpus: GpuInputs | None,
        counted: Iterable[SloSample],
        probes: Mapping[str, ProbeHealth] | None,
        startup: float | None,
    ) -> Generator[None, None, Snapshot]:
        """Make a snapshot, with a pause after each engine.

        `readings` is None while the source is down, `gpus` if none belong to the target. `startup` is the duration of
        the server's last start in seconds, None if unknown. `counted` are series of models, with `model_name` first.
        """
        samples: Samples = defaultdict(list)
        if readings is not None:
            self._forget(readings)
            yield from self._cumulative(readings, samples)
            yield from self._derived(readings, windows, identity, samples, gpus)
            self._sources(readings, samples)
            self._engines(readings, samples)
        self._server(readings, windows, identity, samples)
        if startup is not None:
            self._add(samples, "server_startup_seconds", (), startup)
        for name, labels, value in health.samples():
            self._add(samples, name, labels, value)
        for name, labels, value in _probe_samples(probes or {}):
            self._add(samples, name, labels, value)
        yield
        for name, (model, *labels), value in counted:
            samples[name].append((self._text(Group(Scope.MODEL, (model,)), (name, *labels)), value))
        self._add_reused(samples, health.failures, health.failure_samples)
        return Snapshot(
            self.target,
            samples,
            health,
            identity,
            readings,
            windows.restarts,
            windows.recent_restarts,
            scraped,
            probes or {},
            _request_totals(readings, windows, health),
        )

    def _forget(self, readings: Readings) -> None:
        """Drop the texts of engines that disappeared, and all texts if so many mean that labels keep changing."""
        for group in [group for group in self._texts if group.scope is Scope.ENGINE and group not in readings.groups]:
            del self._texts[group]
        if sum(map(len, self._texts.values())) > MOST_TEXTS + 1000 * len(readings.groups):
            self._texts.clear()

    def _text(self, group: Group, key: Key) -> str:
        texts = self._texts.get(group)
        if texts is None:
            texts = self._texts[group] = {}
        text = texts.get(key)
        if text is None:
            own = zip(SIGNALS[key[0]].labels, key[1:], strict=True) if isinstance(key, tuple) else ()
            scoped = zip(group.scope.labels, group.labels, strict=True)
            text = texts[key] = labels_text((*self.labels, *scoped, *own))
        return text

    def _add(self, samples: Samples, name: str, labels: Sequence[str], value: Value) -> None:
        samples[name].append((self._text(TARGET, (name, *labels)), value))

    def _cumulative(self, readings: Readings, samples: Samples) -> Generator[None, None, None]:
        for group, reading in readings.groups.items():
            yield
            whole = self._text(group, "")
            for scalars in (reading.counters, reading.gauges):
                for key, value in scalars.items():
                    if isinstance(key, tuple):
                        samples[key[0]].append((self._text(group, key), value))
                    elif not SIGNALS[key].labels:  # otherwise it is a sum that only derivations use
                        samples[key].append((whole, value))
            for name, histogram in reading.histograms.items():
                samples[name].append((whole, histogram))

    def _derived(
        self,
        readings: Readings,
        windows: WindowStore,
        identity: ServerIdentity,
        samples: Samples,
        gpus: GpuInputs | None,
    ) -> Generator[None, None, None]:
        engines = windows.of(Scope.ENGINE)
        server = ServerInputs(
            windows.get(TARGET),
            identity.flags,
            readings.adapters,
            identity.requests_in_flight,
            self.settings,
            {group.labels: window for group, window in engines.items()},
            gpus,
            windows.front_end,
            windows.adapters_in_use,
        )
        self._compute(TARGET, server, samples)
        models: dict[str, dict[str, Window]] = defaultdict(dict)
        work: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
        for group, window in engines.items():
            yield
            model, number = group.labels
            models[model][number] = window
            if group in readings.engines:
                labels = readings.engines[group].labels
                work[model][number] = tuple(labels.get(name, "") for name in DIFFERENT_WORK)
            config = readings.cache_config.get(group, {})
            # Data-parallel engines repeat the configuration of all; stages have one each.
            count = max(1, sum(other == config for other in readings.cache_config.values()))
            self._compute(group, EngineInputs(model, window, server, config, count), samples)
        for model, members in models.items():
            yield
            group = Group(Scope.MODEL, (model,))
            self._compute(group, ModelInputs(members, windows.get(group), server, work[model]), samples)

    def _compute(self, group: Group, inputs: EngineInputs | ModelInputs | ServerInputs, samples: Samples) -> None:
        whole = self._text(group, "")
        for name in _BY_SCOPE[group.scope]:
            try:
                result = DERIVATIONS[name](inputs)
            except Exception as error:  # noqa: BLE001 - a bug in one derivation must affect one signal, not the target
                if name not in self._broken:
                    self._broken.add(name)
                    event(
                        _log, logging.ERROR, "internal_error", target=self.target or None, signal=name, exc_info=error
                    )
                continue
            if result is None:
                continue
            if isinstance(result, dict):
                for labels, value in result.items():
                    key = (name, *labels) if isinstance(labels, tuple) else (name, labels)
                    samples[name].append((self._text(group, key), float(value)))
            else:
                samples[name].append((whole, result if isinstance(result, Summary) else float(result)))  # type: ignore[arg-type]

    def _sources(self, readings: Readings, samples: Samples) -> None:
        self._add(samples, "unknown_families", (), float(readings.unknown_count))
        self._add(samples, "unknown_labels", (), float(len(readings.unknown_labels)))

        def make() -> Iterable[tuple[str, Sequence[str], float]]:
            for signal, sources in readings.sources.items():
                for source in sources:
                    yield "signal_source_info", (signal, source), 1.0
            for signal in CHECKLIST:
                yield "signal_missing", (signal,), float(signal in readings.missing)

        self._add_reused(samples, readings.sources, make)  # a part of the plan: the same object for a known layout

    def _engines(self, readings: Readings, samples: Samples) -> None:
        """Add the engines with the labels that the server exposes, including unknown ones."""
        known = self._reused.get("engine_info")
        if known is None or known[0] is not readings.engines:
            taken = {*Scope.ENGINE.labels, *RESERVED_LABELS, *(name for name, _ in self.labels)}
            made: Samples = {"engine_info": []}
            for group, engine in readings.engines.items():
                scoped = zip(group.scope.labels, group.labels, strict=True)
                text = labels_text((*self.labels, *scoped, *shown_labels(engine, taken).items()))
                made["engine_info"].append((text, 1.0))
            known = self._reused["engine_info"] = (readings.engines, made)
        samples.update(known[1])

    def _add_reused(
        self, samples: Samples, of: object, make: Callable[[], Iterable[tuple[str, Sequence[str], float]]]
    ) -> None:
        """Add samples that are reused as long as `of` is the same object."""
        name = make.__qualname__
        known = self._reused.get(name)
        if known is None or known[0] is not of:
            made: Samples = defaultdict(list)
            for row in make():
                self._add(made, *row)
            known = self._reused[name] = (of, made)
        samples.update(known[1])

    def _server(
        self, readings: Readings | None, windows: WindowStore, identity: ServerIdentity, samples: Samples
    ) -> None:
        for name, labels, value in _identity_samples(readings, identity):
            self._add(samples, name, labels, value)
        self._add(samples, "server_restarts_total", (), float(windows.restarts))
        self._add(samples, "window_gaps_total", (), float(windows.gaps))


def _probe_samples(probes: Mapping[str, ProbeHealth]) -> Iterable[tuple[str, Sequence[str], float]]:
    for source, probe in probes.items():
        yield "probe_failures_total", (source,), float(probe.failures)
        yield "probe_interval_seconds", (source,), probe.interval
        yield "probe_server_time_ratio", (source,), probe.server_time_ratio
        if probe.last_success is not None and probe.seconds is not None:
            yield "probe_last_success_timestamp_seconds", (source,), probe.last_success
            yield "probe_duration_seconds", (source,), probe.seconds


def _identity_samples(
    readings: Readings | None, identity: ServerIdentity
) -> Iterable[tuple[str, Sequence[str], float]]:
    yield "config_changes_total", (), float(identity.changes)
    if identity.last_change is not None:
        yield "config_last_change_timestamp_seconds", (), identity.last_change
    if readings is None:
        return
    dialect = readings.dialect
    yield "server_info", (identity.version or "", dialect.front_end, dialect.engine), 1.0
    if (started := _started(readings)) is not None:
        yield "server_start_timestamp_seconds", (), started
    if identity.requests_in_flight is not None:
        yield "http_requests_in_flight", (), identity.requests_in_flight
    if identity.fingerprint is not None:
        shown = (_shown(identity.flags.get(name)) for name in FLAGS_SHOWN)
        yield "server_config_info", (identity.fingerprint, *shown), 1.0
    for flag, (name, _) in FLAG_GAUGES.items():
        value = identity.flags.get(flag)
        if isinstance(value, (bool, int, float)):
            yield name, (), float(value)
    for model in identity.models[:MAX_MODELS]:
        yield "model_info", (model.id, model.root or "", model.parent or "", slug(model.id)), 1.0


def _started(readings: Readings) -> float | None:
    """Return the Unix time at which the server started; None if unknown."""
    return readings.started if readings.started is not None else min(readings.created.values(), default=None)


def _request_totals(readings: Readings | None, windows: WindowStore, health: Health) -> Periods | None:
    if readings is None:
        return None
    started, polled = _started(readings), health.last_success
    age = polled - started if started is not None and polled is not None else None
    return request_totals(windows, None if age is None else windows.now - age)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
