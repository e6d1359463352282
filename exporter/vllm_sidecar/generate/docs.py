"""Catalog -> Markdown: metrics, settings, alerts, dashboards, fields of GPUs, and hints for failed polls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog import (
    DERIVED,
    GPU_FIELDS,
    GPU_STATE,
    HTTP_REQUESTS,
    OPEN_FDS,
    OTLP,
    OWN,
    SERVER,
    SIGNALS,
    SLO,
    TRANSFERS,
    UPSTREAM,
)
from vllm_sidecar.catalog.canary import CANARY, CANARY_HINTS, OUTPUT_HINTS
from vllm_sidecar.catalog.dashboards import DASHBOARDS
from vllm_sidecar.catalog.discovery import DISCOVERY, SOURCE_HINTS
from vllm_sidecar.catalog.gpu_fields import PREFIX as GPU_PREFIX
from vllm_sidecar.catalog.otlp import GEN_AI_ATTRIBUTES, MODEL_ATTRIBUTE, OTLP_METRICS, PUSH_HINTS, UCUM
from vllm_sidecar.catalog.reasons import GPU_HINTS, GPU_REASONS, HINTS, VLLM_REASONS
from vllm_sidecar.catalog.types import Kind
from vllm_sidecar.catalog.upstream import PREFIXES
from vllm_sidecar.config import Config
from vllm_sidecar.config.otel_environment import NAMES as OTEL_VARIABLES
from vllm_sidecar.generate import promql
from vllm_sidecar.generate.alert_docs import alerts
from vllm_sidecar.generate.config_docs import settings
from vllm_sidecar.generate.markdown import cell
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.shim import ABOUT_SIDECARS, provided
from vllm_sidecar.generate.templating import JINJA

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_sidecar.catalog import Signal
    from vllm_sidecar.catalog.otlp import OtlpMetric

METRICS = "docs/metrics.md"
CONFIGURATION = "docs/configuration.md"
TROUBLESHOOTING = "docs/troubleshooting.md"
GPUS = "docs/gpu.md"
ALERTS = "docs/alerts.md"
DASHBOARD_DOCS = "docs/dashboards.md"
DISCOVERY_DOCS = "docs/discovery.md"
OTLP_DOCS = "docs/otlp.md"
CANARY_DOCS = "docs/canary.md"


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric as the cells of a table, escaped for Markdown."""

    metric: str
    kind: str
    labels: str
    meaning: str
    more: str = ""
    """vLLM's own names for a normalized metric; the number of the reason for a derived one."""


def sections() -> dict[str, dict[str, str]]:
    """Return the generated sections: file -> name of the section -> its text."""
    reasons = _reasons((reason.value, HINTS[reason]) for reason in VLLM_REASONS)
    gpu_reasons = _reasons((reason.value, GPU_HINTS[reason]) for reason in GPU_REASONS)
    return {
        METRICS: {"metrics": metrics()},
        CONFIGURATION: {"settings": settings()},
        TROUBLESHOOTING: {"reasons": reasons, "gpu reasons": gpu_reasons},
        GPUS: {"gpu fields": gpu_fields()},
        ALERTS: {"alerts": alerts(), "without the sidecar": plain_alerts()},
        DASHBOARD_DOCS: {"dashboards": dashboards()},
        CANARY_DOCS: {
            "canary states": _reasons((one.value, hint) for one, hint in OUTPUT_HINTS.items()),
            "canary reasons": _reasons((one.value, hint) for one, hint in CANARY_HINTS.items()),
        },
        DISCOVERY_DOCS: {"discovery reasons": _reasons((one.value, hint) for one, hint in SOURCE_HINTS.items())},
        OTLP_DOCS: {
            "otlp metrics": otlp_metrics(),
            "otlp reasons": _reasons((one.value, hint) for one, hint in PUSH_HINTS.items()),
            "otlp variables": "".join(f"- `{name}`\n" for name in OTEL_VARIABLES),
        },
    }


