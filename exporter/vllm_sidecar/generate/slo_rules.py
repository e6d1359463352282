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

from vllm_sidecar.catalog.alerts.alert import SERVED
from vllm_sidecar.catalog.objectives import BOUND_MISSING, BUDGET_SECONDS, CAP, DASHBOARD, CountedFrom
from vllm_sidecar.catalog.types import PREFIX, RECORD_PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.generate import slo_gateways, slo_outages
from vllm_sidecar.generate.bucket_bounds import le_matcher
from vllm_sidecar.generate.expressions import (
    LEAST_SECONDS,
    RANGE_SCRAPES,
    expression,
    in_cluster,
    joined,
    longest,
    outside,
    quoted,
)
from vllm_sidecar.generate.rules import EVALUATIONS, in_pack, links, named, pack_labels
from vllm_sidecar.generate.settings.thresholds import KINDS
from vllm_sidecar.generate.slo_observations import (
    BY,
    ONLY_PREFILL,
    PREFILL,
    drafting,
    leaves_prefill_out,
    matcher,
    observed,
    with_records,
)
from vllm_sidecar.generate.slo_resolution import Burning, burns_of, settle
from vllm_sidecar.generate.slo_variants import ResolvedObjective, Variant, matcher_of, sharing
from vllm_sidecar.generate.templating import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vllm_sidecar.catalog.objectives import Slo
    from vllm_sidecar.generate.bucket_bounds import BucketBounds
    from vllm_sidecar.generate.rules import Group, Rule
    from vllm_sidecar.generate.settings.thresholds import Thresholds

BAD, ALL = (f"{RECORD_PREFIX}slo_{what}:rate5m" for what in ("bad_observations", "observations"))
OBJECTIVE, THRESHOLD = f"{RECORD_PREFIX}slo_objective:ratio", f"{RECORD_PREFIX}slo_threshold:seconds"
"""What a model is held to: rules read it here, so that they are the same for all models."""
ONLY_PREFILLS = f"{RECORD_PREFIX}slo_only_prefill:rate5m"
"""Replicas that only prefill, with their requests."""
BURN = f"{RECORD_PREFIX}slo_burn:ratio_rate"
SLOW_BAD, SLOW_ALL = (f"{RECORD_PREFIX}slo_{what}:increase5m" for what in ("bad_observations", "observations"))
FAST_WINDOW = 21_600.0
"""Longest window that the fast group reads, in seconds."""
BASE = 300.0
SLOW_INTERVAL = 300.0
KEEP = 300.0
"""How long a page goes on when its burn is gone: a restart has no observations, and solves nothing."""
GUARD_HOLD = 900.0
_LABELS = ("namespace", "model_name")
_DASHBOARD = f"{DASHBOARD}?var-model_name={{{{ $labels.model_name | urlquery }}}}"
_ROUNDING = 1.1
"""rate() extrapolates to the ends of its range, so a few observations may look like a few more."""


@dataclass(frozen=True, slots=True)
class SloRules:
    """The groups, and what the user should know about them."""

    groups: list[Group]
    notes: tuple[str, ...]


def slo_rules(thresholds: Thresholds, bounds: BucketBounds | None = None) -> SloRules:
    """Write the rules of all objectives; `edges` are those of live servers, None where no server was asked.

    Raises:
        LateError: A threshold is no bucket edge, or a factor can never be reached; with all such mistakes.
    """
    settled = settle(thresholds, bounds)
    groups = [group for slo, variants in settled.objectives for group in _groups(slo, variants, thresholds)]
    guards = [rule for _, variants in settled.objectives for rule in _guards(variants, thresholds)]
    if guards:
        groups.append(_group("vllm-slo-guard", thresholds.evaluation_interval, guards, thresholds))
    return SloRules(groups, settled.notes)


