"""Objectives of the catalog and a user's settings -> recording rules and burn alerts as plain values.

Each objective has two groups. The fast one, at the pace of all rules, records the rates of all and of bad observations
per model over five minutes, and from these the burn over the windows up to six hours. The slow one adds them up each
five minutes and has the longer windows and the budget: so no query ever reads more than some thousand samples per
model, where the buckets of a fleet over three days would be more than Prometheus loads at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.slos import BOARD, BUDGET_SECONDS, EDGE_MISSING, Source
from vllm_sidecar.catalog.types import RECORD_PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.generate.edges import le_matcher
from vllm_sidecar.generate.expressions import RANGE_SCRAPES, expression
from vllm_sidecar.generate.objectives import Burning, Resolved, Variant, burns_of, settle
from vllm_sidecar.generate.rules import EVALUATIONS
from vllm_sidecar.generate.templating import JINJA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vllm_sidecar.catalog.slos import Slo
    from vllm_sidecar.config.thresholds import Thresholds
    from vllm_sidecar.generate.edges import Edges
    from vllm_sidecar.generate.rules import Group, Rule

BY = "cluster, namespace, job, model_name"
"""Objectives are those of a model; what its replicas and engines saw is added up."""
BAD, ALL, OBJECTIVE = (
    f"{RECORD_PREFIX}slo_{what}" for what in ("bad_observations:rate5m", "observations:rate5m", "objective:ratio")
)
SLOW_BAD, SLOW_ALL = (f"{RECORD_PREFIX}slo_{what}:increase5m" for what in ("bad_observations", "observations"))
FAST_WINDOW = 21_600.0
"""Longest window that the fast group reads, in seconds."""
BASE = 300.0
SLOW_INTERVAL = 300.0
KEEP = 300.0
"""How long a page goes on when its burn is gone: a restart has no observations, and solves nothing."""
GUARD_HOLD = 900.0
_ROUNDING = 1.1
"""rate() extrapolates to the ends of its range, so a few observations may look like a few more."""


@dataclass(frozen=True, slots=True)
class SloRules:
    """The groups, and what the user should know about them."""

    groups: list[Group]
    notes: tuple[str, ...]


def slo_rules(thresholds: Thresholds, edges: Edges | None = None) -> SloRules:
    """Write the rules of all objectives; `edges` are those of live servers, None where no server was asked.

    Raises:
        ConfigError: A threshold is no bucket edge, or a factor can never be reached; with all such mistakes.
    """
    settled = settle(thresholds, edges)
    groups = [group for slo, variants in settled.objectives for group in _groups(slo, variants, thresholds)]
    every = [variant for _, variants in settled.objectives for variant in variants]
    if every:
        groups.append(_group("vllm-slo-guard", thresholds.evaluation_interval, _guards(every, thresholds)))
    return SloRules(groups, settled.notes)


def _groups(slo: Slo, variants: list[Variant], thresholds: Thresholds) -> Iterator[Group]:
    name = f"vllm-slo-{slo.name.replace('_', '-')}"
    windows = {window for burn in thresholds.slos.burn for window in (burn.long, burn.short)}
    fast = sorted(window for window in windows if window <= FAST_WINDOW)
    slow = sorted(window for window in windows if window > FAST_WINDOW)
    pace = thresholds.evaluation_interval
    yield _group(
        name,
        pace,
        [
            *_base(slo, variants, thresholds),
            *(rule for window in fast for rule in _burn(slo, window, (BAD, ALL), thresholds)),
            *_alerts(variants, thresholds, pace, ALL, fast),
        ],
    )
    slow_pace = max(pace, SLOW_INTERVAL * thresholds.time_scale)
    yield _group(
        f"{name}-slow",
        slow_pace,
        [
            *(
                _record(to, f"sum_over_time({of}{_of(slo)}[{format_duration(slow_pace)}]) * {pace:g}", slo)
                for to, of in ((SLOW_BAD, BAD), (SLOW_ALL, ALL))
            ),
            *(rule for window in slow for rule in _burn(slo, window, (SLOW_BAD, SLOW_ALL), thresholds)),
            _budget(slo, thresholds),
            *_alerts(variants, thresholds, slow_pace, SLOW_ALL, slow),
        ],
    )


def _group(name: str, interval: float, rules: Iterable[Rule]) -> Group:
    return {"name": name, "interval": format_duration(interval), "rules": list(rules)}


def _record(name: str, expr: str, slo: Slo) -> Rule:
    return {"record": name, "expr": expr, "labels": {"slo": slo.name}}


def _of(slo: Slo, matcher: str = "") -> str:
    return f'{{slo="{slo.name}"{"," if matcher else ""}{matcher}}}'


def _base(slo: Slo, variants: list[Variant], thresholds: Thresholds) -> Iterator[Rule]:
    """Write the rates and the objective; models of their own stand in the same rule, for a record is written by one."""
    rates = [
        [expression(text, {}, thresholds, variant.matcher) for text in _observations(variant.settings)]
        for variant in variants
    ]
    for name, parts in zip((BAD, ALL), zip(*rates, strict=True), strict=True):
        yield _record(name, " or ".join(parts), slo)
    objectives = [f"0 * {ALL}{_of(slo, variant.matcher)} + {variant.settings.objective:g}" for variant in variants]
    yield _record(OBJECTIVE, " or ".join(objectives), slo)


def _observations(settings: Resolved) -> tuple[str, str]:
    """Return the rates of bad and of all observations per model, in the notation of the catalog.

    NaN is left out (it is not >= 0): in a sum it would make a month's budget NaN.
    """
    slo, threshold = settings.slo, settings.threshold
    if settings.source is Source.SIDECAR:
        bad, every = _counted(settings)
        if threshold is not None:
            return bad, every
        failed, ended = _ended()  # where no sidecar of a model counts, such as beside a plain Prometheus
        return f"({bad}) or ({failed})", f"({every}) or ({ended})"
    if slo.histogram is None or threshold is None:
        return _ended()
    # Replicas without the edge are in neither: else all their observations would count as bad.
    count = f"rate(~{slo.histogram}_count[5m])"
    good = f"sum without (le) (rate(~{slo.histogram}_bucket{{{le_matcher(threshold)}}}[5m]))"
    return _added(count, good, _drafting(slo))


def _counted(settings: Resolved) -> tuple[str, str]:
    """Return the rates of bad and all as sidecars count them, of those that count with this threshold."""
    slo = settings.slo
    every, good = (f"rate(~slo_{what}_total{_of(slo)}[5m])" for what in ("requests", "good_requests"))
    if settings.threshold is None:
        return _added(every, good, "")
    # Over the range: the gauge ends with a server that crashed, the counters go on.
    counts_so = f"last_over_time(~slo_threshold_seconds{_of(slo)}[5m]) == {settings.threshold:g}"
    return _added(every, good, f" and on (<<M>>) {counts_so}{_drafting(slo)}")


def _ended() -> tuple[str, str]:
    """Return the rates of failed and all requests as they ended; both for models without any of the failures."""
    rejected = "rate(~requests_rejected_total[5m]) >= 0"
    ended = f'sum by ({BY}) (rate(~requests_finished_total{{finished_reason!="abort"}}[5m]) >= 0 or {rejected})'
    failed = f'sum by ({BY}) (rate(~requests_finished_total{{finished_reason="error"}}[5m]) >= 0 or {rejected})'
    return f"{failed} or 0 * {ended}", ended


def _added(every: str, good: str, of: str) -> tuple[str, str]:
    return (
        f"sum by ({BY}) (clamp_min({every} - {good}, 0) >= 0{of})",
        f"sum by ({BY}) (({every} >= 0 and {good} >= 0){of})",
    )


def _drafting(slo: Slo) -> str:
    return f" {slo.drafts.value} on (<<E>>) present_over_time(~spec_decode_drafts_total[5m])" if slo.drafts else ""


def _window(seconds: float, thresholds: Thresholds) -> str:
    """Write a window, scaled, and not too short for what it reads."""
    least = RANGE_SCRAPES * max(thresholds.scrape_interval, thresholds.evaluation_interval)
    return format_duration(max(seconds * thresholds.time_scale, least))


def _burn(slo: Slo, window: float, of: tuple[str, str], thresholds: Thresholds) -> Iterator[Rule]:
    """Write the share of bad observations over a window, and how much faster than allowed that is."""
    name = format_duration(window)
    errors = f"{RECORD_PREFIX}slo_errors:ratio_rate{name}"
    yield _record(errors, _ratio(slo, window, of, thresholds), slo)
    yield _record(f"{RECORD_PREFIX}slo_burn:ratio_rate{name}", f"{errors}{_of(slo)} / (1 - {OBJECTIVE}{_of(slo)})", slo)


def _ratio(slo: Slo, window: float, of: tuple[str, str], thresholds: Thresholds) -> str:
    bad, every = (f"{each}{_of(slo)}" for each in of)
    if window <= BASE:
        return f"{bad} / ({every} > 0)"
    over = _window(window, thresholds)
    return f"sum_over_time({bad}[{over}]) / (sum_over_time({every}[{over}]) > 0)"


def _budget(slo: Slo, thresholds: Thresholds) -> Rule:
    errors = _ratio(slo, BUDGET_SECONDS, (SLOW_BAD, SLOW_ALL), thresholds)
    return _record(f"{RECORD_PREFIX}slo_budget_remaining:ratio30d", f"1 - {errors} / (1 - {OBJECTIVE}{_of(slo)})", slo)


def _alerts(
    variants: list[Variant], thresholds: Thresholds, pace: float, observations: str, windows: list[float]
) -> Iterator[Rule]:
    """Write the alerts whose long window is one of these."""
    for variant in variants:
        for burn in burns_of(variant.settings, thresholds):
            if burn.long in windows:
                yield _alert(variant, burn, thresholds, pace, observations)


def _alert(variant: Variant, burn: Burning, thresholds: Thresholds, pace: float, observations: str) -> Rule:
    settings, slo = variant.settings, variant.settings.slo
    who = _of(slo, variant.matcher)
    over = _window(burn.long, thresholds)
    # Seconds that one sample of the recorded rates stands for; the slow ones are counts already.
    each = f" * {pace:g}" if observations == ALL else ""
    exceeded = " and ".join(
        f"{RECORD_PREFIX}slo_burn:ratio_rate{format_duration(window)}{who} > {burn.factor:g}"
        for window in (burn.long, burn.short)
    )
    hold = max(EVALUATIONS * pace, burn.hold * thresholds.time_scale)
    keep = {"keep_firing_for": format_duration(KEEP * thresholds.time_scale)} if burn.severity == "page" else {}
    return {
        "alert": slo.alert,
        "expr": f"{exceeded} and sum_over_time({observations}{who}[{over}]){each} >= {_least(settings, burn)}",
        "for": format_duration(hold),
        **keep,
        "labels": {
            "severity": burn.severity,
            "slo": slo.name,
            "long_window": format_duration(burn.long),
            "short_window": format_duration(burn.short),
            **variant.labels,
            **settings.labels,
        },
        "annotations": _texts(settings, burn, thresholds),
    }


def _least(settings: Resolved, burn: Burning) -> int:
    """Return the observations below which nothing fires: also as many as one bad one alone needs not to be enough."""
    return max(settings.least, ceil(_ROUNDING / (burn.factor * settings.budget)))


def _texts(settings: Resolved, burn: Burning, thresholds: Thresholds) -> dict[str, str]:
    slo = settings.slo
    long, short = format_duration(burn.long), format_duration(burn.short)
    used = burn.factor * burn.long / BUDGET_SECONDS
    return {
        "summary": f"{{{{ $labels.model_name }}}} uses its error budget for {_named(slo)} {{{{ $value | humanize }}}} "
        "times too fast",
        "description": f"Objective over 30 days: {_objective(settings)}. Over {long} and over {short} the budget for "
        f"the rest was used more than {burn.factor:g} times too fast; at that pace {used:.0%} of it goes in {long}. "
        f"Likely: {slo.cause}. First: {slo.first}",
        "runbook_url": f"{thresholds.runbook_url}/{slo.alert}.md",
        "dashboard_url": f"{thresholds.dashboard_url}/d/{BOARD}?var-model_name={{{{ $labels.model_name | urlquery }}}}"
        f"&from=now-{format_duration(3 * burn.long)}",
        **settings.annotations,
    }


def _named(slo: Slo) -> str:
    return slo.name.replace("_", " ")


def _objective(settings: Resolved) -> str:
    threshold = format_duration(settings.threshold) if settings.threshold is not None else ""
    what = JINJA.from_string(settings.slo.what).render(threshold=threshold)
    return f"{100 * settings.objective:.6g}% of {what}"


def _guards(variants: list[Variant], thresholds: Thresholds) -> Iterator[Rule]:
    for variant in variants:
        settings, slo = variant.settings, variant.settings.slo
        labels = {"severity": "ticket", "slo": slo.name, **variant.labels, **settings.labels}
        yield {
            "alert": EDGE_MISSING,
            "expr": expression(_untold(settings), {}, thresholds, variant.matcher),
            "for": format_duration(
                max(EVALUATIONS * thresholds.evaluation_interval, GUARD_HOLD * thresholds.time_scale)
            ),
            "labels": labels,
            "annotations": {
                "summary": f"{{{{ $labels.model_name }}}} on {{{{ $labels.instance }}}} is not in its objective for "
                f"{_named(slo)}",
                "description": f"Nothing says whether {_objective(settings)}: {_why(settings)}. It is left out of the "
                "error budget until then.",
                "runbook_url": f"{thresholds.runbook_url}/{EDGE_MISSING}.md",
                "dashboard_url": f"{thresholds.dashboard_url}/d/{BOARD}"
                "?var-model_name={{ $labels.model_name | urlquery }}&from=now-3h",
                **settings.annotations,
            },
        }


def _untold(settings: Resolved) -> str:
    """Return the engines, or models, that do not tell what of an objective is good."""
    slo, threshold = settings.slo, settings.threshold
    if settings.source is Source.HISTOGRAM and slo.histogram and threshold is not None:
        return f"(~{slo.histogram}_count unless ignoring (le) ~{slo.histogram}_bucket{{{le_matcher(threshold)}}})" + (
            _drafting(slo)
        )
    serving = "count without (engine) (~requests_running)"
    if threshold is not None:
        return f"{serving} unless on (<<M>>) (~slo_threshold_seconds{_of(slo)} == {threshold:g})"
    silent = f"{serving} unless on (<<M>>) ~requests_finished_total"
    if settings.source is Source.HISTOGRAM:
        return silent
    counts = f"~slo_requests_total{_of(slo)}"
    # Where the sidecar of one replica counts, those of the others must too.
    return f"({serving} unless on (<<M>>) {counts}) and on ({BY}) {counts} or ({silent} unless on (<<M>>) {counts})"


def _why(settings: Resolved) -> str:
    if settings.source is Source.SIDECAR:
        return "its sidecar does not count that, so make slos in the sidecar's configuration say the same"
    if settings.slo.histogram:
        return (
            "its histogram has no bucket edge there; vLLM's --custom-histogram-buckets gives it one, or source: sidecar"
        )
    return "it does not tell how requests end"
