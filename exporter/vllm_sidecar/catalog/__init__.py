"""All signals that the sidecar exports, each defined once; the exporter, docs, rules and dashboards read them here."""

from __future__ import annotations

import re

from vllm_sidecar.catalog.canary import CANARY
from vllm_sidecar.catalog.derived import DERIVED
from vllm_sidecar.catalog.discovery import DISCOVERY
from vllm_sidecar.catalog.gpu_fields import GPU_FIELDS, GPU_STATE
from vllm_sidecar.catalog.otlp import OTLP
from vllm_sidecar.catalog.server import SERVER
from vllm_sidecar.catalog.sidecar import OWN
from vllm_sidecar.catalog.slo_signals import SLO
from vllm_sidecar.catalog.types import Signal
from vllm_sidecar.catalog.upstream import HTTP_REQUESTS, OPEN_FDS, TRANSFERS, UPSTREAM

SIGNALS: dict[str, Signal] = {}
for _signal in (
    *(entry.signal for entry in (*UPSTREAM, TRANSFERS, HTTP_REQUESTS, OPEN_FDS)),
    *(entry.signal for entry in DERIVED),
    *SERVER,
    *(entry.signal for entry in GPU_FIELDS),
    *GPU_STATE,
    *SLO,
    *CANARY,
    *OWN,
    *DISCOVERY,
    *OTLP,
):
    if _signal.name in SIGNALS:
        raise ValueError(f"signal {_signal.name} is listed twice in the catalog")
    SIGNALS[_signal.name] = _signal

_PARTS = re.compile(r"_(bucket|sum|count)$")


def signal_of(metric: str) -> Signal | None:
    """Return the signal of a metric, which is named without prefix, or of a part of a histogram or summary."""
    return SIGNALS.get(metric) or SIGNALS.get(_PARTS.sub("", metric))


__all__ = [
    "CANARY",
    "DERIVED",
    "DISCOVERY",
    "GPU_FIELDS",
    "GPU_STATE",
    "HTTP_REQUESTS",
    "OPEN_FDS",
    "OTLP",
    "OWN",
    "SERVER",
    "SIGNALS",
    "SLO",
    "TRANSFERS",
    "UPSTREAM",
    "Signal",
    "signal_of",
]
