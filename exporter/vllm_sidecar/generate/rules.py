"""Alerts of the catalog and a user's thresholds -> groups of rules as plain values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.alerts import GROUPS
from vllm_sidecar.config import format_duration
from vllm_sidecar.config.thresholds import Resolved, knows_model, labels_of, resolve
from vllm_sidecar.generate.expressions import expression, in_expression, in_text, model_matcher, scaled
from vllm_sidecar.generate.templating import JINJA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vllm_sidecar.catalog.alerts import Alert
    from vllm_sidecar.config.thresholds import Thresholds

Rule = dict[str, Any]
Group = dict[str, Any]
"""As Prometheus reads them: a rule has alert or record, expr, labels; a group has name, interval, rules."""

EVALUATIONS = 2
"""Evaluations that every `for` spans at least: one wrong sample must not fire."""
DAY = "[1d]"
HISTORY_SECONDS = 60.0
"""Between two evaluations of what looks back a day: that reads thousands of samples of each series."""
LINKED = ("model_name", "instance", "engine")
"""Labels that a link to a dashboard selects."""


def alert_groups(thresholds: Thresholds) -> list[Group]:
    """Return the groups of alerts; one without an enabled alert is left out."""
    quick = thresholds.evaluation_interval
    paces = (("", quick, False), ("-history", max(quick, HISTORY_SECONDS * thresholds.time_scale), True))
    groups = []
    for name, alerts in GROUPS.items():
        for suffix, pace, history in paces:
            chosen = [alert for alert in alerts if (DAY in alert.expr) is history]
            rules = [rule for alert in chosen for rule in alert_rules(alert, thresholds)]
            if rules:
                groups.append({"name": name + suffix, "interval": format_duration(pace), "rules": rules})
    return groups


def alert_rules(alert: Alert, thresholds: Thresholds) -> Iterator[Rule]:
    """Write one alert: a rule for each model whose settings differ, and one for all others.

    A model's rule has the label `settings`, for promtool takes two rules of one name and the same labels for a slip.
    """
    general = resolve(thresholds, alert)
    own = {model: resolve(thresholds, alert, model) for model in thresholds.models if knows_model(alert)}
    different = {model: settings for model, settings in own.items() if settings != general}
    for model, settings in different.items():
        yield from _rule(alert, settings, thresholds, model_matcher(model, ()), {"settings": model})
    yield from _rule(alert, general, thresholds, model_matcher(None, tuple(different)), {})


def _rule(
    alert: Alert, settings: Resolved, thresholds: Thresholds, matcher: str, labels: Mapping[str, str]
) -> Iterator[Rule]:
    if not settings.enabled:
        return
    written = {each.name: in_expression(each, settings.values[each.name]) for each in alert.thresholds}
    rule: Rule = {"alert": alert.name, "expr": expression(alert.expr, written, thresholds, matcher)}
    if settings.hold is not None:
        least = EVALUATIONS * thresholds.evaluation_interval
        rule["for"] = format_duration(max(least, settings.hold * thresholds.time_scale))
    if alert.keep:
        rule["keep_firing_for"] = scaled(alert.keep, thresholds)
    rule["labels"] = {"severity": settings.severity, **labels, **settings.labels}
    rule["annotations"] = texts(alert, settings, thresholds)
    yield rule


def texts(alert: Alert, settings: Resolved, thresholds: Thresholds) -> dict[str, str]:
    """Return the texts and links of an alert, as templates of Prometheus."""
    shown = {each.name: in_text(each, settings.values[each.name], thresholds) for each in alert.thresholds}
    whole = f"{alert.description} Likely: {alert.cause}. First: {alert.first}"
    return {
        "summary": JINJA.from_string(alert.summary).render(**shown),
        "description": JINJA.from_string(whole).render(**shown),
        "runbook_url": f"{thresholds.runbook_url}/{alert.name}.md",
        "dashboard_url": f"{thresholds.dashboard_url}/d/{alert.board}{_query(alert)}",
        **settings.annotations,
    }


def _query(alert: Alert) -> str:
    """Select in the dashboard what the alert is about."""
    metric = re.search(r"~([a-z0-9_]+)", alert.expr)
    labels = ("instance", *labels_of(metric[1])) if metric and not alert.expr.startswith("absent") else ()
    chosen = [f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in LINKED if label in labels]
    return "?" + "&".join([*chosen, "from=now-3h"])
