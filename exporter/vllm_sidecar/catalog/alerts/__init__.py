"""The alerts, as typed values; `generate.rules` writes them as Prometheus rules with a user's thresholds.

They read signals of the sidecar, which compare values of one poll and see what happens between two scrapes; so the
expressions stay short. None is about GPU memory, GPU utilisation, KV usage alone or an absolute prefix-hit ratio: each
of these is high, or low, on a healthy server.
"""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.cache import CACHE
from vllm_sidecar.catalog.alerts.change import CHANGE
from vllm_sidecar.catalog.alerts.features import FEATURES
from vllm_sidecar.catalog.alerts.gpu import GPU_ALERTS
from vllm_sidecar.catalog.alerts.latency import LATENCY
from vllm_sidecar.catalog.alerts.monitoring import MONITORING
from vllm_sidecar.catalog.alerts.serving import SERVING
from vllm_sidecar.catalog.alerts.types import Alert, Measure, Profile, Severity, Threshold

GROUPS: dict[str, tuple[Alert, ...]] = {
    "vllm-serving": SERVING,
    "vllm-latency": LATENCY,
    "vllm-cache": CACHE,
    "vllm-features": FEATURES,
    "vllm-gpu": GPU_ALERTS,
    "vllm-change": CHANGE,
    "vllm-monitoring": MONITORING,
}
"""The alerts by the group of rules that they are evaluated in."""

ALERTS: tuple[Alert, ...] = tuple(alert for group in GROUPS.values() for alert in group)

__all__ = ["ALERTS", "GROUPS", "Alert", "Measure", "Profile", "Severity", "Threshold"]
