"""The dashboards, as typed values; `generate.dashboards` writes them for Grafana with a user's thresholds."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.engine import ENGINE_DASHBOARD
from vllm_sidecar.catalog.dashboards.features import FEATURES_DASHBOARD
from vllm_sidecar.catalog.dashboards.gpu import GPU_DASHBOARD
from vllm_sidecar.catalog.dashboards.incident import INCIDENT
from vllm_sidecar.catalog.dashboards.kv_cache import KV_CACHE
from vllm_sidecar.catalog.dashboards.overview import OVERVIEW
from vllm_sidecar.catalog.dashboards.panel import Color, Dashboard, Panel, Query, Row, Style, Word
from vllm_sidecar.catalog.dashboards.sidecar import SIDECAR_DASHBOARD
from vllm_sidecar.catalog.dashboards.slo import SLO_DASHBOARD

DASHBOARDS: tuple[Dashboard, ...] = (
    OVERVIEW,
    INCIDENT,
    ENGINE_DASHBOARD,
    KV_CACHE,
    GPU_DASHBOARD,
    SLO_DASHBOARD,
    FEATURES_DASHBOARD,
    SIDECAR_DASHBOARD,
)

__all__ = ["DASHBOARDS", "Color", "Dashboard", "Panel", "Query", "Row", "Style", "Word"]