def metrics() -> str:
    """Write the tables of all metrics, in the order of the catalog."""
    whys = list(dict.fromkeys(entry.signal.why_not_promql or "" for entry in DERIVED))
    return JINJA.get_template("metrics.md.j2").render(
        window=_window(),
        cumulative=[
            *(
                _row(entry.signal, _names(PREFIXES[0] + alias for alias in entry.aliases))
                for entry in (*UPSTREAM, TRANSFERS)
            ),
            *(_row(entry.signal, _names(entry.aliases)) for entry in (HTTP_REQUESTS, OPEN_FDS)),
        ],
        whys=whys,
        derived=[
            _row(entry.signal, str(whys.index(entry.signal.why_not_promql or "") + 1))
            for entry in DERIVED
        ],
        server=[_row(signal) for signal in SERVER],
        gpus=[_row(signal) for signal in (*(entry.signal for entry in GPU_FIELDS), *GPU_STATE)],
        slos=[_row(signal) for signal in SLO],
        own=[_row(signal) for signal in (*CANARY, *OWN, *DISCOVERY, *OTLP)],
    )  # fmt: skip


def gpu_fields() -> str:
    """Write the table of the fields that are read from a GPU, in the order of the catalog."""
    rows = [
        (
            entry.signal.name.removeprefix(GPU_PREFIX),
            cell(entry.call),
            f"{entry.raw} → {entry.signal.unit.suffix}"
            if entry.signal.unit.suffix
            else entry.raw or _number(entry.signal),
            cell(entry.unsupported),
            entry.tier.value,
            entry.group,
        )
        for entry in GPU_FIELDS
    ]
    return JINJA.get_template("gpu_fields.md.j2").render(rows=rows)


class OtlpRow(NamedTuple):
    """One metric that is pushed, as the cells of a table."""

    name: str
    kind: str
    unit: str
    attributes: str
    source: str


def otlp_metrics() -> str:
    """Write the table of the metrics that are pushed."""
    return JINJA.get_template("otlp_metrics.md.j2").render(rows=[_otlp_row(metric) for metric in OTLP_METRICS])


def _otlp_row(metric: OtlpMetric) -> OtlpRow:
    signal = SIGNALS[metric.signal]
    kind = {Kind.COUNTER: "sum", Kind.SUMMARY: "gauge"}.get(signal.kind, signal.kind.value)
    labels = [*signal.label_names, *(["quantile"] if signal.kind is Kind.SUMMARY else [])]
    if metric.gen_ai:
        labels = [*GEN_AI_ATTRIBUTES, *(MODEL_ATTRIBUTE if name == "model_name" else name for name in labels)]
    unit = UCUM[signal.unit]
    return OtlpRow(metric.name, kind, f"`{unit}`" if unit else "", _names(labels), signal.metric)


def dashboards() -> str:
    """Write the table of the dashboards."""
    return JINJA.get_template("dashboards.md.j2").render(dashboards=DASHBOARDS)


def plain_alerts() -> str:
    """Write the list of alerts that have all their metrics without the sidecar."""
    thresholds = Thresholds()
    known = {*provided(thresholds), *promql.EVERYWHERE}
    every = [rule for group in alert_groups(thresholds) for rule in group["rules"]]
    for record in (rule for rule in every if "record" in rule):
        if promql.answerable(promql.parse(record["expr"]), known):
            known.add(record["record"])
    rules = [rule for rule in every if rule.get("alert", ABOUT_SIDECARS[0]) not in ABOUT_SIDECARS]
    works = [rule["alert"] for rule in rules if promql.answerable(promql.parse(rule["expr"]), known)]
    silent = [rule["alert"] for rule in rules if rule["alert"] not in works]
    return JINJA.get_template("plain_alerts.md.j2").render(
        total=len(rules), works=[f"`{name}`" for name in works], silent=[f"`{name}`" for name in silent]
    )


def _number(signal: Signal) -> str:
    return "count" if signal.kind is Kind.COUNTER else "number"


def _reasons(rows: Iterable[tuple[str, str]]) -> str:
    """Write a table of reasons, with the hint of each."""
    return JINJA.get_template("reasons.md.j2").render(rows=[(reason, cell(hint)) for reason, hint in rows])


def _row(signal: Signal, more: str = "") -> MetricRow:
    labels = [*signal.label_names, *(["quantile"] if signal.kind is Kind.SUMMARY else [])]
    meaning = cell(signal.help.replace("{window}", _window()))
    return MetricRow(signal.metric, signal.kind.value, _names(labels), meaning, more)


def _window() -> str:
    return f"{Config().windows.length:g} s"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
