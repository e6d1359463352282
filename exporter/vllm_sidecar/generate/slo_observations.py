"""The rates of bad and of all observations of an objective per model, in the notation of the catalog.

A record of the same objective is written as a placeholder, because its matchers have the name of the pack, which is
the user's text: `with_records` inserts them last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.objectives import CountedFrom
from vllm_sidecar.generate.bucket_bounds import le_matcher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.catalog.objectives import Slo
    from vllm_sidecar.generate.slo_variants import ResolvedObjective

MODEL = "cluster, namespace, model_name"
"""Labels of a model, in all jobs that serve it."""
BY = "cluster, namespace, job, model_name"
"""Objectives belong to a model; observations of its replicas and engines are added up."""
PREFILL = "\1"
"""Placeholder of the record of the replicas that only prefill."""
LEAST_PREFILLS = 10
"""Requests in five minutes from which a replica without any inter-token latency counts as prefill-only."""
_DECODES = "rate(~inter_token_latency_seconds_count[5m])"
ONLY_PREFILL = (
    f"(sum by (<<M>>) (increase(~time_to_first_token_seconds_count[5m])) >= {LEAST_PREFILLS} "
    f"unless on (<<M>>) (sum by (<<M>>) ({_DECODES}) > 0)) "
    f"and on ({MODEL}) (sum by ({MODEL}) ({_DECODES}) > 0)"
)
"""Replicas that end every request with its first token while others of their model generate more.

With disaggregated prefill and decode both observe each request: a request would count twice, once as good even if it
failed after its prefill.
"""


def with_records(expr: str, records: Mapping[str, str]) -> str:
    """Replace the placeholders by the records, with their matchers."""
    for placeholder, record in records.items():
        expr = expr.replace(placeholder, record)
    return expr


def leaves_prefill_out(slo: Slo) -> bool:
    """Return whether an objective leaves out replicas that only prefill; these do not observe ITL."""
    return slo.histogram != "inter_token_latency_seconds"


def observed(settings: ResolvedObjective) -> tuple[str, str]:
    """Return the rates of bad and of all observations of a model.

    NaN is left out (it is not >= 0): in a sum it would make a month's budget NaN.
    """
    slo, threshold = settings.slo, settings.threshold
    if threshold is None:
        failed, ended = _ended()
        if settings.source is not CountedFrom.SIDECAR:
            return failed, ended
        # If no sidecar of a model counts, such as in a plain Prometheus, vLLM's own counters do.
        bad, every = _answered(slo)
        return f"({bad}) or ({failed})", f"({every}) or ({ended})"
    if settings.source is CountedFrom.SIDECAR:
        return _counted(slo, threshold)
    # Replicas without the bucket bound are in neither: otherwise all their observations would count as bad.
    count = f"rate(~{slo.histogram}_count[5m])"
    good = f"sum without (le) (rate(~{slo.histogram}_bucket{{{le_matcher(threshold)}}}[5m]))"
    return _added(count, good, drafting(slo) + _without_prefill(slo))


def _counted(slo: Slo, threshold: float) -> tuple[str, str]:
    """Return the rates of bad and all as sidecars count them, of those that count with this threshold."""
    # Over the range, because the gauge ends with a server that crashed, and the counters continue.
    counts_so = f"last_over_time(~slo_threshold_seconds{{{matcher(slo)}}}[5m]) == {threshold:.15g}"
    return _added(*_counters(slo), f" and on (<<M>>) {counts_so}{drafting(slo)}{_without_prefill(slo)}")


def _answered(slo: Slo) -> tuple[str, str]:
    """Return the rates of failed and of all requests as sidecars count them.

    A request ends at the server that prefills and again at the one that decodes: at the first only failures count,
    because nothing follows them.
    """
    every, good = _counters(slo)
    failed = f"clamp_min({every} - {good}, 0) >= 0"
    ended = f"({every} >= 0 and {good} >= 0) unless on (<<M>>) {PREFILL}"
    return f"sum by ({BY}) ({failed})", f"sum by ({BY}) ({ended} or ({failed}) and on (<<M>>) {PREFILL})"


def _ended() -> tuple[str, str]:
    """Return the rates of failed and all requests as they ended; both for models without any of the failures."""
    rejected = "rate(~requests_rejected_total[5m]) >= 0"
    errors = 'rate(~requests_finished_total{finished_reason="error"}[5m]) >= 0'
    finished = 'rate(~requests_finished_total{finished_reason!="abort"}[5m]) >= 0'
    once = f"({finished}) unless on (<<M>>) {PREFILL} or ({errors}) and on (<<M>>) {PREFILL}"
    ended = f"sum by ({BY}) ({once} or {rejected})"
    failed = f"sum by ({BY}) ({errors} or {rejected})"
    return f"{failed} or 0 * {ended}", ended


def _counters(slo: Slo) -> tuple[str, str]:
    every, good = (f"rate(~slo_{what}_total{{{matcher(slo)}}}[5m])" for what in ("requests", "good_requests"))
    return every, good


def _added(every: str, good: str, of: str) -> tuple[str, str]:
    return (
        f"sum by ({BY}) (clamp_min({every} - {good}, 0) >= 0{of})",
        f"sum by ({BY}) (({every} >= 0 and {good} >= 0){of})",
    )


def _without_prefill(slo: Slo) -> str:
    return f" unless on (<<M>>) {PREFILL}" if leaves_prefill_out(slo) else ""


def drafting(slo: Slo) -> str:
    """Return what restricts an objective to engines that speculate, or to those that do not."""
    return f" {slo.drafts.value} on (<<E>>) present_over_time(~spec_decode_drafts_total[5m])" if slo.drafts else ""


def matcher(slo: Slo) -> str:
    """Return the matcher of an objective's series."""
    return f'slo="{slo.name}"'
