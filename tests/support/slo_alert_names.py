"""Names of the alerts of the SLOs, each once."""

from __future__ import annotations

from vllm_sidecar.catalog.objectives import BOUND_MISSING, SLOS

SLO_ALERTS = (*dict.fromkeys(slo.alert for slo in SLOS), BOUND_MISSING)
