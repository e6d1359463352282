"""The dashboards, as typed values; `generate.dashboards` writes them for Grafana with a user's thresholds."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.engine import ENGINE_BOARD
from vllm_sidecar.catalog.dashboards.features import FEATURES_BOARD
from vllm_sidecar.catalog.dashboards.gpu import GPU_BOARD
from vllm_sidecar.catalog.dashboards.incident import INCIDENT
from vllm_sidecar.catalog.dashboards.kv_cache import KV_CACHE
from vllm_sidecar.catalog.dashboards.overview import OVERVIEW
from vllm_sidecar.catalog.dashboards.panel import Board, Colour, Panel, Query, Row, Style, Word
from vllm_sidecar.catalog.dashboards.sidecar import SIDECAR_BOARD
from vllm_sidecar.catalog.dashboards.slo import SLO_BOARD

BOARDS: tuple[Board, ...] = (
    OVERVIEW,
    INCIDENT,
    ENGINE_BOARD,
    KV_CACHE,
    GPU_BOARD,
    SLO_BOARD,
    FEATURES_BOARD,
    SIDECAR_BOARD,
)

__all__ = ["BOARDS", "Board", "Colour", "Panel", "Query", "Row", "Style", "Word"]
