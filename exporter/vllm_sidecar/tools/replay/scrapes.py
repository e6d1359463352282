"""The scrapes of a sidecar by Prometheus -> input series of promtool."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import signal_of
from vllm_sidecar.catalog.types import PREFIX, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN_LABELS = 'job="vllm-sidecar",instance="recording"'
"""Labels that discovery adds to the series of a sidecar."""
_NAME = re.compile(rf"\b{PREFIX}[a-z0-9_]+")


class Scrapes:
    """The series that some rules read, with a value for each scrape; None where a series is absent."""

    def __init__(self, rules: str, began: float, scrape: float) -> None:
        """Keep what the text of the rules reads.

        Args:
            rules: All of them.
            began: Unix time of the start of the recording; the first scrape, promtool's time 0, is one interval later.
            scrape: Seconds between two scrapes.
        """
        self._read = frozenset(_NAME.findall(rules))
        self.scrape = scrape
        self._zero = began + scrape
        self._series: dict[str, list[float | None]] = {}
        self.count = 0

    def add(self, body: bytes) -> None:
        """Take the body of one scrape, in the text format."""
        for line in body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            if name in self._read:
                values = self._series.setdefault(series, [None] * self.count)
                values.append(float(value) - (self._zero if _is_time(name) else 0.0))
        self.count += 1
        for values in self._series.values():
            if len(values) < self.count:
                values.append(None)

    def input_series(self) -> Iterator[dict[str, str]]:
        """Yield the series for promtool.

        A series that ends is marked stale, as Prometheus does. The sidecar started with the recording, and answered
        every scrape.
        """
        for own, value in (("up", 1.0), ("process_start_time_seconds", -self.scrape)):
            yield {"series": f"{own}{{{OWN_LABELS}}}", "values": f"{value}x{self.count - 1}"}
        for series, values in self._series.items():
            name, _, labels = series.partition("{")
            full = f"{name}{{{OWN_LABELS}{',' + labels if labels else '}'}"
            yield {"series": full, "values": " ".join(map(_written, values))}


def _is_time(metric: str) -> bool:
    signal = signal_of(metric.removeprefix(PREFIX))
    return signal is not None and signal.unit is Unit.TIMESTAMP


def _written(value: float | None) -> str:
    if value is None:
        return "stale"
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
