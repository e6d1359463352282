"""Catalog -> the generated files of the Helm chart: rules whose numbers are values, dashboards, schema, value table.

Rules of the chart are Helm templates that have an action in the place of each threshold, so one chart serves all
thresholds, and with no values it is the rules of the defaults. All that is not a number (severity, `for`, labels,
annotations, links) is set by the chart's own templates, in the parsed rules.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.alerts import ALERTS, Measure
from vllm_sidecar.config import format_duration
from vllm_sidecar.generate.alertmanager import AlertmanagerFormat, alertmanager_config
from vllm_sidecar.generate.chart_values import values_table
from vllm_sidecar.generate.expressions import in_expression
from vllm_sidecar.generate.formats import HEAD, commented, dump, escaped_for_helm
from vllm_sidecar.generate.output_files import FilesError, Origin
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.slo_rules import slo_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from vllm_sidecar.catalog.alerts import Alert, Threshold

CHART = "deploy/helm/vllm-sidecar"
README = f"{CHART}/README.md"
VALUES = f"{CHART}/values.yaml"
SCHEMA = f"{CHART}/values.schema.json"
FILES = f"{CHART}/files"
BY = Origin("chart")
RUNBOOKS, GRAFANA = "https://runbooks.invalid", "https://grafana.invalid"
"""Addresses in the rules that the chart's templates replace by those of its values."""
_MARK = "\N{SECTION SIGN}"
DURATION = r"^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"
_SCHEMAS: dict[Measure, dict[str, Any]] = {
    Measure.DURATION: {"type": "string", "minLength": 2, "pattern": DURATION},
    Measure.SECONDS: {"type": "string", "minLength": 2, "pattern": DURATION},
    Measure.RATIO: {"type": "number", "minimum": 0, "maximum": 1},
    Measure.NUMBER: {"type": "number", "minimum": 0},
}


def chart_files(root: Path, dashboards: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the bytes of each generated file of the chart by its path below `root`.

    Args:
        root: The project's folder.
        dashboards: The files of the dashboards by name; the chart has the same.

    Raises:
        FilesError: The chart's hand-written files in `root` are missing or have lost their form.
    """
    thresholds = Thresholds(runbook_url=RUNBOOKS, dashboard_url=GRAFANA)
    slos = dump({"groups": slo_rules(thresholds).groups})
    routes = dump(alertmanager_config(thresholds)["spec"])
    return {
        f"{FILES}/alerts.yaml": commented(HEAD, _alerts(thresholds), BY),
        f"{FILES}/slos.yaml": commented(HEAD, slos, BY),
        f"{FILES}/{AlertmanagerFormat.ALERTMANAGER_CONFIG}.yaml": commented(HEAD, routes, BY),
        **{f"{FILES}/dashboards/{name}": text for name, text in dashboards.items() if name.endswith(".json")},
        SCHEMA: _schema(root),
    }


def chart_sections(root: Path) -> dict[str, dict[str, str]]:
    """Return the generated sections of the chart's documents: file -> name of the section -> its text."""
    return {README: {"values": values_table(_text(root, VALUES))}}


def _alerts(thresholds: Thresholds) -> str:
    """Write the alerts with an action of Helm in the place of each threshold."""
    actions: list[str] = []

    def place(action: str) -> str:
        actions.append(action)
        return f"{_MARK}{len(actions) - 1}{_MARK}"

    groups = alert_groups(thresholds, lambda alert, each, value: _actions(alert, each, value, place))
    text = escaped_for_helm(dump({"groups": groups}))
    for number, action in enumerate(actions):
        text = text.replace(f"{_MARK}{number}{_MARK}", action)
    return text


def _actions(alert: Alert, each: Threshold, value: float, place: Callable[[str], str]) -> tuple[str, str]:
    """Return the places of a threshold in expressions and in texts."""
    seconds = each.measure in (Measure.DURATION, Measure.SECONDS)
    default = f'"{format_duration(value)}"' if seconds else in_expression(each, value)
    call = f'(list $ "{alert.name}" "{each.name}" {default})'
    plain, number, percent = (
        f'{{{{ include "vllm-sidecar.{name}" {call} }}}}' for name in ("threshold", "seconds", "percent")
    )
    if each.measure is Measure.SECONDS:
        return place(number), place(plain)
    return place(plain), place(percent if each.measure is Measure.RATIO else plain)


def _schema(root: Path) -> bytes:
    """Return the chart's schema with the settings of each alert put in: those of thresholds.yaml."""
    try:
        schema: dict[str, Any] = json.loads(_text(root, SCHEMA))
        schema["$defs"]["alerts"] = _alert_settings()
    except (ValueError, KeyError, TypeError):
        raise FilesError(f'{SCHEMA} must be JSON with an object "$defs": restore it from the repository') from None
    return f"{json.dumps(schema, indent=2)}\n".encode()


def _alert_settings() -> dict[str, Any]:
    return {
        "description": "Settings of single alerts, with the keys of thresholds.yaml.",
        "type": "object",
        "additionalProperties": False,
        "properties": {alert.name: _settings_of(alert) for alert in ALERTS},
    }


def _settings_of(alert: Alert) -> dict[str, Any]:
    hold = {"for": {"type": "string", "minLength": 2, "pattern": DURATION}} if alert.hold else {}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "enabled": {"type": "boolean"},
            "severity": {"enum": ["page", "ticket", "info"]},
            **hold,
            "labels": {"$ref": "#/$defs/texts"},
            "annotations": {"$ref": "#/$defs/texts"},
            **{each.name: {"description": each.help, **_SCHEMAS[each.measure]} for each in alert.thresholds},
        },
    }


def _text(root: Path, path: str) -> str:
    try:
        return (root / path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FilesError(f"{path} is missing: restore it from the repository") from None