def _groups(slo: Slo, variants: list[Variant], thresholds: Thresholds) -> Iterator[Group]:
    name = f"vllm-slo-{slo.name.replace('_', '-')}"
    windows = {window for burn in thresholds.slos.burn for window in (burn.long, burn.short)}
    fast = sorted(window for window in windows if window <= FAST_WINDOW)
    slow = sorted(window for window in windows if window > FAST_WINDOW)
    interval = thresholds.evaluation_interval
    yield _group(
        name,
        interval,
        [
            *_base(slo, variants, thresholds),
            *(rule for window in fast for rule in _burn(slo, window, (BAD, ALL), thresholds)),
            *_alerts(slo, variants, thresholds, interval, ALL, fast),
        ],
        thresholds,
    )
    slow_interval = max(interval, SLOW_INTERVAL * thresholds.time_scale)
    yield _group(
        f"{name}-slow",
        slow_interval,
        [
            *(_counts(to, of, slo, thresholds, slow_interval) for to, of in ((SLOW_BAD, BAD), (SLOW_ALL, ALL))),
            *(rule for window in slow for rule in _burn(slo, window, (SLOW_BAD, SLOW_ALL), thresholds)),
            _budget(slo, thresholds),
            *_alerts(slo, variants, thresholds, slow_interval, SLOW_ALL, slow),
        ],
        thresholds,
    )


def _counts(name: str, of: str, slo: Slo, thresholds: Thresholds, over: float) -> Rule:
    """Record what the fast group has counted, up to its last but one evaluation: groups run in any order."""
    interval = thresholds.evaluation_interval
    window = f"[{format_duration(over)}] offset {format_duration(interval)}"
    return _record(name, f"sum_over_time({_of(of, slo, thresholds)}{window}) * {interval:g}", slo, thresholds)


def _group(name: str, interval: float, rules: Iterable[Rule], thresholds: Thresholds) -> Group:
    return {"name": in_pack(name, thresholds), "interval": format_duration(interval), "rules": list(rules)}


def _record(name: str, expr: str, slo: Slo, thresholds: Thresholds) -> Rule:
    return {"record": name, "expr": expr, "labels": {"slo": slo.name, **pack_labels(thresholds)}}


def _of(record: str, slo: Slo, thresholds: Thresholds, models: str = "") -> str:
    """Read a record of an objective, as this pack has recorded it: another one has other selectors and objectives."""
    return f"{record}{{{joined(matcher(slo), f'pack={quoted(thresholds.pack_name)}', models)}}}"


def _base(slo: Slo, variants: list[Variant], thresholds: Thresholds) -> Iterator[Rule]:
    """Write the rates, and what holds for each model; models stand in the same rule, for a record is written by one."""
    at_servers = [variant for variant in variants if variant.settings.source is not CountedFrom.GATEWAY]
    if at_servers and leaves_prefill_out(slo):
        yield _record(ONLY_PREFILLS, expression(ONLY_PREFILL, {}, thresholds), slo, thresholds)
    bad, every = _rates(slo, variants, thresholds)
    if slo.histogram or not at_servers:
        yield _record(BAD, bad, slo, thresholds)
        yield _record(ALL, every, slo, thresholds)
    else:
        yield from _with_outages(slo, (bad, every), matcher_of(at_servers), thresholds)
    yield _held(OBJECTIVE, slo, variants, thresholds, lambda settings: settings.objective)
    if slo.histogram:
        yield _held(THRESHOLD, slo, variants, thresholds, lambda settings: settings.threshold or 0.0)


def _rates(slo: Slo, variants: list[Variant], thresholds: Thresholds) -> tuple[str, str]:
    """Return the rates of bad and of all observations, of all variants."""
    bad, every = [], []
    for group in sharing(variants, lambda settings: (settings.source, settings.threshold, settings.batch_hours)):
        settings, gateway = group[0].settings, thresholds.slos.gateway
        if settings.source is CountedFrom.GATEWAY and gateway is not None:
            rates = slo_gateways.observed(thresholds, gateway, group)
        else:
            rates = observed(settings)
            prefill = {PREFILL: _of(ONLY_PREFILLS, slo, thresholds)}
            written = [with_records(expression(text, {}, thresholds, matcher_of(group)), prefill) for text in rates]
            rates = outside(settings.batch_hours, written[0]), outside(settings.batch_hours, written[1])
        bad.append(rates[0])
        every.append(rates[1])
    return " or ".join(bad), " or ".join(every)


