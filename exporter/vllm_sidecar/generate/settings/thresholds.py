"""`rules/thresholds.yaml` as typed values: the only numbers of the rules that users tune.

Every key has a default, so a file holds only differences; a model's own settings override the general ones. Read only
by `generate`; `serve` never loads this module.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model

from vllm_sidecar.catalog import signal_of
from vllm_sidecar.catalog.alerts import ALERTS, RECORDS, Alert, Measure, Profile, Threshold
from vllm_sidecar.config.loader import load_as
from vllm_sidecar.config.section import Section, written
from vllm_sidecar.config.values import Seconds, as_frozen, not_allowed, parse_duration
from vllm_sidecar.generate.settings.batch_hours import BatchHours, Hours
from vllm_sidecar.generate.settings.rule_values import (
    MOST_PACK,
    Annotations,
    BaseUrl,
    ClusterLabel,
    KubernetesAnnotations,
    KubernetesLabels,
    ModelName,
    Names,
    Namespace,
    Pack,
    RegularExpression,
    Selector,
    SeverityLabel,
    SeverityName,
)
from vllm_sidecar.generate.settings.slo_settings import ModelSlos, SloSettings

ProfileName = Literal["interactive", "standard", "batch"]
DEFAULT_RUNBOOKS = "rules/runbooks"
DEFAULT_GRAFANA = "http://localhost:3000"
KINDS = {"critical": "page", "warning": "ticket"}
"""Common names of severities -> severity of the catalog."""
MOST = 1e15
"""A larger number is a mistake, and floats do not represent all integers above it."""
DAY = 86400.0
MOST_SECONDS = 365 * DAY
"""Longest time that is compared with a value, such as the rest of a certificate; times of the rules are shorter."""
_ALLOWED = {
    Measure.DURATION: "a duration such as 30s, 10m or 1h",
    Measure.SECONDS: "a duration such as 500ms, 2s or 1m30s",
    Measure.RATIO: "a number from 0 to 1",
    Measure.NUMBER: "a number from 0",
}


def _one(measure: Measure, value: object) -> float:
    """Read one value of a threshold: seconds, a ratio or a number."""
    if measure in (Measure.DURATION, Measure.SECONDS):
        return parse_duration(value, MOST_SECONDS if measure is Measure.SECONDS else DAY)
    most = 1.0 if measure is Measure.RATIO else MOST
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
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
    """Settings of every alert; its thresholds are further keys."""

    enabled: bool = Field(default=True, description="false leaves the alert out.")
    severity: SeverityName | None = Field(
        default=None, description="page, ticket or info (or critical, warning) instead of its own."
    )
    labels: Names = Field(default=as_frozen({}), description="Labels of this alert.")
    annotations: Annotations = Field(default=as_frozen({}), description="Annotations of this alert.")


_HOLD = (Seconds | None, Field(default=None, description="How long it must be true before the alert fires."))


def _settings(alert: Alert) -> Any:
    thresholds = {threshold.name: _field(threshold) for threshold in alert.thresholds}
    fields = {"for": _HOLD, **thresholds} if alert.hold else thresholds
    model = create_model(f"{alert.name}Settings", __base__=AlertSettings, **fields)
    return model, Field(default=model(), description=f"Settings of {alert.name}.")


def knows_model(alert: Alert) -> bool:
    """Return whether an alert is about a model, so that models can have settings of their own for it."""
    first = re.search(r"~([a-z0-9_]+)|@([a-z0-9_]+:[a-z0-9]+)", alert.expr)
    if first is None:
        return False
    return "model_name" in (labels_of(first[1]) if first[1] else RECORDS[first[2]].labels)


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
    """Settings of one model."""

    profile: ProfileName | None = Field(default=None, description="Profile of this model.")
    batch_hours: BatchHours | None = Field(default=None, description="Hours of this model's batches; [] for none.")
    alerts: ModelAlerts = Field(default=ModelAlerts(), description="Settings of alerts for this model.")
    slos: ModelSlos = Field(default=ModelSlos(), description="Objectives of this model.")


class Severities(Section):
    """Values of the label `severity`."""

    page: SeverityLabel = Field(default="page", description="Pages somebody.")
    ticket: SeverityLabel = Field(default="ticket", description="Waits for working hours.")
    info: SeverityLabel = Field(default="info", description="Notifies nobody.")
    watchdog: SeverityLabel = Field(default="watchdog", description="Always fires.")


class Thresholds(Section):
    """The whole file."""

    pack: Pack = Field(
        default="", description="Name of these rules among several packs; derived from the selector if empty."
    )
    profile: ProfileName = Field(default="standard", description="Kind of traffic; decides defaults.")
    batch_hours: BatchHours = Field(
        default=(), description="Hours in UTC in which latency does not matter, such as those of a nightly batch."
    )
    selector: Selector = Field(default="", description="Label matchers that every metric of the sidecar gets.")
    cluster_label: ClusterLabel = Field(default="cluster", description="Label that distinguishes clusters.")
    sidecar_job: RegularExpression = Field(
        default="(.*/)?vllm-sidecar(-gpu)?",
        description="Regular expression of the sidecars' job in Prometheus; it must match all of the name.",
    )
    vllm_job: RegularExpression = Field(
        default="vllm", description="Regular expression of vLLM's own job in Prometheus, where there is no sidecar."
    )
    scrape_interval: Seconds = written("15s", "How often Prometheus scrapes the sidecars; ranges are at least four.")
    evaluation_interval: Seconds = written("15s", "How often the rules are evaluated; every `for` is at least two.")
    time_scale: float = Field(
        default=1.0, gt=0, le=10, description="Factor of every time in the rules; below 1 for tests."
    )
    runbook_url: BaseUrl = Field(
        default=DEFAULT_RUNBOOKS, description="Address of the runbooks; /<Alert>.md is added. Empty for no link."
    )
    dashboard_url: BaseUrl = Field(default=DEFAULT_GRAFANA, description="Address of Grafana. Empty for no link.")
    rule_namespace: Namespace = Field(default="", description="Namespace of objects of Kubernetes.")
    rule_labels: KubernetesLabels = Field(
        default=as_frozen({"role": "alert-rules"}),
        description="Labels of objects of Kubernetes: those that the ruleSelector of Prometheus selects.",
    )
    rule_annotations: KubernetesAnnotations = Field(
        default=as_frozen({}), description="Annotations of objects of Kubernetes."
    )
    severities: Severities = Field(default=Severities(), description="Your names of the severities.")
    labels: Names = Field(default=as_frozen({}), description="Labels of every alert.")
    annotations: Annotations = Field(default=as_frozen({}), description="Annotations of every alert.")
    alerts: Alerts = Field(default=Alerts(), description="Settings of single alerts.")
    slos: SloSettings = Field(default=SloSettings(), description="Service level objectives.")
    models: Annotated[Mapping[ModelName, ModelSettings], AfterValidator(as_frozen)] = Field(
        default=as_frozen({}), description="Settings of single models, by model_name."
    )

    @property
    def pack_name(self) -> str:
        """The name of these rules in what they record: as set, or derived from the selector; empty without both."""
        return self.pack or (_pack_of(self.selector) if self.selector else "")

    def severity(self, name: str) -> str:
        """Return the value of the label for a severity."""
        return str(getattr(self.severities, name, name))

    def hours_of(self, model: str | None) -> tuple[Hours, ...]:
        """Return the hours of batches of a model, or (None) of all without hours of their own."""
        own = self.models[model].batch_hours if model is not None else None
        return self.batch_hours if own is None else own


def _pack_of(selector: str) -> str:
    """Name a pack after its selector; two selectors never share a name."""
    name = re.sub(r"[^a-z0-9]+", "-", selector.lower()).strip("-")
    if re.fullmatch(r'[a-z0-9]+="[a-z0-9]+(?:-[a-z0-9]+)*"', selector, re.ASCII) and len(name) <= MOST_PACK:
        return name
    digest = hashlib.sha256(selector.encode()).hexdigest()[:8]
    return f"{name[: MOST_PACK - 9].strip('-')}-{digest}".strip("-")


@dataclass(frozen=True, slots=True)
class ResolvedAlert:
    """Resolved settings of one alert, for one model with settings of its own or for all others."""

    enabled: bool
    severity: str
    hold: float | None
    """Seconds, before `time_scale`; None fires at once."""
    values: Mapping[str, float]
    """Threshold by name: seconds, a ratio or a number."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    batch_hours: tuple[Hours, ...] = ()
    """Hours in which it does not fire."""


