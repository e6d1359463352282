"""Names of what the rules of objectives record, and the pieces that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import RECORD_PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.generate.expressions import (
    RANGE_SCRAPES,
    joined,
    quoted,
)
from vllm_sidecar.generate.rules import pack_labels
from vllm_sidecar.generate.slo_observations import (
    matcher,
)

if TYPE_CHECKING:
    from vllm_sidecar.catalog.objectives import Slo
    from vllm_sidecar.generate.rules import Rule
    from vllm_sidecar.generate.settings.thresholds import Thresholds

BAD, ALL = (f"{RECORD_PREFIX}slo_{what}:rate5m" for what in ("bad_observations", "observations"))
OBJECTIVE, THRESHOLD = f"{RECORD_PREFIX}slo_objective:ratio", f"{RECORD_PREFIX}slo_threshold:seconds"
"""The objective of a model: rules read it here, so that they are the same for all models."""
ONLY_PREFILLS = f"{RECORD_PREFIX}slo_only_prefill:rate5m"
"""Replicas that only prefill, with their requests."""
BURN = f"{RECORD_PREFIX}slo_burn:ratio_rate"
SLOW_BAD, SLOW_ALL = (f"{RECORD_PREFIX}slo_{what}:increase5m" for what in ("bad_observations", "observations"))
BASE = 300.0


def recording(name: str, expr: str, slo: Slo, thresholds: Thresholds) -> Rule:
    """Make the rule that records an expression for an objective."""
    return {"record": name, "expr": expr, "labels": {"slo": slo.name, **pack_labels(thresholds)}}


def record_of(record: str, slo: Slo, thresholds: Thresholds, models: str = "") -> str:
    """Read a record of an objective, as recorded by this pack: another pack has other selectors and objectives."""
    return f"{record}{{{joined(matcher(slo), f'pack={quoted(thresholds.pack_name)}', models)}}}"


def window_of(seconds: float, thresholds: Thresholds) -> str:
    """Write a window, scaled, and not too short for what it reads."""
    least = RANGE_SCRAPES * max(thresholds.scrape_interval, thresholds.evaluation_interval)
    return format_duration(max(seconds * thresholds.time_scale, least))


def budget_of(slo: Slo, thresholds: Thresholds) -> str:
    """Return the share of observations that may be bad, as an expression."""
    return f"(1 - {record_of(OBJECTIVE, slo, thresholds)})"