def _with_outages(slo: Slo, rates: tuple[str, str], models: str, thresholds: Thresholds) -> Iterator[Rule]:
    """Write the rates with what is missed in an outage, and the records that this needs; `models` is a matcher."""
    records = {
        slo_outages.IS_EVALUATED: _of(slo_outages.EVALUATED, slo, thresholds),
        slo_outages.IS_SERVING: _of(slo_outages.SERVING, slo, thresholds),
        slo_outages.WAS_SERVED: _of(slo_outages.SERVED, slo, thresholds, models),
        slo_outages.IS_STEADY: _of(slo_outages.STEADY, slo, thresholds),
        slo_outages.IS_COUNTED: _of(slo_outages.COUNTED, slo, thresholds, models),
    }

    def written(text: str) -> str:
        return with_records(expression(text, {}, thresholds, models), records)

    yield _record(slo_outages.EVALUATED, slo_outages.NOW, slo, thresholds)
    yield _record(slo_outages.SERVING, written(slo_outages.SERVES), slo, thresholds)
    yield _record(slo_outages.STEADY, written(slo_outages.IS_UP), slo, thresholds)
    yield _record(slo_outages.COUNTED, rates[1], slo, thresholds)
    missed, by = written(slo_outages.MISSED), in_cluster(BY, thresholds)
    for name, rate in ((BAD, f"({rates[0]})"), (ALL, _of(slo_outages.COUNTED, slo, thresholds))):
        yield _record(name, f"({missed}) or on ({by}) {rate}", slo, thresholds)
    yield _record(slo_outages.SERVED, written(slo_outages.SERVES_RATE), slo, thresholds)


def _held(
    name: str, slo: Slo, variants: list[Variant], thresholds: Thresholds, value: Callable[[ResolvedObjective], float]
) -> Rule:
    """Record a setting of every model that has observations, for the rules that are the same for all models."""
    parts = [
        f"0 * {_counted_last(slo, group, thresholds)} + {value(group[0].settings):.15g}"
        for group in sharing(variants, lambda settings: (value(settings), settings.batch_hours))
    ]
    return _record(name, " or ".join(parts), slo, thresholds)


def _counted_last(slo: Slo, group: list[Variant], thresholds: Thresholds) -> str:
    """Return the observations of models; where their batches are not counted, those before: a budget does not end."""
    counted, hours = _of(ALL, slo, thresholds, matcher_of(group)), group[0].settings.batch_hours
    return f"last_over_time({counted}[{format_duration(60.0 * (longest(hours) + 5))}])" if hours else counted


def _window(seconds: float, thresholds: Thresholds) -> str:
    """Write a window, scaled, and not too short for what it reads."""
    least = RANGE_SCRAPES * max(thresholds.scrape_interval, thresholds.evaluation_interval)
    return format_duration(max(seconds * thresholds.time_scale, least))


def _burn(slo: Slo, window: float, of: tuple[str, str], thresholds: Thresholds) -> Iterator[Rule]:
    """Write the share of bad observations over a window, and how much faster than allowed that is."""
    name = format_duration(window)
    errors = f"{RECORD_PREFIX}slo_errors:ratio_rate{name}"
    yield _record(errors, _ratio(slo, window, of, thresholds), slo, thresholds)
    burn = f"{_of(errors, slo, thresholds)} / {_budget_of(slo, thresholds)}"
    yield _record(f"{BURN}{name}", burn, slo, thresholds)


def _budget_of(slo: Slo, thresholds: Thresholds) -> str:
    """Return the share of observations that may be bad, as an expression."""
    return f"(1 - {_of(OBJECTIVE, slo, thresholds)})"


def _ratio(slo: Slo, window: float, of: tuple[str, str], thresholds: Thresholds) -> str:
    bad, every = (_of(each, slo, thresholds) for each in of)
    if window <= BASE:
        return f"{bad} / ({every} > 0)"
    over = _window(window, thresholds)
    return f"sum_over_time({bad}[{over}]) / (sum_over_time({every}[{over}]) > 0)"


def _budget(slo: Slo, thresholds: Thresholds) -> Rule:
    errors = _ratio(slo, BUDGET_SECONDS, (SLOW_BAD, SLOW_ALL), thresholds)
    left = f"1 - {errors} / {_budget_of(slo, thresholds)}"
    return _record(f"{RECORD_PREFIX}slo_budget_remaining:ratio30d", left, slo, thresholds)


