"""Fuzz targets: any bytes -> a check that raises if the program broke a promise.

An input is one body, or several polls of one server that are separated by a line with three dashes.
"""

from __future__ import annotations

from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING

import captured
from of_numbers import quantiles
from of_requests import headers, http
from of_settings import configuration, documents, thresholds
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.derive.inputs import DeriveSettings
from vllm_sidecar.exposition import DifferentialParser, Family, Renderer
from vllm_sidecar.exposition.metric_values import Histogram, Summary
from vllm_sidecar.redaction import bare_url, redact
from vllm_sidecar.series.good_observations import Objective
from vllm_sidecar.series.health import Health
from vllm_sidecar.series.slo_counters import SloCounters
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.serve.snapshot import Snapshotter
from vllm_sidecar.serve.status import status
from vllm_sidecar.vllm.normalize import Normalizer
from vllm_sidecar.vllm.probes.identity import ServerIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vllm_sidecar.exposition.layout import Exposition
    from vllm_sidecar.exposition.metric_values import Value
    from vllm_sidecar.series.readings import Readings

BETWEEN_POLLS = b"\n---\n"
MOST_POLLS = 8
UP = Health("vllm").succeeded(last_success=1.0, seconds=0.01)


def polls_of(data: bytes) -> list[bytes]:
    """Split an input into the bodies of successive polls."""
    return [body + b"\n" for body in data.split(BETWEEN_POLLS)[:MOST_POLLS]]


def _read(parser: DifferentialParser, body: bytes, content_type: str = "") -> Exposition | None:
    try:
        return parser.parse(body, content_type)
    except PollError:
        return None


def _same(one: Exposition, other: Exposition) -> bool:
    return (
        (one.layout.series, one.layout.families, one.rejected, one.rejected_count, one.limits)
        == (other.layout.series, other.layout.families, other.rejected, other.rejected_count, other.limits)
        and list(map(captured.plain, one.values)) == list(map(captured.plain, other.values))
    )  # fmt: skip


def parser(data: bytes) -> None:
    """A parser never fails but with PollError, and one that remembers reads what a new one reads."""
    remembering = DifferentialParser()
    for body in polls_of(data):
        found, fresh = _read(remembering, body), _read(DifferentialParser(), body)
        assert (found is None) == (fresh is None)
        if found is not None and fresh is not None:
            assert _same(found, fresh)


def differential(data: bytes) -> None:
    """A body that both readers accept whole has the same samples for both, in both formats."""
    for parse, ending, kind in (
        (parse_text, b"\n", ""),
        (parse_openmetrics, b"\n# EOF\n", "application/openmetrics-text"),
    ):
        body = data + ending
        found = _read(DifferentialParser(), body, kind)
        if found is None or found.rejected_count or found.limits:
            continue
        try:
            families = list(parse(body.decode()))
        except (ValueError, IndexError, KeyError, TypeError, AttributeError):
            continue  # prometheus_client does not accept it
        # prometheus_client renames counters without `_total`, and takes blanks before a name for a part of it.
        renamed = {f"{family.name}_total": family.name for family in families if family.type == "counter"}
        theirs: dict[tuple[str, tuple[tuple[str, str], ...]], float | str] = {}
        for sample in chain.from_iterable(family.samples for family in families):
            key = renamed.get(sample.name, sample.name).strip(), tuple(sorted(sample.labels.items()))
            theirs.setdefault(key, captured.plain(float(sample.value)))
        ours: dict[tuple[str, tuple[tuple[str, str], ...]], float | str] = {}
        for (name, labels), value in zip(found.layout.series, found.values, strict=True):
            key = renamed.get(name, name), labels
            ours.setdefault(key, captured.plain(value))
        assert ours == theirs, (ours, theirs)


def _readings(data: bytes) -> Iterator[tuple[float, Readings]]:
    reader, normalizer = DifferentialParser(), Normalizer()
    for at, body in enumerate(polls_of(data)):
        found = _read(reader, body)
        if found is not None:
            yield float(at), normalizer.normalize(found, "tiny", float(at))


def normalizer(data: bytes) -> None:
    """A reading contains only what can be true."""
    for _, found in _readings(data):
        for reading in found.groups.values():
            assert all(0.0 <= value < 2e30 for part in reading[:2] for value in part.values())
            for histogram in reading.histograms.values():
                assert list(histogram.cumulative) == sorted(histogram.cumulative)
                assert 0.0 <= histogram.cumulative[0] <= histogram.cumulative[-1] <= 2.0**63
                assert len(histogram.cumulative) == len(histogram.bounds) + 1 <= 130
                assert histogram.total is None or 0.0 <= histogram.total <= 2.0**63


def windows(data: bytes) -> None:
    """Whatever a server exposes, everything derived is finite, SLO counters never fall, and the output is valid."""
    store, slos = (
        WindowStore(60.0, 300.0),
        SloCounters((Objective("ttft", "time_to_first_token_seconds", 0.3),), availability=True),
    )
    snapshotter, before = Snapshotter("", (), DeriveSettings()), {}
    for at, found in _readings(data):
        try:
            store.append(at, found)
        except PollError:
            continue
        slos.follow(found, store)
        rows = {(name, *labels): value for name, labels, value in slos.rows(up=False)}
        assert all(value >= before.get(key, 0.0) and isfinite(value) for key, value in rows.items())
        before = rows
        snapshot = snapshotter.take(found, store, ServerIdentity(), UP, counted=slos.rows(up=True))
        assert not snapshotter._broken, snapshotter._broken
        assert all(_is_finite(value) for series in snapshot.samples.values() for _, value in series)
        status((snapshot,))
        families = [(Family(f"m_{name}", _kind(series), "Help."), series) for name, series in snapshot.samples.items()]
        list(parse_openmetrics(Renderer().render(families, openmetrics=True).decode()))


def _kind(series: list[tuple[str, Value]]) -> str:
    value = series[0][1] if series else 0.0
    return "histogram" if isinstance(value, Histogram) else "summary" if isinstance(value, Summary) else "unknown"


def _is_finite(value: Value) -> bool:
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, Histogram):
        return all(map(isfinite, value.cumulative))
    return all(isfinite(number) for _, number in value.quantiles) and isfinite(value.observations)


def urls(data: bytes) -> None:
    """No text keeps a password of a URL."""
    text = data.decode(errors="replace").replace("SECRET", "").replace("@", "")
    assert "SECRET" not in redact(bare_url(f"http://user:{text}SECRET{text}@host/{text}"))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "parser": parser,
    "differential": differential,
    "normalizer": normalizer,
    "windows": windows,
    "urls": urls,
    "configuration": configuration,
    "thresholds": thresholds,
    "documents": documents,
    "quantiles": quantiles,
    "http": http,
    "headers": headers,
}
