"""Tables: several queries merged into rows, columns named and ordered, cells colored and linked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.alerts.alert import LABEL_SETS
from vllm_sidecar.generate.dashboards.fields import limits, mappings, ref_id
from vllm_sidecar.generate.dashboards.variables import dashboard_link

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.catalog.dashboards import Panel, Query
    from vllm_sidecar.generate.dashboards.notation import Notation

_HEADS = {
    "model_name": "Model",
    "slo": "Objective of",
    "alertname": "Alert",
    "gpu": "GPU",
    "xid": "XID",
    "uuid": "UUID",
}
_WIDTHS = {"severity": 90, "alertname": 240, "engine": 70, "cluster": 90, "gpu": 60, "xid": 60, "version": 90}
"""Pixels of columns that are narrower or wider than an equal share."""
_IDENTITY = tuple(LABEL_SETS["T"].split(", "))


def head(label: str) -> str:
    """Return the heading of a label's column."""
    return _HEADS.get(label, label.replace("_", " ").capitalize())


def transformations(panel: Panel, notation: Notation) -> list[dict[str, Any]]:
    """Merge the queries by the labels that all have; name, order and hide columns; sort rows."""
    values = {_value(panel, index): notation.text(query.legend) for index, query in enumerate(panel.queries)}
    states = [name for index, name in enumerate(values) if panel.queries[index].states]
    order = [*states, *panel.labels, *(name for name in values if name not in states)]
    # If only one of several queries has rows, Grafana names its values like this.
    hidden = ["Time", *(["Value"] if len(values) > 1 else []), *(name for name, title in values.items() if not title)]
    hidden += [label for label in _IDENTITY if label not in panel.labels]
    names = {label: head(label) for label in panel.labels} | {name: title for name, title in values.items() if title}
    organize = {
        "excludeByName": dict.fromkeys(hidden, True),
        "indexByName": {name: index for index, name in enumerate(order)},
        "renameByName": names,
    }
    found: list[dict[str, Any]] = [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
    if panel.sort:
        found.append(
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": notation.text(panel.sort), "desc": True}]}}
        )
    return found


def _value(panel: Panel, index: int) -> str:
    """Return Grafana's name of the values of a query."""
    return f"Value #{ref_id(index)}" if len(panel.queries) > 1 else "Value"


def table_overrides(panel: Panel, notation: Notation) -> Iterator[dict[str, Any]]:
    """Return unit, color and links of each column."""
    # The panel's own text is shown without any rows, this one in a cell without a value.
    yield {"matcher": {"id": "byRegexp", "options": ".*"}, "properties": [{"id": "noValue", "value": "-"}]}
    for query in panel.queries:
        if query.legend:
            yield _by_name(notation.text(query.legend), list(_cells(panel, query, notation)))
    for label in panel.labels:
        if label in _WIDTHS:
            yield _by_name(head(label), [{"id": "custom.width", "value": _WIDTHS[label]}])
    for label in panel.links:
        link = _link(label, notation)
        if link:
            yield _by_name(head(label), [{"id": "links", "value": [link]}])


def _by_name(name: str, properties: list[dict[str, Any]]) -> dict[str, Any]:
    return {"matcher": {"id": "byName", "options": name}, "properties": properties}


def _cells(panel: Panel, query: Query, notation: Notation) -> Iterator[dict[str, Any]]:
    yield {"id": "unit", "value": (query.unit or panel.unit).grafana}
    if query.decimals is not None:
        yield {"id": "decimals", "value": query.decimals}
    if query.states:
        yield {"id": "mappings", "value": mappings(panel.words)}
        yield {"id": "custom.cellOptions", "value": {"type": "color-background", "mode": "basic"}}
    steps = limits(panel, notation, query.bad) if query.bad else []
    if steps:
        # Fine values have no color, so that red ones are easy to find.
        yield {
            "id": "thresholds",
            "value": {"mode": "absolute", "steps": [{"color": "text", "value": None}, *steps[1:]]},
        }
        yield {"id": "custom.cellOptions", "value": {"type": "color-text"}}


def _link(label: str, notation: Notation) -> dict[str, Any] | None:
    """Return the link of a label's cell; None if there is none."""
    if label == "alertname":
        runbooks = notation.thresholds.runbook_url
        # A folder of the repository is not an address that a browser can open.
        url = f"{runbooks}/${{__value.raw}}.md" if "://" in runbooks else ""
        return {"title": "Runbook", "url": url, "targetBlank": True} if url else None
    if label == "model_name":
        return {
            "title": "What is wrong with the model?",
            "url": dashboard_link("vllm-incident", model_name=head(label)),
        }
    return {"title": "What does its engine do?", "url": dashboard_link("vllm-engine", instance=head(label))}