def _alerts(
    slo: Slo, variants: list[Variant], thresholds: Thresholds, interval: float, observations: str, windows: list[float]
) -> Iterator[Rule]:
    """Write the alerts whose long window is one of these: once for all models, whatever their objectives are.

    Copies are written only for what no record can hold: labels, annotations and numbers of observations of a model.
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
    def burns(self) -> list[Burning]:
        """What it is for each of the variants: they differ in the factor, and in that alone."""
        return [burns_of(variant.settings, self.thresholds)[self.number] for variant in self.group]

    def rule(self, interval: float, observations: str, models: str) -> Rule:
        """Write it. `interval` is that of its group, `observations` the record of them that it reads."""
        thresholds, slo, settings, burn = self.thresholds, self.slo, self.group[0].settings, self.burns[0]
        # Seconds that one sample of the recorded rates stands for; the slow ones are counts already.
        each = f" * {interval:g}" if observations == ALL else ""
        exceeded = " and ".join(
            f"{_of(BURN + format_duration(window), slo, thresholds, models)} > {self._factor()}"
            for window in (burn.long, burn.short)
        )
        seen = f"sum_over_time({_of(observations, slo, thresholds, models)}[{_window(burn.long, thresholds)}]){each}"
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
        return f"clamp_max({CAP} / {_budget_of(self.slo, self.thresholds)}, {self._asked:.15g})"

    @property
    def _asked(self) -> float:
        return float(self.thresholds.slos.burn[self.number].factor)

    def _least(self) -> str:
        """Write the observations below which nothing fires: also as many as one bad one alone needs to be no burn."""
        found = {
            max(variant.settings.least, ceil(_ROUNDING / (burn.factor * variant.settings.budget)))
            for variant, burn in zip(self.group, self.burns, strict=True)
        }
        if len(found) == 1:
            return str(found.pop())
        least = max(self.group[0].settings.least, ceil(_ROUNDING / CAP))
        return f"clamp_min(ceil({_ROUNDING / self._asked:.15g} / {_budget_of(self.slo, self.thresholds)}), {least})"

    def _texts(self) -> dict[str, str]:
        slo, thresholds, burn = self.slo, self.thresholds, self.burns[0]
        long, short = format_duration(burn.long), format_duration(burn.short)
        alike = len({each.factor for each in self.burns}) == 1
        factor = burn.factor if alike else self._asked
        lower = "" if alike else ", or than an objective as low as this one allows"
        used = factor * burn.long / BUDGET_SECONDS
        return {
            "summary": f"{_model(thresholds)} uses its error budget for {_named(slo)} "
            "{{ $value | humanize }} times too fast",
            "description": f"{_model(thresholds)}{_answering(thresholds)}. Objective over 30 days: "
            f"{_objective(self.group, thresholds)}. Over {long} and over "
            f"{short} the budget for the rest was used more than {factor:g} times too fast{lower}; at that pace "
            f"{used:.0%} of it goes in {long}. Likely: {slo.cause}. First: {in_cluster(slo.first, thresholds)}",
            **links(slo.alert, f"{_DASHBOARD}&from=now-{format_duration(3 * burn.long)}", _LABELS, thresholds),
            **self.group[0].settings.annotations,
        }


def _model(thresholds: Thresholds) -> str:
    """Return a template that names the model of an alert, and where it is as far as there are labels for that."""
    return (
        "{{ $labels.model_name }}{{ with $labels.namespace }} in {{ . }}{{ end }}"
        f"{{{{ with $labels.{thresholds.cluster_label} }}}} ({{{{ . }}}}){{{{ end }}}}"
    )


def _answering(thresholds: Thresholds) -> str:
    """Return a template that says how many replicas of the model answer; nothing where none says whose it is."""
    labels = (thresholds.cluster_label, "namespace", "model_name")
    matchers = joined('source="vllm"', *(f"{label}=%q" for label in labels))
    replicas = f"{PREFIX}up{{{matchers}}}"
    values = " ".join(f"$labels.{label}" for label in labels)

    def asked(how: str) -> str:
        return f"with printf `{how}({replicas})` {values} | query"

    shown = "{{ . | first | value }}"
    return (
        f"{{{{ {asked('sum')} }}}}: {shown}{{{{ end }}}}"
        f"{{{{ {asked('count')} }}}} of {shown} replicas answer{{{{ end }}}}"
    )


def _settings(group: list[Variant]) -> dict[str, str]:
    """Return the label of rules that are for some models alone."""
    models = [model for variant in group for model in variant.models]
    return {"settings": named(models)} if all(variant.models for variant in group) else {}


def _named(slo: Slo) -> str:
    return slo.name.replace("_", " ")


def _objective(group: list[Variant], thresholds: Thresholds) -> str:
    """Say what is asked for; where models differ, the text asks Prometheus for the numbers of the model."""
    slo = group[0].settings.slo
    shares = {variant.settings.objective for variant in group}
    seconds = {variant.settings.threshold for variant in group}
    share = f"{100 * shares.pop():.6g}%" if len(shares) == 1 else _asked(OBJECTIVE, slo, thresholds, "100 * ", _PERCENT)
    threshold = seconds.pop() if len(seconds) == 1 else 0.0
    shown = format_duration(threshold) if threshold else _asked(THRESHOLD, slo, thresholds, "", "humanizeDuration")
    return f"{share} of {render(slo.what, threshold=shown if slo.histogram else '')}"


_PERCENT = 'printf "%.6g%%"'


def _asked(record: str, slo: Slo, thresholds: Thresholds, times: str, shown: str) -> str:
    """Return a template that puts out what is recorded for the model of the alert."""
    query = f"{times}max({_of(record, slo, thresholds, 'model_name=%q')})"
    return (
        f"{{{{ with printf `{query}` $labels.model_name | query }}}}{{{{ . | first | value | {shown} }}}}{{{{ end }}}}"
    )


def _guards(variants: list[Variant], thresholds: Thresholds) -> Iterator[Rule]:
    """Write the tickets for what is in no objective, once for all models with the same labels and source."""
    for group in sharing(variants, lambda settings: (settings.labels, settings.annotations, settings.source)):
        settings, slo = group[0].settings, group[0].settings.slo
        untold = [
            with_records(
                expression(_untold(same[0].settings), {}, thresholds, matcher_of(same)),
                {slo_outages.ALL_OF_IT: _of(ALL, slo, thresholds)},
            )
            for same in sharing(group, lambda settings: settings.threshold)
        ]
        hold = max(EVALUATIONS * thresholds.evaluation_interval, GUARD_HOLD * thresholds.time_scale)
        yield {
            "alert": BOUND_MISSING,
            "expr": " or ".join(f"({each})" for each in untold) if len(untold) > 1 else untold[0],
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
                "description": f"Nothing says whether {_objective(group, thresholds)}: {_why(settings)}. It is left "
                "out of the error budget until then.",
                **links(BOUND_MISSING, f"{_DASHBOARD}&from=now-3h", (*_LABELS, "pod", "instance", "node"), thresholds),
                **settings.annotations,
            },
        }


def _untold(settings: ResolvedObjective) -> str:
    """Return the engines, or models, that do not tell what of an objective is good."""
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
    silent = f"{serving} unless on (<<M>>) ~requests_finished_total"
    if settings.source is CountedFrom.HISTOGRAM:
        return silent
    counts = f"~slo_requests_total{{{matcher(slo)}}}"
    # Where the sidecar of one replica counts, those of the others must too.
    return f"({serving} unless on (<<M>>) {counts}) and on ({BY}) {counts} or ({silent} unless on (<<M>>) {counts})"


def _why(settings: ResolvedObjective) -> str:
    if settings.source is CountedFrom.GATEWAY:
        return "the gateway counts no requests of this model, so check services in slos.gateway of the thresholds"
    if settings.source is CountedFrom.SIDECAR:
        return "its sidecar does not count that, so make slos in the sidecar's configuration say the same"
    if settings.slo.histogram:
        return (
            "its histogram has no bucket edge there; vLLM's --custom-histogram-buckets gives it one, or source: sidecar"
        )
    return "it does not export how requests end"
