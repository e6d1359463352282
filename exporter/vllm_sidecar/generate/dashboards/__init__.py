"""Dashboards of the catalog -> files for Grafana."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.dashboards import BOARDS
from vllm_sidecar.generate.dashboards.dashboard import dashboard
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
    """Return the bytes of each file by its path: a JSON for each board, and all of them as ConfigMaps.

    Raises:
        ConfigError: The thresholds have mistakes.
    """
    notation = Notation(thresholds)
    boards = {board.uid: notation.finished(dashboard(board, notation)) for board in BOARDS}
    maps = "---\n".join(dump(_config_map(uid, board)) for uid, board in boards.items())
    files = {f"{uid}.json": _board_file(board) for uid, board in boards.items()}
    return {**files, CONFIG_MAPS: commented(HEAD, maps, BY)}


def _board_file(board: dict[str, Any]) -> bytes:
    """Return the JSON of a board; Grafana does not look at the last key, which tells whether the file was edited."""
    return sealed(json.dumps({**board, "generated": BY.mark()}, indent=1, ensure_ascii=False).encode() + b"\n")


def _config_map(uid: str, board: dict[str, Any]) -> dict[str, Any]:
    """Return a ConfigMap as the sidecar of Grafana's Helm chart looks for."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{uid}-dashboard",
            "labels": {"app.kubernetes.io/name": "vllm-sidecar", "grafana_dashboard": "1"},
            "annotations": {"grafana_folder": FOLDER},
        },
        "data": {f"{uid}.json": json.dumps(board, separators=(",", ":"), ensure_ascii=False)},
    }
