"""Samples to text, in the Prometheus text format 0.0.4 and in OpenMetrics 1.0.

Unchanged values are not formatted again: the text of each series is cached with its value. Both formats have the same
sample lines (bounds and quantiles are written `1.0`, as OpenMetrics requires and Prometheus 3 stores them); only the
comments differ.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.slices import at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from vllm_sidecar.exposition.metric_values import Value

CONTENT_TYPE_TEXT = "text/plain; version=0.0.4; charset=utf-8"
CONTENT_TYPE_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Family(NamedTuple):
    """Comments of a metric family before its samples; `metric` is the full name with `_total` or `_info`."""

    metric: str
    kind: str
    help: str
    unit: str = ""


class Renderer:
    """Renders families; caches the text of every series. The comments of a family must not change."""

    def __init__(self) -> None:
        self._texts: dict[str, dict[str, tuple[Value, str]]] = {}
        self._families: dict[str, tuple[Sequence[tuple[str, Value]], str]] = {}
        self._headers: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._templates: dict[tuple[str, str, tuple[float, ...]], str] = {}

    def render(
        self, families: Iterable[tuple[Family, Sequence[tuple[str, Value]]]], *, openmetrics: bool, whole: bool = True
    ) -> bytes:
        """Render families without a pause; see `steps`."""
        return at_once(self.steps(families, openmetrics=openmetrics, whole=whole))

    def steps(
        self, families: Iterable[tuple[Family, Sequence[tuple[str, Value]]]], *, openmetrics: bool, whole: bool = True
    ) -> Generator[None, None, bytes]:
        """Render families with their series, each a text of labels (`a="b",c="d"`, see `labels_text`) and a value.

        Pauses after each family. Without `whole` more text follows, and the last line of OpenMetrics is left out.
        """
        parts: list[str] = []
        headers = self._headers[openmetrics]
        for family, series in families:
            if series:
                metric = family.metric
                header = headers.get(metric)
                if header is None:
                    header = headers[metric] = _header(family, openmetrics)
                parts += (header, self._family(metric, series))
                yield
        if openmetrics and whole:
            parts.append("# EOF\n")
        return "".join(parts).encode()

    def _family(self, metric: str, series: Sequence[tuple[str, Value]]) -> str:
        # Comparing whole lists runs in C: most families are unchanged.
        before = self._families.get(metric)
        if before is None or before[0] != series:
            before = self._families[metric] = (series, "".join(self._series(metric, series)))
        return before[1]

    def _series(self, metric: str, series: Sequence[tuple[str, Value]]) -> Iterator[str]:
        texts = self._texts.setdefault(metric, {})
        if len(texts) > 2 * len(series) + 16:  # series that disappeared
            texts.clear()
            self._templates = {key: text for key, text in self._templates.items() if key[0] != metric}
        for labels, value in series:
            known = texts.get(labels)
            if known is None or (known[0] is not value and known[0] != value):
                known = texts[labels] = (value, self._lines(metric, labels, value))
            yield known[1]

    def _lines(self, metric: str, labels: str, value: Value) -> str:
        if isinstance(value, float):
            return f"{metric}{{{labels}}} {number(value)}\n" if labels else f"{metric} {number(value)}\n"
        # Histograms and summaries contain only finite numbers (see `vllm.normalize`), and %r of a finite float is
        # valid.
        total = value.total
        if isinstance(value, Histogram):
            text = self._template(metric, labels, value.bounds, _histogram_template) % value.cumulative
            if total is None:  # OpenMetrics demands the sum and the count, or neither; the bucket of +Inf is the count
                return text
            count = value.cumulative[-1]
        else:
            quantiles = value.quantiles
            text = self._template(metric, labels, tuple([q for q, _ in quantiles]), _summary_template)
            text %= tuple([v for _, v in quantiles])
            count = value.observations
        braces = _braces(labels)
        text = f"{text}{metric}_count{braces} {count!r}\n"
        return text if total is None else f"{text}{metric}_sum{braces} {total!r}\n"

    def _template(
        self, metric: str, labels: str, bounds: tuple[float, ...], make: Callable[[str, str, tuple[float, ...]], str]
    ) -> str:
        key = (metric, labels, bounds)
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = make(metric, labels, bounds)
        return template


def number(value: float) -> str:
    """Return a float as both formats write it."""
    if isfinite(value):
        return repr(value)
    return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"


def escape(value: str) -> str:
    """Return a label value or a help text, escaped for both formats."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def labels_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Return label pairs for the text between the braces; empty values are left out, because they mean no label."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in pairs if value)


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _header(family: Family, openmetrics: bool) -> str:
    name, kind = family.metric, family.kind
    if openmetrics:
        name = name.removesuffix({"counter": "_total", "info": "_info"}.get(kind, ""))
    elif kind == "info":
        kind = "gauge"
    # OpenMetrics escapes quotes in help texts; the text format does not have that escape.
    text = escape(family.help) if openmetrics else escape(family.help).replace(r"\"", '"')
    unit = f"# UNIT {name} {family.unit}\n" if openmetrics and family.unit and name.endswith("_" + family.unit) else ""
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n{unit}"


def _histogram_template(metric: str, labels: str, bounds: Sequence[float]) -> str:
    return _template(f"{metric}_bucket", "le", [*map(number, bounds), "+Inf"], labels)


def _summary_template(metric: str, labels: str, quantiles: Sequence[float]) -> str:
    return _template(metric, "quantile", map(number, quantiles), labels)


def _template(name: str, label: str, bounds: Iterable[str], labels: str) -> str:
    """Make the format of one series' lines, one for each bound."""
    before = labels.replace("%", "%%") + "," if labels else ""
    return "".join([f'{name}{{{before}{label}="{bound}"}} %r\n' for bound in bounds])
