"""`rules/thresholds.yaml` as typed values: the only numbers of the rules that users tune.

Every key has a default, so a file holds what differs; a model's own settings come before the general ones. Read by
`generate` alone; `serve` never loads this module.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model

from vllm_sidecar.catalog import signal_of
from vllm_sidecar.catalog.alerts import ALERTS, Alert, Measure, Profile, Threshold
from vllm_sidecar.config.loader import load_as
from vllm_sidecar.config.section import Section, written
from vllm_sidecar.config.slo import ModelSlos, SloSettings
from vllm_sidecar.config.values import Seconds, Text, as_frozen, not_allowed, parse_duration

_MATCHER = r'[a-zA-Z_][a-zA-Z0-9_]*\s*(?:=~|!~|!=|=)\s*"(?:[^"\\\n]|\\.)*"'
_SELECTOR = re.compile(rf"(?:{_MATCHER}(?:\s*,\s*{_MATCHER})*)?", re.ASCII)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_OURS = frozenset(("alertname", "severity", "settings", "slo", "long_window", "short_window"))
ProfileName = Literal["interactive", "standard", "batch"]
SeverityName = Literal["page", "ticket", "info"]


def _selector(value: str) -> str:
    if not _SELECTOR.fullmatch(value.strip()):
        raise not_allowed('label matchers as in PromQL, without braces, such as cluster="a",env=~"prod|canary"')
    if re.search(r"\bmodel_name\s*[=!]", value):
        raise not_allowed("matchers of labels other than model_name; settings of a model go to models")
    return value.strip().rstrip(",")


def _regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise not_allowed(f"a regular expression ({error})") from None
    return value


def _rule_label(value: str) -> str:
    if not _LABEL.fullmatch(value) or value.startswith("__"):
        raise not_allowed("a label name of letters, digits and _, not starting with a digit or __")
    if value in _OURS:
        raise not_allowed(f"a label name other than {', '.join(sorted(_OURS))}, which the rules set")
    return value


def _base_url(value: str) -> str:
    return value.rstrip("/")


Names = Annotated[Mapping[Annotated[str, AfterValidator(_rule_label)], Text], AfterValidator(as_frozen)]
Annotations = Annotated[Mapping[str, str], AfterValidator(as_frozen)]
_ALLOWED = {
    Measure.DURATION: "a duration such as 30s, 10m or 1h",
    Measure.SECONDS: "a duration such as 500ms, 2s or 1m30s",
    Measure.RATIO: "a number from 0 to 1",
    Measure.NUMBER: "a number from 0",
}


def _one(measure: Measure, value: object) -> float:
    """Read one value of a threshold: seconds, a ratio or a number."""
    if measure in (Measure.DURATION, Measure.SECONDS):
        return parse_duration(value)
    most = 1.0 if measure is Measure.RATIO else float("inf")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or value == float("inf"):
        raise not_allowed(_ALLOWED[measure])
    return float(value)


def _per_profile(measure: Measure, value: object) -> Mapping[str, float]:
    """Read a threshold: one value for all profiles, or some of interactive, standard and batch with their own."""
    profiles = [profile.value for profile in Profile]
    if not isinstance(value, dict):
        return as_frozen(dict.fromkeys(profiles, _one(measure, value)))
    if not value or not set(value) <= set(profiles):
        raise not_allowed(f"{_ALLOWED[measure]}, or one for each of {', '.join(profiles)}")
    return as_frozen({profile: _one(measure, each) for profile, each in value.items()})


def _field(threshold: Threshold) -> Any:
    kind = Annotated[Mapping[str, float] | None, BeforeValidator(partial(_per_profile, threshold.measure))]
    return kind, Field(default=None, description=threshold.help)


class AlertSettings(Section):
    """What every alert can be told; its thresholds are keys beside these."""

    enabled: bool = Field(default=True, description="false leaves the alert out.")
    severity: SeverityName | None = Field(default=None, description="page, ticket or info in place of its own.")
    labels: Names = Field(default=as_frozen({}), description="Labels of this alert.")
    annotations: Annotations = Field(default=as_frozen({}), description="Annotations of this alert.")


_HOLD = (Seconds | None, Field(default=None, description="How long it must be true before the alert fires."))


def _settings(alert: Alert) -> Any:
    thresholds = {threshold.name: _field(threshold) for threshold in alert.thresholds}
    fields = {"for": _HOLD, **thresholds} if alert.hold else thresholds
    model = create_model(f"{alert.name}Settings", __base__=AlertSettings, **fields)
    return model, Field(default=model(), description=f"Settings of {alert.name}.")


def knows_model(alert: Alert) -> bool:
    """Say whether an alert is about a model, so that a model may have settings of its own for it."""
    first = re.search(r"~([a-z0-9_]+)", alert.expr)
    return first is not None and "model_name" in labels_of(first[1])


def labels_of(metric: str) -> tuple[str, ...]:
    """Return the labels of a metric of the sidecar, without those of the target; `metric` has no prefix.

    Raises:
        KeyError: The catalog has no such metric.
    """
    signal = signal_of(metric)
    if signal is None:
        raise KeyError(metric)
    return signal.label_names


if TYPE_CHECKING:
    Alerts = Section
    ModelAlerts = Section
else:
    Alerts = create_model("Alerts", __base__=Section, **{alert.name: _settings(alert) for alert in ALERTS})
    ModelAlerts = create_model(
        "ModelAlerts", __base__=Section, **{alert.name: _settings(alert) for alert in ALERTS if knows_model(alert)}
    )


class ModelSettings(Section):
    """What one model has of its own."""

    profile: ProfileName | None = Field(default=None, description="Profile of this model.")
    alerts: ModelAlerts = Field(default=ModelAlerts(), description="Settings of alerts for this model.")
    slos: ModelSlos = Field(default=ModelSlos(), description="Objectives of this model.")


class Thresholds(Section):
    """The whole file."""

    profile: ProfileName = Field(default="standard", description="What the traffic is for; decides defaults.")
    selector: Annotated[str, AfterValidator(_selector)] = Field(
        default="", description="Label matchers that every metric of the sidecar gets."
    )
    sidecar_job: Annotated[str, AfterValidator(_regular_expression)] = Field(
        default="vllm-sidecar", description="Regular expression of the sidecars' job in Prometheus."
    )
    vllm_job: Annotated[str, AfterValidator(_regular_expression)] = Field(
        default="vllm", description="Regular expression of vLLM's own job in Prometheus, where there is no sidecar."
    )
    scrape_interval: Seconds = written("15s", "How often Prometheus scrapes the sidecars; ranges are at least four.")
    evaluation_interval: Seconds = written("15s", "How often the rules are evaluated; every `for` is at least two.")
    time_scale: float = Field(
        default=1.0, gt=0, le=10, description="Every time in the rules is multiplied by it; below 1 for drills."
    )
    runbook_url: Annotated[str, AfterValidator(_base_url)] = Field(
        default="rules/runbooks", description="Where the runbooks are; /<Alert>.md is added."
    )
    dashboard_url: Annotated[str, AfterValidator(_base_url)] = Field(
        default="http://localhost:3000", description="Address of Grafana."
    )
    rule_labels: Names = Field(
        default=as_frozen({"role": "alert-rules"}), description="Labels of a PrometheusRule, for the ruleSelector."
    )
    labels: Names = Field(default=as_frozen({}), description="Labels of every alert.")
    annotations: Annotations = Field(default=as_frozen({}), description="Annotations of every alert.")
    alerts: Alerts = Field(default=Alerts(), description="Settings of single alerts.")
    slos: SloSettings = Field(default=SloSettings(), description="Service level objectives.")
    models: Annotated[Mapping[str, ModelSettings], AfterValidator(as_frozen)] = Field(
        default=as_frozen({}), description="Settings of single models, by model_name."
    )


@dataclass(frozen=True, slots=True)
class Resolved:
    """What holds for one alert, and one model of its own or (None) all others."""

    enabled: bool
    severity: str
    hold: float | None
    """Seconds, before `time_scale`; None fires at once."""
    values: Mapping[str, float]
    """Threshold by name: seconds, a ratio or a number."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def load_thresholds(path: Path | None) -> Thresholds:
    """Load a file of thresholds; None for the defaults.

    Raises:
        ConfigError: With every mistake found.
    """
    return load_as(Thresholds, path)


def resolve(thresholds: Thresholds, alert: Alert, model: str | None = None) -> Resolved:
    """Return what holds for an alert: a model's own settings, else the general ones, else the profile's defaults."""
    general = getattr(thresholds.alerts, alert.name)
    own = thresholds.models[model] if model is not None else None
    special = getattr(own.alerts, alert.name, general) if own else general
    profile = (own.profile if own else None) or thresholds.profile
    seconds = getattr(special, "for", None) or getattr(general, "for", None)
    return Resolved(
        enabled=special.enabled and general.enabled,
        severity=special.severity or general.severity or alert.severity.value,
        hold=seconds or (parse_duration(alert.hold) if alert.hold else None),
        values={
            each.name: _first(each, profile, getattr(special, each.name), getattr(general, each.name))
            for each in alert.thresholds
        },
        labels={**thresholds.labels, **general.labels, **special.labels},
        annotations={**thresholds.annotations, **general.annotations, **special.annotations},
    )


def _first(threshold: Threshold, profile: str, *given: Mapping[str, float] | None) -> float:
    """Return the first value that is given for a profile, else its default."""
    found = (values[profile] for values in given if values and profile in values)
    return next(found, threshold.default(Profile(profile)))
