"""Alerts of objectives: error budgets that burn too fast, and thresholds without a bucket bound at a replica."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.alerts.alert import SERVED
from vllm_sidecar.catalog.objectives import BOUND_MISSING, BUDGET_SECONDS, CAP, DASHBOARD, CountedFrom
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.generate import slo_outages
from vllm_sidecar.generate.bucket_bounds import le_matcher
from vllm_sidecar.generate.expressions import (
    LEAST_SECONDS,
    expression,
    in_cluster,
    joined,
)
from vllm_sidecar.generate.rules import EVALUATIONS, links, named, pack_labels
from vllm_sidecar.generate.settings.thresholds import KINDS
from vllm_sidecar.generate.slo_observations import (
    BY,
    drafting,
    matcher,
    with_records,
)
from vllm_sidecar.generate.slo_records import ALL, BURN, OBJECTIVE, THRESHOLD, budget_of, record_of, window_of
from vllm_sidecar.generate.slo_resolution import BurnWindow, burns_of
from vllm_sidecar.generate.slo_variants import ResolvedObjective, Variant, matcher_of, sharing
from vllm_sidecar.generate.templating import render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.catalog.objectives import Slo
    from vllm_sidecar.generate.rules import Rule
    from vllm_sidecar.generate.settings.thresholds import Thresholds
KEEP = 300.0
"""How long a page keeps firing after its burn ends: a restart has no observations, and solves nothing."""
GUARD_HOLD = 900.0
_LABELS = ("namespace", "model_name")
_DASHBOARD = f"{DASHBOARD}?var-model_name={{{{ $labels.model_name | urlquery }}}}"
_ROUNDING = 1.1
"""rate() extrapolates to the ends of its range, so a few observations may look like a few more."""


def burn_alerts(
    slo: Slo, variants: list[Variant], thresholds: Thresholds, interval: float, observations: str, windows: list[float]
) -> Iterator[Rule]:
    """Write the alerts whose long window is one of these: once for all models, whatever their objectives are.

    Copies are written only for settings that no record can contain: labels, annotations and least observations.
    """
    apart = sharing(variants, lambda settings: (settings.labels, settings.annotations, settings.least))
    for group in apart:
        models = matcher_of(group) if len(apart) > 1 else ""
        for number, burn in enumerate(thresholds.slos.burn):
            if burn.long in windows:
                yield _Alert(slo, group, number, thresholds).rule(interval, observations, models)


@dataclass(frozen=True, slots=True)
class _Alert:
    """One pair of windows of an objective, for models that share labels, annotations and the least of observations."""

    slo: Slo
    group: list[Variant]
    number: int
    thresholds: Thresholds

    @property
    def burns(self) -> list[BurnWindow]:
        """The burn of each variant: they differ only in the factor."""
        return [burns_of(variant.settings, self.thresholds)[self.number] for variant in self.group]

    def rule(self, interval: float, observations: str, models: str) -> Rule:
        """Write it. `interval` is that of its group, `observations` the record of them that it reads."""
        thresholds, slo, settings, burn = self.thresholds, self.slo, self.group[0].settings, self.burns[0]
        # Seconds that one sample of the recorded rates represents; the slow records are counts already.
        each = f" * {interval:g}" if observations == ALL else ""
        exceeded = " and ".join(
            f"{record_of(BURN + format_duration(window), slo, thresholds, models)} > {self._factor()}"
            for window in (burn.long, burn.short)
        )
        window = f"[{window_of(burn.long, thresholds)}]"
        seen = f"sum_over_time({record_of(observations, slo, thresholds, models)}{window}){each}"
        page = KINDS.get(burn.severity, burn.severity) == "page"
        keep = max(KEEP * thresholds.time_scale, LEAST_SECONDS)
        return {
            "alert": slo.alert,
            "expr": f"{exceeded} and {seen} >= {self._least()}",
            "for": format_duration(max(EVALUATIONS * interval, burn.hold * thresholds.time_scale)),
            **({"keep_firing_for": format_duration(keep)} if page else {}),
            "labels": {
                "severity": thresholds.severity(burn.severity),
                "slo": slo.name,
                "long_window": format_duration(burn.long),
                "short_window": format_duration(burn.short),
                **_settings(self.group),
                **pack_labels(thresholds),
                **settings.labels,
            },
            "annotations": self._texts(),
        }

    def _factor(self) -> str:
        """Write the burn that must be exceeded; it is below the largest that the objective of a model allows."""
        if len({burn.factor for burn in self.burns}) == 1:
            return f"{self.burns[0].factor:.15g}"
        return f"clamp_max({CAP} / {budget_of(self.slo, self.thresholds)}, {self._configured_factor:.15g})"

    @property
    def _configured_factor(self) -> float:
        return float(self.thresholds.slos.burn[self.number].factor)

    def _least(self) -> str:
        """Write the observations below which nothing fires: at least so many that a single bad one does not fire."""
        found = {
            max(variant.settings.least, ceil(_ROUNDING / (burn.factor * variant.settings.budget)))
            for variant, burn in zip(self.group, self.burns, strict=True)
        }
        if len(found) == 1:
            return str(found.pop())
        least = max(self.group[0].settings.least, ceil(_ROUNDING / CAP))
        scaled = f"{_ROUNDING / self._configured_factor:.15g} / {budget_of(self.slo, self.thresholds)}"
        return f"clamp_min(ceil({scaled}), {least})"

    def _texts(self) -> dict[str, str]:
        slo, thresholds, burn = self.slo, self.thresholds, self.burns[0]
        long, short = format_duration(burn.long), format_duration(burn.short)
        alike = len({each.factor for each in self.burns}) == 1
        factor = burn.factor if alike else self._configured_factor
        lower = "" if alike else ", or than an objective as low as this one allows"
        used = factor * burn.long / BUDGET_SECONDS
        return {
            "summary": f"{_model(thresholds)} uses its error budget for {_named(slo)} "
            "{{ $value | humanize }} times too fast",
            "description": f"{_model(thresholds)}{_answering(thresholds)}. Objective over 30 days: "
            f"{_objective(self.group, thresholds)}. Over {long} and over "
            f"{short} the budget for the rest was used more than {factor:g} times too fast{lower}; at that rate "
            f"{used:.0%} of it goes in {long}. Likely: {slo.cause}. First: {in_cluster(slo.first, thresholds)}",
            **links(slo.alert, f"{_DASHBOARD}&from=now-{format_duration(3 * burn.long)}", _LABELS, thresholds),
            **self.group[0].settings.annotations,
        }


def _model(thresholds: Thresholds) -> str:
    """Return a template that names the model of an alert, and its namespace and cluster if it has those labels."""
    return (
        "{{ $labels.model_name }}{{ with $labels.namespace }} in {{ . }}{{ end }}"
        f"{{{{ with $labels.{thresholds.cluster_label} }}}} ({{{{ . }}}}){{{{ end }}}}"
    )


def _answering(thresholds: Thresholds) -> str:
    """Return a template that says how many replicas of the model answer; empty if no series names the model."""
    labels = (thresholds.cluster_label, "namespace", "model_name")
    matchers = joined(*(f"{label}=%q" for label in labels))
    replicas = f"{PREFIX}model_up{{{matchers}}}"
    values = " ".join(f"$labels.{label}" for label in labels)

    def query(how: str) -> str:
        return f"with printf `{how}({replicas})` {values} | query"

    shown = "{{ . | first | value }}"
    return (
        f"{{{{ {query('sum')} }}}}: {shown}{{{{ end }}}}"
        f"{{{{ {query('count')} }}}} of {shown} replicas answer{{{{ end }}}}"
    )


def _settings(group: list[Variant]) -> dict[str, str]:
    """Return the label of rules that apply only to some models."""
    models = [model for variant in group for model in variant.models]
    return {"settings": named(models)} if all(variant.models for variant in group) else {}


def _named(slo: Slo) -> str:
    return slo.name.replace("_", " ")


def _objective(group: list[Variant], thresholds: Thresholds) -> str:
    """Describe the objective; if models differ, the template queries the numbers of the model from Prometheus."""
    slo = group[0].settings.slo
    shares = {variant.settings.objective for variant in group}
    seconds = {variant.settings.threshold for variant in group}
    share = (
        f"{100 * shares.pop():.6g}%" if len(shares) == 1 else _recorded(OBJECTIVE, slo, thresholds, "100 * ", _PERCENT)
    )
    threshold = seconds.pop() if len(seconds) == 1 else 0.0
    shown = format_duration(threshold) if threshold else _recorded(THRESHOLD, slo, thresholds, "", "humanizeDuration")
    return f"{share} of {render(slo.what, threshold=shown if slo.histogram else '')}"


_PERCENT = 'printf "%.6g%%"'


def _recorded(record: str, slo: Slo, thresholds: Thresholds, times: str, shown: str) -> str:
    """Return a template that shows the value recorded for the model of the alert."""
    query = f"{times}max({record_of(record, slo, thresholds, 'model_name=%q')})"
    return (
        f"{{{{ with printf `{query}` $labels.model_name | query }}}}{{{{ . | first | value | {shown} }}}}{{{{ end }}}}"
    )


def guard_alerts(variants: list[Variant], thresholds: Thresholds) -> Iterator[Rule]:
    """Write the tickets for replicas that no objective measures, once for models with the same labels and source."""
    for group in sharing(variants, lambda settings: (settings.labels, settings.annotations, settings.source)):
        settings, slo = group[0].settings, group[0].settings.slo
        unmeasured = [
            with_records(
                expression(_unmeasured(same[0].settings), {}, thresholds, matcher_of(same)),
                {slo_outages.ALL_OF_IT: record_of(ALL, slo, thresholds)},
            )
            for same in sharing(group, lambda settings: settings.threshold)
        ]
        hold = max(EVALUATIONS * thresholds.evaluation_interval, GUARD_HOLD * thresholds.time_scale)
        yield {
            "alert": BOUND_MISSING,
            "expr": " or ".join(f"({each})" for each in unmeasured) if len(unmeasured) > 1 else unmeasured[0],
            "for": format_duration(hold),
            "labels": {
                "severity": thresholds.severity("ticket"),
                "slo": slo.name,
                **_settings(group),
                **pack_labels(thresholds),
                **settings.labels,
            },
            "annotations": {
                "summary": f"{SERVED.replace('cluster', thresholds.cluster_label)} is not in its objective for "
                f"{_named(slo)}",
                "description": f"It is unknown whether {_objective(group, thresholds)}: {_missing_reason(settings)}. "
                "Its requests are left out of the error budget until then.",
                **links(BOUND_MISSING, f"{_DASHBOARD}&from=now-3h", (*_LABELS, "pod", "instance", "node"), thresholds),
                **settings.annotations,
            },
        }


def _unmeasured(settings: ResolvedObjective) -> str:
    """Return the engines, or models, whose good observations of an objective are not measured."""
    slo, threshold = settings.slo, settings.threshold
    if settings.source is CountedFrom.HISTOGRAM and slo.histogram and threshold is not None:
        return f"(~{slo.histogram}_count unless ignoring (le) ~{slo.histogram}_bucket{{{le_matcher(threshold)}}})" + (
            drafting(slo)
        )
    serving = "count without (engine) (~requests_running)"
    if threshold is not None:
        return f"{serving} unless on (<<M>>) (~slo_threshold_seconds{{{matcher(slo)}}} == {threshold:.15g})"
    if settings.source is CountedFrom.GATEWAY:
        return f"{serving} unless on (model_name) {slo_outages.ALL_OF_IT}"
    without_counters = f"{serving} unless on (<<M>>) ~requests_finished_total"
    if settings.source is CountedFrom.HISTOGRAM:
        return without_counters
    counts = f"~slo_requests_total{{{matcher(slo)}}}"
    # Where the sidecar of one replica counts, those of the others must too.
    uncounted = f"({serving} unless on (<<M>>) {counts}) and on ({BY}) {counts}"
    return f"{uncounted} or ({without_counters} unless on (<<M>>) {counts})"


def _missing_reason(settings: ResolvedObjective) -> str:
    if settings.source is CountedFrom.GATEWAY:
        return "the gateway counts no requests of this model; check services in slos.gateway of the thresholds"
    if settings.source is CountedFrom.SIDECAR:
        return "its sidecar does not count that; set the same objective under slos in the sidecar's configuration"
    if settings.slo.histogram:
        return (
            "its histogram has no bucket bound there; add one with vLLM's --custom-histogram-buckets, "
            "or set source: sidecar"
        )
    return "it does not export how requests end"
