"""Objectives of the catalog and a user's settings -> recording rules and burn alerts as plain values.

Each objective has two groups. The fast one, evaluated with all rules, records the rates of all and bad observations
per model over five minutes, and from these the burn over the windows up to six hours. The slow one adds them up each
five minutes and has the longer windows and the budget: so no query reads more than some thousand samples per
model; the buckets of a fleet over three days would be more than Prometheus loads at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.objectives import BUDGET_SECONDS, CountedFrom
from vllm_sidecar.catalog.types import RECORD_PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.generate import slo_gateways, slo_outages
from vllm_sidecar.generate.expressions import (
    expression,
    in_cluster,
    longest,
    outside,
)
from vllm_sidecar.generate.rules import in_pack
from vllm_sidecar.generate.slo_alerts import burn_alerts, guard_alerts
from vllm_sidecar.generate.slo_observations import (
    BY,
    ONLY_PREFILL,
    PREFILL,
    leaves_prefill_out,
    observed,
    with_records,
)
from vllm_sidecar.generate.slo_records import (
    ALL,
    BAD,
    BASE,
    BURN,
    OBJECTIVE,
    ONLY_PREFILLS,
    SLOW_ALL,
    SLOW_BAD,
    THRESHOLD,
    budget_of,
    record_of,
    recording,
    window_of,
)
from vllm_sidecar.generate.slo_resolution import resolve_objectives
from vllm_sidecar.generate.slo_variants import ResolvedObjective, Variant, matcher_of, sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vllm_sidecar.catalog.objectives import Slo
    from vllm_sidecar.generate.bucket_bounds import BucketBounds
    from vllm_sidecar.generate.rules import Group, Rule
    from vllm_sidecar.generate.settings.thresholds import Thresholds

FAST_WINDOW = 21_600.0
"""Longest window that the fast group reads, in seconds."""
SLOW_INTERVAL = 300.0


@dataclass(frozen=True, slots=True)
class SloRules:
    """The groups, and notes for the user."""

    groups: list[Group]
    notes: tuple[str, ...]


def slo_rules(thresholds: Thresholds, bounds: BucketBounds | None = None) -> SloRules:
    """Write the rules of all objectives; `bounds` are those of live servers, None if no server was queried.

    Raises:
        LateError: A threshold is not a bucket bound, or a factor can never be reached; with all such mistakes.
    """
    settled = resolve_objectives(thresholds, bounds)
    groups = [group for slo, variants in settled.objectives for group in _groups(slo, variants, thresholds)]
    guards = [rule for _, variants in settled.objectives for rule in guard_alerts(variants, thresholds)]
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
            *burn_alerts(slo, variants, thresholds, interval, ALL, fast),
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
            *burn_alerts(slo, variants, thresholds, slow_interval, SLOW_ALL, slow),
        ],
        thresholds,
    )


def _counts(name: str, of: str, slo: Slo, thresholds: Thresholds, over: float) -> Rule:
    """Record the counts of the fast group, up to its last but one evaluation: groups run in any order."""
    interval = thresholds.evaluation_interval
    window = f"[{format_duration(over)}] offset {format_duration(interval)}"
    return recording(name, f"sum_over_time({record_of(of, slo, thresholds)}{window}) * {interval:g}", slo, thresholds)


def _group(name: str, interval: float, rules: Iterable[Rule], thresholds: Thresholds) -> Group:
    return {"name": in_pack(name, thresholds), "interval": format_duration(interval), "rules": list(rules)}


def _base(slo: Slo, variants: list[Variant], thresholds: Thresholds) -> Iterator[Rule]:
    """Write the rates, and the objective of each model; all models share a rule, because one rule writes a record."""
    at_servers = [variant for variant in variants if variant.settings.source is not CountedFrom.GATEWAY]
    if at_servers and leaves_prefill_out(slo):
        yield recording(ONLY_PREFILLS, expression(ONLY_PREFILL, {}, thresholds), slo, thresholds)
    bad, every = _rates(slo, variants, thresholds)
    if slo.histogram or not at_servers:
        yield recording(BAD, bad, slo, thresholds)
        yield recording(ALL, every, slo, thresholds)
    else:
        yield from _with_outages(slo, (bad, every), matcher_of(at_servers), thresholds)
    yield _setting(OBJECTIVE, slo, variants, thresholds, lambda settings: settings.objective)
    if slo.histogram:
        yield _setting(THRESHOLD, slo, variants, thresholds, lambda settings: settings.threshold or 0.0)


def _rates(slo: Slo, variants: list[Variant], thresholds: Thresholds) -> tuple[str, str]:
    """Return the rates of bad and of all observations, of all variants."""
    bad, every = [], []
    for group in sharing(variants, lambda settings: (settings.source, settings.threshold, settings.batch_hours)):
        settings, gateway = group[0].settings, thresholds.slos.gateway
        if settings.source is CountedFrom.GATEWAY and gateway is not None:
            rates = slo_gateways.observed(thresholds, gateway, group)
        else:
            rates = observed(settings)
            prefill = {PREFILL: record_of(ONLY_PREFILLS, slo, thresholds)}
            written = [with_records(expression(text, {}, thresholds, matcher_of(group)), prefill) for text in rates]
            rates = outside(settings.batch_hours, written[0]), outside(settings.batch_hours, written[1])
        bad.append(rates[0])
        every.append(rates[1])
    return " or ".join(bad), " or ".join(every)


def _with_outages(slo: Slo, rates: tuple[str, str], models: str, thresholds: Thresholds) -> Iterator[Rule]:
    """Write the rates with the requests missed in an outage, and the records for that; `models` is a matcher."""
    records = {
        slo_outages.IS_EVALUATED: record_of(slo_outages.EVALUATED, slo, thresholds),
        slo_outages.IS_SERVING: record_of(slo_outages.SERVING, slo, thresholds),
        slo_outages.WAS_SERVED: record_of(slo_outages.SERVED, slo, thresholds, models),
        slo_outages.IS_STEADY: record_of(slo_outages.STEADY, slo, thresholds),
        slo_outages.IS_COUNTED: record_of(slo_outages.COUNTED, slo, thresholds, models),
    }

    def written(text: str) -> str:
        return with_records(expression(text, {}, thresholds, models), records)

    yield recording(slo_outages.EVALUATED, slo_outages.NOW, slo, thresholds)
    yield recording(slo_outages.SERVING, written(slo_outages.SERVES), slo, thresholds)
    yield recording(slo_outages.STEADY, written(slo_outages.IS_UP), slo, thresholds)
    yield recording(slo_outages.COUNTED, rates[1], slo, thresholds)
    missed, by = written(slo_outages.MISSED), in_cluster(BY, thresholds)
    for name, rate in ((BAD, f"({rates[0]})"), (ALL, record_of(slo_outages.COUNTED, slo, thresholds))):
        yield recording(name, f"({missed}) or on ({by}) {rate}", slo, thresholds)
    yield recording(slo_outages.SERVED, written(slo_outages.SERVES_RATE), slo, thresholds)


def _setting(
    name: str, slo: Slo, variants: list[Variant], thresholds: Thresholds, value: Callable[[ResolvedObjective], float]
) -> Rule:
    """Record a setting of every model that has observations, for the rules that are the same for all models."""
    parts = [
        f"0 * {_counted_last(slo, group, thresholds)} + {value(group[0].settings):.15g}"
        for group in sharing(variants, lambda settings: (value(settings), settings.batch_hours))
    ]
    return recording(name, " or ".join(parts), slo, thresholds)


def _counted_last(slo: Slo, group: list[Variant], thresholds: Thresholds) -> str:
    """Return the observations of models; in batch hours the last ones before, so that the budget does not end."""
    counted, hours = record_of(ALL, slo, thresholds, matcher_of(group)), group[0].settings.batch_hours
    return f"last_over_time({counted}[{format_duration(60.0 * (longest(hours) + 5))}])" if hours else counted


def _burn(slo: Slo, window: float, of: tuple[str, str], thresholds: Thresholds) -> Iterator[Rule]:
    """Write the share of bad observations over a window, and how much faster than allowed that is."""
    name = format_duration(window)
    errors = f"{RECORD_PREFIX}slo_errors:ratio_rate{name}"
    yield recording(errors, _ratio(slo, window, of, thresholds), slo, thresholds)
    burn = f"{record_of(errors, slo, thresholds)} / {budget_of(slo, thresholds)}"
    yield recording(f"{BURN}{name}", burn, slo, thresholds)


def _ratio(slo: Slo, window: float, of: tuple[str, str], thresholds: Thresholds) -> str:
    bad, every = (record_of(each, slo, thresholds) for each in of)
    if window <= BASE:
        return f"{bad} / ({every} > 0)"
    over = window_of(window, thresholds)
    return f"sum_over_time({bad}[{over}]) / (sum_over_time({every}[{over}]) > 0)"


def _budget(slo: Slo, thresholds: Thresholds) -> Rule:
    errors = _ratio(slo, BUDGET_SECONDS, (SLOW_BAD, SLOW_ALL), thresholds)
    left = f"1 - {errors} / {budget_of(slo, thresholds)}"
    return recording(f"{RECORD_PREFIX}slo_budget_remaining:ratio30d", left, slo, thresholds)
