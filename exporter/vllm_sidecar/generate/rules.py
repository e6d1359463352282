"""Alerts of the catalog and a user's thresholds -> groups of rules as plain values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.alerts import GROUPS, Measure
from vllm_sidecar.catalog.alerts.alert import LABEL_SETS
from vllm_sidecar.catalog.types import PREFIX, RECORD_PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.generate import promql
from vllm_sidecar.generate.expressions import (
    expression,
    in_expression,
    in_text,
    model_matcher,
    outside,
    quoted,
    scaled,
)
from vllm_sidecar.generate.promql import without_texts
from vllm_sidecar.generate.settings import alert_template
from vllm_sidecar.generate.settings.thresholds import ResolvedAlert, knows_model, resolve
from vllm_sidecar.generate.templating import render

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from vllm_sidecar.catalog.alerts import Alert, Record, Threshold
    from vllm_sidecar.generate.settings.thresholds import Thresholds

    Writer = Callable[[Alert, Threshold, float], tuple[str, str]]
    """Writes the value of a threshold: for the expression, and for the texts."""

Rule = dict[str, Any]
Group = dict[str, Any]
"""As Prometheus reads them: rules have alert or record, expr, labels; groups have name, interval, rules."""

EVALUATIONS = 2
"""Fewest evaluations that every `for` spans: one wrong sample must not fire."""
SLOW_SECONDS = 60.0
"""Seconds between two evaluations of rules that look back hours and days."""
LINKED = ("model_name", "instance", "engine")
"""Labels that a link to a dashboard selects."""
FILLED = ("namespace", "pod", "model_name", "instance", "uuid")
"""Labels that a link to a runbook passes on."""


def alert_groups(thresholds: Thresholds, writer: Writer | None = None) -> list[Group]:
    """Return the groups of records and alerts; a group without an enabled alert is left out.

    Args:
        thresholds: The user's.
        writer: Writes their numbers; None for PromQL and people.
    """
    quick = thresholds.evaluation_interval
    slow = max(quick, SLOW_SECONDS * thresholds.time_scale)
    groups = []
    for group in GROUPS:
        alerts = [rule for alert in group.alerts for rule in alert_rules(alert, thresholds, writer)]
        if alerts:
            records = [record_rule(record, thresholds) for record in group.records]
            groups.append(
                {
                    "name": in_pack(group.name, thresholds),
                    "interval": format_duration(slow if group.slow else quick),
                    "rules": [*records, *alerts],
                }
            )
    return groups


def record_rule(record: Record, thresholds: Thresholds) -> Rule:
    """Write one recording rule."""
    labels = pack_labels(thresholds)
    return {
        "record": RECORD_PREFIX + record.name,
        "expr": expression(record.expr, {}, thresholds),
        **({"labels": labels} if labels else {}),
    }


def in_pack(name: str, thresholds: Thresholds) -> str:
    """Return the name of a group, a file or an object; those of two packs differ."""
    return f"{name}-{thresholds.pack_name}" if thresholds.pack_name else name


def pack_labels(thresholds: Thresholds) -> dict[str, str]:
    """Return the label that distinguishes series and alerts of packs; a pack without a name has none."""
    return {"pack": thresholds.pack_name} if thresholds.pack_name else {}


def alert_rules(alert: Alert, thresholds: Thresholds, writer: Writer | None = None) -> Iterator[Rule]:
    """Write one alert: a rule for all models that share settings of their own, and one for all others.

    A rule of some models has the label `settings`, because promtool rejects two rules with one name and the same
    labels.
    """
    write = writer or _numbers(thresholds)
    general = resolve(thresholds, alert)
    own = {model: resolve(thresholds, alert, model) for model in thresholds.models if knows_model(alert)}
    different = {model: settings for model, settings in own.items() if settings != general}
    for models in alike(different):
        settings = different[models[0]]
        yield from _rule(alert, settings, thresholds, model_matcher(models), {"settings": named(models)}, write)
    yield from _rule(alert, general, thresholds, model_matcher((), tuple(different)), {}, write)


def alike(settings: Mapping[str, object]) -> list[list[str]]:
    """Group the names of equal settings, in order."""
    found: list[tuple[object, list[str]]] = []
    for name, value in settings.items():
        names = next((names for other, names in found if other == value), None)
        if names is None:
            found.append((value, [name]))
        else:
            names.append(name)
    return [names for _, names in found]


def named(models: Sequence[str]) -> str:
    """Name some models in a label, which Prometheus expands like a template."""
    more = f" and {len(models) - 1} more" if len(models) > 1 else ""
    return alert_template.literal(models[0]) + more


def _numbers(thresholds: Thresholds) -> Writer:
    return lambda _, each, value: (in_expression(each, value), in_text(each, value, thresholds))


def _rule(
    alert: Alert,
    settings: ResolvedAlert,
    thresholds: Thresholds,
    matcher: str,
    labels: Mapping[str, str],
    write: Writer,
) -> Iterator[Rule]:
    if not settings.enabled:
        return
    values = {each.name: write(alert, each, settings.values[each.name]) for each in alert.thresholds}
    written = {name: value for name, (value, _) in values.items()}
    shown = {name: value for name, (_, value) in values.items()}
    expr = outside(settings.batch_hours, expression(alert.expr, written, thresholds, matcher))
    rule: Rule = {"alert": alert.name, "expr": expr}
    if settings.hold is not None:
        least = EVALUATIONS * thresholds.evaluation_interval
        rule["for"] = format_duration(max(least, settings.hold * thresholds.time_scale))
    if alert.keep:
        rule["keep_firing_for"] = scaled(alert.keep, thresholds)
    severity = {"severity": thresholds.severity(settings.severity)}
    rule["labels"] = {**severity, **labels, **pack_labels(thresholds), **settings.labels}
    rule["annotations"] = texts(alert, settings, thresholds, shown)
    yield rule


def texts(alert: Alert, settings: ResolvedAlert, thresholds: Thresholds, shown: Mapping[str, str]) -> dict[str, str]:
    """Return the texts and links of an alert, as templates of Prometheus; `shown` are its thresholds for people."""
    labels = _labels(alert, thresholds)
    whole = f"{alert.description} Likely: {alert.cause}. First: {alert.first}"
    return {
        "summary": _written(alert.summary, shown, thresholds),
        "description": _written(whole, shown, thresholds),
        **links(alert.name, f"{alert.dashboard}{_query(labels)}", labels, thresholds),
        **settings.annotations,
    }


_QUERY = re.compile(r"\[\[(list: )?(.+?)\]\](?!\])")
_OF_MODEL = "\1"
"""Placeholder of the matchers of an alert's model in a query of a text."""


