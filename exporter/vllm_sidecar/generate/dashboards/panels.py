"""One panel of the catalog -> Grafana's JSON: the parts that all kinds share, and the queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.dashboards.panel import Color, Style
from vllm_sidecar.catalog.types import Unit
from vllm_sidecar.generate.dashboards.fields import NEUTRAL, limits, mappings, ref_id
from vllm_sidecar.generate.dashboards.tables import table_overrides, transformations
from vllm_sidecar.generate.dashboards.variables import DATASOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.catalog.dashboards import Panel, Query
    from vllm_sidecar.generate.dashboards.notation import Notation

EMPTY = "No data: is the sidecar scraped, and does anything match the choice above?"
_INSTANT = (Style.NUMBERS, Style.TABLE, Style.BARS)
"""Panels that show current values: the cheapest query."""


def panel_json(panel: Panel, notation: Notation) -> dict[str, Any]:
    """Return a panel without its id and place."""
    head = {"type": panel.style.value, "title": notation.text(panel.title), "description": notation.text(panel.help)}
    if panel.style is Style.TEXT:
        return {**head, "options": {"mode": "markdown", "content": panel.text.strip()}}
    return {
        **head,
        "datasource": DATASOURCE,
        "targets": [_target(panel, index, notation) for index in range(len(panel.queries))],
        "fieldConfig": {"defaults": _defaults(panel, notation), "overrides": list(_overrides(panel, notation))},
        "options": _options(panel),
        **({"transformations": transformations(panel, notation)} if panel.style is Style.TABLE else {}),
    }


def _target(panel: Panel, index: int, notation: Notation) -> dict[str, Any]:
    query = panel.queries[index]
    instant = panel.style in _INSTANT
    kinds = {Style.TABLE: "table", Style.HEATMAP: "heatmap"}
    return {
        "refId": ref_id(index),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": notation.query(query),
        "legendFormat": "" if panel.style is Style.TABLE else query.legend,
        "format": kinds.get(panel.style, "time_series"),
        "instant": instant,
        "range": not instant,
    }


def _options(panel: Panel) -> dict[str, Any]:
    options = _OPTIONS[panel.style]
    if panel.style is Style.HEATMAP:
        return {**options, "yAxis": {**options["yAxis"], "unit": panel.unit.grafana}}
    return options


def _defaults(panel: Panel, notation: Notation) -> dict[str, Any]:
    steps = limits(panel, notation)
    return {
        # In a table only columns have units: a label such as 8192 would become 8.19 K.
        "unit": "string" if panel.style is Style.TABLE else panel.unit.grafana,
        **_given(min=panel.least, max=panel.most, decimals=panel.decimals),
        "noValue": panel.empty or EMPTY,
        "color": _color_mode(panel, bool(steps)),
        "thresholds": {"mode": "absolute", "steps": steps or [{"color": NEUTRAL, "value": None}]},
        "mappings": mappings(panel.words) if panel.style is Style.STATES else [],
        "custom": _custom(panel, bool(steps)),
    }


def _given(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _color_mode(panel: Panel, limited: bool) -> dict[str, Any]:
    if panel.style in (Style.NUMBERS, Style.BARS, Style.STATES, Style.TABLE):
        if limited or panel.style in (Style.STATES, Style.TABLE):
            return {"mode": "thresholds"}
        return {"mode": "fixed", "fixedColor": NEUTRAL if panel.style is Style.NUMBERS else Color.RUNNING.value}
    return {"mode": "palette-classic"}


def _custom(panel: Panel, limited: bool) -> dict[str, Any]:
    if panel.style is Style.LINES:
        return {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "dashed" if limited else "off"},
            # All zeros would get an axis up to 100, or to 10000 %.
            "axisSoftMax": _SOFT_MAX.get(panel.unit, 1.0),
        }
    if panel.style is Style.STATES:
        return {"fillOpacity": 80, "lineWidth": 0}
    if panel.style is Style.TABLE:
        return {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False, "minWidth": 60}
    return {}


def _overrides(panel: Panel, notation: Notation) -> Iterator[dict[str, Any]]:
    if panel.style is Style.TABLE:
        yield from table_overrides(panel, notation)
        return
    for index, query in enumerate(panel.queries):
        properties = list(_looks(query))
        if properties:
            yield {"matcher": {"id": "byFrameRefID", "options": ref_id(index)}, "properties": properties}
    for name, color in panel.named:
        fixed = {"id": "color", "value": {"mode": "fixed", "fixedColor": color.value}}
        yield {"matcher": {"id": "byName", "options": name}, "properties": [fixed]}


def _looks(query: Query) -> Iterator[dict[str, Any]]:
    if query.color:
        # Shades distinguish replicas and keep the meaning of the color.
        yield {"id": "color", "value": {"mode": "shades", "fixedColor": query.color.value}}
    if query.dashed:
        yield {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 6]}}


_SOFT_MAX = {Unit.SECONDS: 0.01, Unit.RATIO: 0.01}
"""Least height of an axis, by unit."""
_LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
_NO_LEGEND = {"displayMode": "hidden", "placement": "bottom", "showLegend": False, "calcs": []}
_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}

_OPTIONS: dict[Style, dict[str, Any]] = {
    Style.LINES: {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    Style.NUMBERS: {
        "colorMode": "background_solid",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": _LAST,
        "textMode": "value",
        "wideLayout": True,
    },
    Style.TABLE: {"cellHeight": "sm", "showHeader": True, "footer": {"show": False, "reducer": [], "fields": ""}},
    Style.STATES: {
        "alignValue": "left",
        "legend": _NO_LEGEND,
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    },
    Style.HEATMAP: {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Purples", "steps": 32, "exponent": 0.5, "reverse": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": False},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False},
    },
    Style.BARS: {
        "displayMode": "basic",
        "legend": _NO_LEGEND,
        "minVizHeight": 16,
        "minVizWidth": 8,
        "namePlacement": "left",
        "orientation": "horizontal",
        "reduceOptions": _LAST,
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    },
}  # fmt: skip
