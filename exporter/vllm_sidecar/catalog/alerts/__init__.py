"""The alerts, as typed values; `generate.rules` writes them as Prometheus rules with a user's thresholds.

They read signals that the sidecar computes from the values of each poll, also between two scrapes, so the expressions
stay short. No alert fires on GPU memory, GPU utilization, KV usage alone or an absolute prefix-hit ratio: each of these
can be high, or low, on a healthy server.
"""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import Alert, AlertGroup, Measure, Profile, Record, Severity, Threshold
from vllm_sidecar.catalog.alerts.baselines import BASELINE_RECORDS, BASELINES, STARTS
from vllm_sidecar.catalog.alerts.cache import CACHE
from vllm_sidecar.catalog.alerts.canary import CANARY_PAGES, CANARY_TICKETS
from vllm_sidecar.catalog.alerts.features import FEATURES
from vllm_sidecar.catalog.alerts.gpu import GPU_ALERTS, GPU_HISTORY
from vllm_sidecar.catalog.alerts.models import MODEL_RECORDS, MODELS
from vllm_sidecar.catalog.alerts.monitoring import MONITORING
from vllm_sidecar.catalog.alerts.replicas import QUEUE, REPLICAS

GROUPS: tuple[AlertGroup, ...] = (
    AlertGroup("vllm-models", MODELS, MODEL_RECORDS),
    AlertGroup("vllm-canary", (*CANARY_PAGES, *CANARY_TICKETS)),
    AlertGroup("vllm-replicas", REPLICAS),
    AlertGroup("vllm-queue", QUEUE),
    AlertGroup("vllm-cache", CACHE),
    AlertGroup("vllm-features", FEATURES),
    AlertGroup("vllm-gpu", GPU_ALERTS),
    AlertGroup("vllm-gpu-history", GPU_HISTORY, slow=True),
    AlertGroup("vllm-baselines", (*BASELINES, *STARTS), BASELINE_RECORDS, slow=True),
    AlertGroup("vllm-monitoring", MONITORING),
)
"""Groups of rules, each evaluated in order; groups run concurrently, so none relies on what another records now."""

ALERTS: tuple[Alert, ...] = tuple(alert for group in GROUPS for alert in group.alerts)
RECORDS: dict[str, Record] = {record.name: record for group in GROUPS for record in group.records}

_STANDARDS = {(alert.name, each.name): each.standard for alert in ALERTS for each in alert.thresholds}


def standard(alert: str, threshold: str) -> float:
    """Return the default of a threshold in the profile `standard`: seconds, a ratio or a number."""
    return _STANDARDS[alert, threshold]


__all__ = [
    "ALERTS",
    "GROUPS",
    "RECORDS",
    "Alert",
    "AlertGroup",
    "Measure",
    "Profile",
    "Record",
    "Severity",
    "Threshold",
    "standard",
]
