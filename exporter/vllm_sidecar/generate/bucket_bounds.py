"""Bucket bounds of a live server, of its options, or vLLM's own; and how to treat a threshold that is not one.

A histogram contains the exact share of good observations only at its bucket bounds. In between Prometheus would have to
estimate it, and the estimate would decide whether somebody is paged.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from math import isclose, log
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.buckets import BUCKETS, FAMILY, FLAG, FLAG_SINCE
from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.catalog.types import PREFIX, Scope
from vllm_sidecar.config import format_duration
from vllm_sidecar.exposition import DifferentialParser, number
from vllm_sidecar.redaction import redact
from vllm_sidecar.vllm.normalize import Normalizer
from vllm_sidecar.vllm.one_answer import AnswerError, one_answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vllm_sidecar.exposition.layout import Layout

TIMEOUT = 10.0
MOST_BYTES = 64 * 1024 * 1024


class LiveError(OSError):
    """A server did not expose its bucket bounds; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Replica:
    """The bucket bounds of one histogram of one engine."""

    where: str
    model: str
    histogram: str
    bounds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BucketBounds:
    """Sources of bucket bounds: replicas first, then options, then vLLM's defaults."""

    replicas: tuple[Replica, ...] = ()
    options: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Family to bounds, as passed to vLLM."""

    def of(self, histogram: str, model: str | None) -> list[tuple[str, Sequence[float]]]:
        """Return the bounds of a histogram and their origin: for each replica that serves the model (None: any)."""
        live: list[tuple[str, Sequence[float]]] = [
            (replica.where, replica.bounds)
            for replica in self.replicas
            if replica.histogram == histogram and model in (None, replica.model)
        ]
        if live:
            return live
        family = FAMILY[histogram]
        if family in self.options:
            return [("slos.buckets", self.options[family])]
        return [("vLLM's defaults", BUCKETS[family])]


@dataclass(frozen=True, slots=True)
class SnappedThreshold:
    """A threshold at a bucket bound. `note` is what was changed, `mistake` why it is impossible, or both are None."""

    threshold: float
    note: str | None = None
    mistake: str | None = None


def placed(
    histogram: str, threshold: float, bounds: BucketBounds, model: str | None, *, snap: bool
) -> SnappedThreshold:
    """Find a threshold among the bounds of all replicas; if it is missing, with `snap` use the nearest common one."""
    known = bounds.of(histogram, model)
    lacking = [where for where, each in known if not _has(each, threshold)]
    if not lacking:
        return SnappedThreshold(threshold)
    common = [bound for bound in known[0][1] if all(_has(each, bound) for _, each in known)]
    shown = format_duration(threshold)
    exact = f"to have it exactly (vLLM {FLAG_SINCE} or newer): {option(histogram, threshold, known[0][1])}"
    if not common:
        return SnappedThreshold(
            threshold, mistake=f"{shown} is not a bucket bound of {', '.join(lacking)}, and no bound is in all; {exact}"
        )
    nearest = min(common, key=lambda bound: abs(log(bound / threshold)))
    if snap:
        return SnappedThreshold(
            nearest,
            note=f"{shown} is not a bucket bound of {', '.join(lacking)}: {_shown(nearest)} is used instead; {exact}",
        )
    around = " and ".join(_shown(bound) for bound in _around(common, threshold))
    return SnappedThreshold(
        threshold,
        mistake=f"{shown} is not a bucket bound of {', '.join(lacking)}; nearest are {around}, or snap: true uses "
        f"{_shown(nearest)}, or source: sidecar estimates; {exact}",
    )


def option(histogram: str, threshold: float, bounds: Sequence[float]) -> str:
    """Write vLLM's option that adds a bound to those that a histogram has."""
    every = sorted({*bounds, threshold})
    return f"{FLAG} '{json.dumps({FAMILY[histogram]: every}, separators=(',', ':'))}'"


def le_matcher(threshold: float) -> str:
    """Return the matcher of a bucket bound, in all its forms: Prometheus 2 stores `1` as scraped, 3 as `1.0`."""
    text = number(float(threshold))
    whole = text.removesuffix(".0")
    return f'le="{text}"' if whole == text else f'le=~"{whole}(\\\\.0)?"'


def live(urls: Iterable[str]) -> BucketBounds:
    """Read the bucket bounds of servers; each address is that of /metrics, of vLLM or of a sidecar.

    Raises:
        LiveError: A server does not answer, or has no histogram of latency.
    """
    return BucketBounds(tuple(replica for url in urls for replica in _replicas(url)))


def _replicas(url: str) -> list[Replica]:
    url = url if re.match(r"https?://[^/]+/.", url) else f"{url.rstrip('/')}/metrics"
    shown = redact(url)
    if not re.match(r"https?://[^/]", url):
        raise LiveError(f"--live {shown}: must be the address of /metrics, such as http://HOST:8000/metrics")
    if "@" in url:
        raise LiveError(f"--live {shown}: must be an address without user and password, which are not sent")
    try:
        body, kind = one_answer(url, seconds=TIMEOUT, most_bytes=MOST_BYTES, accept="text/plain;version=0.0.4")
        exposition = DifferentialParser().parse(body, kind)
    except (AnswerError, PollError) as error:
        raise LiveError(f"--live {shown}: {getattr(error, 'detail', None) or error}") from None
    readings = Normalizer().normalize(exposition)
    found = [
        Replica(f"{shown} (engine {group.labels[1]})", group.labels[0], name, histogram.bounds)
        for group, reading in readings.groups.items()
        if group.scope is Scope.ENGINE
        for name, histogram in reading.histograms.items()
        if name in FAMILY
    ]
    found += _of_a_sidecar(shown, exposition.layout)
    if not found:
        raise LiveError(f"--live {shown}: has no histogram of latency, neither vLLM's nor a sidecar's")
    return found


def _of_a_sidecar(where: str, layout: Layout) -> Iterator[Replica]:
    seen: dict[tuple[str, str, str], set[float]] = {}
    for sample, pairs in layout.series:
        name = sample.removeprefix(PREFIX).removesuffix("_bucket")
        labels = dict(pairs)
        if sample == f"{PREFIX}{name}_bucket" and name in FAMILY and labels["le"] != "+Inf":
            key = (name, labels.get("model_name", ""), labels.get("engine", ""))
            seen.setdefault(key, set()).add(float(labels["le"]))
    for (name, model, engine), bounds in seen.items():
        yield Replica(f"{where} (engine {engine})", model, name, tuple(sorted(bounds)))


def _has(bounds: Iterable[float], threshold: float) -> bool:
    return any(isclose(bound, threshold, rel_tol=1e-9) for bound in bounds)


def _around(bounds: Sequence[float], threshold: float) -> list[float]:
    below = [bound for bound in bounds if bound < threshold]
    above = [bound for bound in bounds if bound > threshold]
    return [*below[-1:], *above[:1]]


def _shown(bound: float) -> str:
    return format_duration(bound) if bound >= 0.001 and isclose(bound * 1000, round(bound * 1000)) else f"{bound:g} s"