def _written(text: str, shown: Mapping[str, str], thresholds: Thresholds) -> str:
    """Insert thresholds, the user's name of the label `cluster` and, last, queries into a text."""
    plain = render(text, **LABEL_SETS, **shown)
    named = re.sub(r"\$labels\.cluster\b", f"$labels.{thresholds.cluster_label}", plain)
    return _QUERY.sub(lambda found: _query_in_text(found[2], thresholds, several=bool(found[1])), named)


def _query_in_text(text: str, thresholds: Thresholds, *, several: bool) -> str:
    """Write a query of a text as a template that Prometheus evaluates, for the model that the alert is about."""
    labels = (thresholds.cluster_label, "namespace", "model_name")
    query = expression(text, {}, thresholds, _OF_MODEL)
    written = query.replace("%", "%%").replace(_OF_MODEL, ",".join(f"{label}=%q" for label in labels))
    arguments = " ".join(f"$labels.{label}" for label in labels * query.count(_OF_MODEL))
    ask = f"printf {quoted(written)} {arguments} | query"
    if several:
        name = "{{ with .Labels.pod }}{{ . }}{{ else }}{{ .Labels.instance }}{{ end }}"
        comma = "{{ if $index }}, {{ end }}"
        return f"{{{{ range $index, $found := {ask} }}}}{comma}{name}{{{{ else }}}}none{{{{ end }}}}"
    return f"{{{{ with {ask} }}}}{{{{ . | first | value | humanize }}}}{{{{ end }}}}"


def links(alert: str, dashboard: str, labels: Collection[str], thresholds: Thresholds) -> dict[str, str]:
    """Return the links to a runbook and a dashboard; without an address of the user there is none.

    A sidecar that serves the runbook fills in the labels of the alert; other servers ignore them.
    """
    books, grafana = thresholds.runbook_url, thresholds.dashboard_url
    filled = [
        f"{{{{ with $labels.{label} }}}}{label}={{{{ . | urlquery }}}}&{{{{ end }}}}"
        for label in FILLED
        if label in labels
    ]
    query = f"?{''.join(filled)}" if filled and "://" in books else ""
    return {
        **({"runbook_url": f"{books}/{alert}.md{query}"} if books else {}),
        **({"dashboard_url": f"{grafana}/d/{dashboard}"} if grafana else {}),
    }


def _labels(alert: Alert, thresholds: Thresholds) -> frozenset[str]:
    """Return the labels of an alert that name something of the dashboards: an instance may be that of Prometheus."""
    plain = {each.name: "1m" if each.measure is Measure.DURATION else "1" for each in alert.thresholds}
    node = promql.parse(without_texts(expression(alert.expr, plain, thresholds)))
    about_sidecars = any(name == "up" or name.startswith((PREFIX, RECORD_PREFIX)) for name in promql.metrics(node))
    return promql.labels(node) if about_sidecars else frozenset()


def _query(labels: Collection[str]) -> str:
    """Select the subject of the alert in the dashboard."""
    chosen = [f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in LINKED if label in labels]
    return "?" + "&".join([*chosen, "from=now-3h"])
