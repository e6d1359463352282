"""Dashboards of the catalog -> files for Grafana."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.dashboards import DASHBOARDS
from vllm_sidecar.generate.dashboards.dashboard import dashboard_json
from vllm_sidecar.generate.dashboards.notation import Notation
from vllm_sidecar.generate.formats import HEAD, commented, dump
from vllm_sidecar.generate.output_files import Origin, sealed

if TYPE_CHECKING:
    from typing import Any

    from vllm_sidecar.generate.settings.thresholds import Thresholds

BY = Origin("dashboards")
CONFIG_MAPS = "kubernetes/vllm-dashboards.yaml"
FOLDER = "vLLM"


def dashboard_files(thresholds: Thresholds) -> dict[str, bytes]:
    """Return the bytes of each file by its path: a JSON for each dashboard, and all of them as ConfigMaps.

    Raises:
        ConfigError: The thresholds have mistakes.
    """
    notation = Notation(thresholds)
    found = {each.uid: notation.finished(dashboard_json(each, notation)) for each in DASHBOARDS}
    maps = "---\n".join(dump(_config_map(uid, dashboard)) for uid, dashboard in found.items())
    files = {f"{uid}.json": _dashboard_file(dashboard) for uid, dashboard in found.items()}
    return {**files, CONFIG_MAPS: commented(HEAD, maps, BY)}


def _dashboard_file(dashboard: dict[str, Any]) -> bytes:
    """Return the JSON of a dashboard; its last key, which Grafana ignores, shows whether the file was edited."""
    return sealed(json.dumps({**dashboard, "generated": BY.mark()}, indent=1, ensure_ascii=False).encode() + b"\n")


def _config_map(uid: str, dashboard: dict[str, Any]) -> dict[str, Any]:
    """Return a ConfigMap as the sidecar of Grafana's Helm chart looks for."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{uid}-dashboard",
            "labels": {"app.kubernetes.io/name": "vllm-sidecar", "grafana_dashboard": "1"},
            "annotations": {"grafana_folder": FOLDER},
        },
        "data": {f"{uid}.json": json.dumps(dashboard, separators=(",", ":"), ensure_ascii=False)},
    }
