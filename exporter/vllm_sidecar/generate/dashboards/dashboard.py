"""One dashboard of the catalog -> Grafana's classic JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_sidecar.generate.dashboards.grid import placed
from vllm_sidecar.generate.dashboards.panels import panel_json
from vllm_sidecar.generate.dashboards.variables import TAG, links, marks, variables

if TYPE_CHECKING:
    from vllm_sidecar.catalog.dashboards import Dashboard, Row
    from vllm_sidecar.generate.dashboards.notation import Notation

SCHEMA = 39
"""Of Grafana 11; newer ones migrate it when they load it."""


def dashboard_json(dashboard: Dashboard, notation: Notation) -> dict[str, Any]:
    """Return a dashboard as Grafana reads it, without anything that a server added."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.help,
        "tags": [TAG],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": f"now-{dashboard.since}", "to": "now"},
        "refresh": "30s",
        "timezone": "",
        "templating": {"list": variables()},
        "annotations": {"list": [{**each, "expr": notation.promql(each["expr"])} for each in marks()]},
        "links": links(),
        "panels": _panels(dashboard.rows, notation),
    }


def _panels(rows: tuple[Row, ...], notation: Notation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    top = number = 0
    for row in rows:
        number += 1
        head = {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": row.collapsed,
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": top},
            "panels": [],
        }
        places, bottom = placed(row.panels, top + 1)
        inside = []
        for panel, place in zip(row.panels, places, strict=True):
            number += 1
            inside.append({"id": number, "gridPos": place, **panel_json(panel, notation)})
        # Panels in a collapsed row take no room below it.
        top = top + 1 if row.collapsed else bottom
        found += [{**head, "panels": inside}] if row.collapsed else [head, *inside]
    return found