def load_thresholds(path: Path | None) -> Thresholds:
    """Load a file of thresholds; None for the defaults.

    Raises:
        ConfigError: With every mistake found.
    """
    return load_as(Thresholds, path)


def resolve(thresholds: Thresholds, alert: Alert, model: str | None = None) -> ResolvedAlert:
    """Return the settings of an alert: the model's own, then the general ones, then the profile's defaults."""
    general = getattr(thresholds.alerts, alert.name)
    own = thresholds.models[model] if model is not None else None
    special = getattr(own.alerts, alert.name, general) if own else general
    profile = (own.profile if own else None) or thresholds.profile
    seconds = getattr(special, "for", None) or getattr(general, "for", None)
    return ResolvedAlert(
        enabled=special.enabled and general.enabled,
        severity=special.severity or general.severity or alert.severity.value,
        hold=seconds or (parse_duration(alert.hold) if alert.hold else None),
        values={
            each.name: _first(each, profile, getattr(special, each.name), getattr(general, each.name))
            for each in alert.thresholds
        },
        labels={**thresholds.labels, **general.labels, **special.labels},
        annotations={**thresholds.annotations, **general.annotations, **special.annotations},
        batch_hours=thresholds.hours_of(model) if alert.batch_hours else (),
    )


def _first(threshold: Threshold, profile: str, *given: Mapping[str, float] | None) -> float:
    """Return the first value that is set for a profile, or its default."""
    found = (values[profile] for values in given if values and profile in values)
    return next(found, threshold.default(Profile(profile)))
