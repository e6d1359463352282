"""Variables, links and annotations: the same on every dashboard, so that a link keeps the selection."""

from __future__ import annotations

from typing import Any

WHERE = ("cluster", "namespace", "job")
MODEL = "model_name"
ENGINE = "engine"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "vllm-sidecar"

_ANYTHING = ".*"
_UP = "vllm_sidecar_up"
_SERVING = "vllm_sidecar_requests_running"
_ANY = "vllm_sidecar_(up|model_up|requests_running)"
"""Every sidecar exports the first; the second has all models of a server, also while it is down; the last exists also
without a sidecar."""


def variables() -> list[dict[str, Any]]:
    """Return the variables in the order in which one narrows the next."""
    chosen: list[str] = []
    found: list[dict[str, Any]] = [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "current": {},
            "options": [],
            "refresh": 1,
            "regex": "",
            "hide": 0,
        }
    ]
    for name in WHERE:
        # A label that no series has matches like an empty one.
        found.append(_query(name, f"{_UP}{_chosen(chosen)}", _ANYTHING))
        chosen.append(name)
    found.append(_query(MODEL, f"{_SERVING}{_chosen(chosen)}", _ANYTHING))
    # Not a wildcard: GPUs and sidecars have no model, so "all" means the instances that serve the selection.
    found.append(_query("instance", f'{{__name__=~"{_ANY}",{_chosen([*chosen, MODEL])[1:]}', None))
    found.append(_query(ENGINE, f"{_SERVING}{_chosen([*chosen, MODEL, 'instance'])}", _ANYTHING))
    return found


def _chosen(names: list[str]) -> str:
    matchers = ",".join(f'{name}=~"${name}"' for name in names)
    return f"{{{matchers}}}"


def _query(name: str, series: str, everything: str | None) -> dict[str, Any]:
    query = f"label_values({series}, {name})"
    return {
        "name": name,
        "label": name.replace("_name", "").capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "multi": True,
        "includeAll": True,
        **({"allValue": everything} if everything else {}),
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "hide": 0,
    }


def links() -> list[dict[str, Any]]:
    """Return the links to the other dashboards, which keep variables and time range."""
    return [
        {
            "title": "Other dashboards",
            "type": "dashboards",
            "tags": [TAG],
            "asDropdown": False,
            "includeVars": True,
            "keepTime": True,
            "targetBlank": False,
            "icon": "external link",
            "tooltip": "",
            "url": "",
        }
    ]


def dashboard_link(uid: str, **chosen: str) -> str:
    """Return the address of a dashboard, with the rest of the selection and the time range."""
    kept = [f"${{{name}:queryparam}}" for name in ("datasource", *WHERE)]
    own = [f"var-{name}=${{__data.fields.{field}}}" for name, field in chosen.items()]
    return f"/d/{uid}?{'&'.join([*kept, *own])}&${{__url_time_range}}"


_CHANGES = (
    ("Restarts", "changes(~server_restarts_total[2m]) > 0", "orange", "Restart", "{{instance}} {{target}}"),
    ("Changes", "changes(~config_changes_total[2m]) > 0", "purple", "New version or flags", "{{instance}} {{target}}"),
    (
        "Pages",
        'max by (alertname, model_name, instance) (<<firing>>{<<alerts>>,severity="page"})',
        "red",
        "{{alertname}}",
        "{{model_name}} {{instance}}",
    ),
)  # fmt: skip


def marks() -> list[dict[str, Any]]:
    """Return the annotations of every panel, in the notation of the catalog: restarts, changes, alerts that page."""
    return [
        {
            "name": name,
            "datasource": DATASOURCE,
            "enable": True,
            "expr": expr,
            "iconColor": color,
            "titleFormat": title,
            "textFormat": text,
            "step": "60s",
        }
        for name, expr, color, title, text in _CHANGES
    ]
