"""Builds readings, windows and views from plain values: what the tests of stages 4 and 5 are written in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.derive.inputs import DeriveSettings, EngineInputs, ModelInputs, ServerInputs
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.readings import Dialect, Group, Reading, Readings
from vllm_sidecar.series.readings import Engine as Identified
from vllm_sidecar.series.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vllm_sidecar.series.readings import Adapters, Key
    from vllm_sidecar.vllm.probes.flag_values import FlagValue

Poll = dict["Key", "float | Histogram"]
"""One poll of one group: signals by name, or by name and label values; the name tells what they are."""

BOUNDS = (1.0, 2.0, 4.0)
START = 1000.0
"""Monotonic time of the first poll."""
ENGINE = Group(Scope.ENGINE, ("m", "0"))
OTHER_ENGINE = Group(Scope.ENGINE, ("m", "1"))
MODEL = Group(Scope.MODEL, ("m",))
TARGET = Group(Scope.TARGET, ())
V1 = Dialect("vllm:", "v1", "python", multiprocess=False)


def histogram(*counts: float, total: float | None = 0.0, bounds: tuple[float, ...] = BOUNDS) -> Histogram:
    """Make a histogram of the counts per bucket, the last for +Inf."""
    assert len(counts) == len(bounds) + 1
    return Histogram(bounds, tuple(sum(counts[: i + 1]) for i in range(len(counts))), total)


def observed(*values: float, times: int = 1, bounds: tuple[float, ...] = BOUNDS) -> Histogram:
    """Make the histogram that has seen these values, each so many times."""
    cumulative = [times * sum(value <= bound for value in values) for bound in bounds]
    return Histogram(bounds, (*map(float, cumulative), float(times * len(values))), times * sum(values, 0.0))


def reading(poll: Mapping[Key, float | Histogram]) -> Reading:
    """Sort the signals of one poll into counters (`..._total`), gauges and histograms."""
    made = Reading({}, {}, {})
    for key, value in poll.items():
        name = key if isinstance(key, str) else key[0]
        if isinstance(value, Histogram):
            made.histograms[name] = value  # type: ignore[index]
        elif name.endswith("_total"):
            made.counters[key] = float(value)  # type: ignore[index]
        else:
            made.gauges[key] = float(value)  # type: ignore[index]
    return made


def window(*polls: Poll, every: float = 1.0, length: float = 60.0, keep: float = 300.0) -> Window:
    """Make a window of polls at a steady pace."""
    made = Window(length, keep)
    for i, poll in enumerate(polls):
        made.append(START + i * every, reading(poll))
    return made


def grown(first: Poll, last: Poll, seconds: float = 10.0) -> Window:
    """Make a window of two polls."""
    return window(first, last, every=seconds)


def engine(
    seen: Window,
    *,
    flags: Mapping[str, FlagValue] | None = None,
    cache_config: Mapping[str, str] | None = None,
    engines: int = 1,
    http: Window | None = None,
    beside: Iterable[Window] = (),
    in_flight: float | None = None,
    settings: DeriveSettings | None = None,
    model_name: str = "m",
) -> EngineInputs:
    """Make the view of an engine, with the windows of the others of its server."""
    every = {(model_name, str(i)): window for i, window in enumerate((seen, *beside))}
    made = ServerInputs(http, flags or {}, None, in_flight, settings or DeriveSettings(), every)
    return EngineInputs(model_name, seen, made, cache_config or {}, engines)


def model(*engines: Window, own: Window | None = None) -> ModelInputs:
    """Make the view of a model of several engines."""
    return ModelInputs({str(i): seen for i, seen in enumerate(engines)}, own, ServerInputs())


def server(
    http: Window | None = None,
    *engines: Window,
    adapters: Adapters | None = None,
    settings: DeriveSettings | None = None,
) -> ServerInputs:
    """Make the view of a server."""
    every = {("m", str(i)): seen for i, seen in enumerate(engines)}
    return ServerInputs(http, {}, adapters, None, settings or DeriveSettings(), every)


def readings(
    groups: Mapping[Group, Poll] | Poll,
    *,
    started: float | None = None,
    created: Mapping[Group, float] | None = None,
    cache_config: Mapping[Group, Mapping[str, str]] | None = None,
    adapters: Adapters | None = None,
    sources: Mapping[str, tuple[str, ...]] | None = None,
    missing: Sequence[str] = (),
) -> Readings:
    """Make one poll of a server from the polls of its groups, or of its one engine."""
    polls = groups if all(isinstance(group, Group) for group in groups) else {ENGINE: groups}
    return Readings(
        groups={group: reading(poll) for group, poll in polls.items()},  # type: ignore[arg-type]
        dialect=V1,
        started=started,
        created=created or {},
        cache_config=cache_config or {},
        adapters=adapters,
        sources=sources or {},
        missing=tuple(missing),
        unknown=(),
        anomalies={},
        engines={
            group: Identified(group, {"engine": group.labels[1]}) for group in polls if group.scope is Scope.ENGINE
        },
    )
