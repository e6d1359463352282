"""Types of the alerts; an alert that breaks a rule of the pack raises ValueError when the catalog is imported.

Notation of expressions: `~name{...}` is a metric of the sidecar, `@name:suffix{...}` a series that the pack records,
`<<name>>` a threshold of the alert, and `<<F>>`, `<<T>>`, `<<M>>`, `<<E>>`, `<<G>>`, `<<S>>` are the labels that
identify a model, a replica (one vLLM server), a model of it, an engine, a GPU and a sidecar, for `on (...)` and
`by (...)`. Expressions about a replica keep all labels, so that those of discovery such as `pod` and `node` arrive in
the alert; those about a model have its labels and no others.

Texts are templates of Prometheus. `[[expression]]` is replaced by the value of an expression in the same notation, and
`[[list: expression]]` by the pods (or instances) of its series; each metric and record in it is that of the alert's
model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import NOT_ONE_ENGINE

if TYPE_CHECKING:
    from collections.abc import Mapping


class Severity(StrEnum):
    """How urgently an alert needs a person."""

    PAGE = "page"
    """Somebody is paged, also at night: users are affected now, or will be within minutes."""
    TICKET = "ticket"
    """Handled in working hours."""
    INFO = "info"
    """Nobody is notified; it is shown next to other alerts that fire."""
    WATCHDOG = "watchdog"
    """Always fires and needs no action: it shows that alerts arrive."""


class Profile(StrEnum):
    """Kind of traffic; decides the defaults of thresholds."""

    INTERACTIVE = "interactive"
    """People wait for each token: TTFT 0.5 s, ITL 50 ms."""
    STANDARD = "standard"
    """TTFT 2.5 s, ITL 100 ms, near the limits of MLPerf Inference's server scenario."""
    BATCH = "batch"
    """Throughput counts: TTFT 10 s, ITL 200 ms."""


class Measure(StrEnum):
    """How a threshold is written in the file, in an expression and in a text."""

    DURATION = "duration"
    """A time of the rule itself, such as a grace period: `10m` everywhere; scaled with `time_scale`."""
    SECONDS = "seconds"
    """A latency: `10s` in the file and in texts, `10` in expressions."""
    RATIO = "ratio"
    """0 to 1; `5%` in texts."""
    NUMBER = "number"
    """A count or a factor."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """One number that users tune. `standard` is its default; `others` holds the profiles that differ from it."""

    name: str
    measure: Measure
    standard: float
    help: str
    others: Mapping[Profile, float] = field(default_factory=dict)

    def default(self, profile: Profile) -> float:
        """Return the default of a profile: seconds, a ratio or a number."""
        return self.others.get(profile, self.standard)


NAME = re.compile(r"Vllm[A-Za-z]+")
METRIC = re.compile(r"~([a-z0-9_]+)")
PLACE = re.compile(r"<<(\w+)>>")
_SIDECAR = "cluster, namespace, job, pod, instance"
"""`pod` is needed because two pods of one node share an instance if they use the node's network."""
LABEL_SETS = {
    "F": "cluster, namespace, model_name",
    "T": f"{_SIDECAR}, target",
    "M": f"{_SIDECAR}, target, model_name",
    "E": f"{_SIDECAR}, target, model_name, engine",
    "G": f"{_SIDECAR}, gpu, uuid",
    "S": _SIDECAR,
}
"""Labels that identify a model, a replica, a model of it, an engine, a GPU and a sidecar; a missing one matches as
empty."""
SIDECAR = "sidecar"
"""`up{<<sidecar>>}` is Prometheus' own metric about the sidecars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert, before a user's thresholds are put in.

    `hold` is how long the expression must be true (`for`), `keep` is how long the alert continues after it no longer is
    (`keep_firing_for`): set where a restart would make it look solved. Texts are templates of Prometheus and may name
    thresholds too. `cause` and `first` end the description: the likeliest cause and the first command. `dashboard` is
    the uid of the dashboard that shows more.
    """

    name: str
    severity: Severity
    hold: str
    keep: str = ""
    expr: str
    thresholds: tuple[Threshold, ...] = ()
    summary: str
    description: str
    cause: str
    first: str
    dashboard: str
    batch_hours: bool = False
    """Does not fire in the hours that the user sets in `batch_hours`."""

    def __post_init__(self) -> None:
        known = {*(threshold.name for threshold in self.thresholds), *LABEL_SETS, SIDECAR}
        used = set(PLACE.findall(self.expr))
        problems = (
            (not NAME.fullmatch(self.name), "is not named Vllm..."),
            (not used <= known, f"uses the unknown {', '.join(sorted(used - known))}"),
            (not {t.name for t in self.thresholds} <= used, "has a threshold that its expression does not use"),
            (self.hold == "0s", "fires at the first evaluation"),
        )
        for broken, text in problems:
            if broken:
                raise ValueError(f"alert {self.name} {text}")

    @property
    def metrics(self) -> frozenset[str]:
        """Names of the sidecar's metrics that the expression reads, without prefix; with `_bucket` and the like."""
        return frozenset(METRIC.findall(self.expr))


@dataclass(frozen=True, slots=True)
class Record:
    """One recording rule of the pack: `name` without prefix, `expr` in the notation of alerts without thresholds.

    `by` are the labels that its series have, in the same notation.
    """

    name: str
    by: str
    expr: str

    @property
    def labels(self) -> frozenset[str]:
        """Names of the labels that its series have."""
        named = PLACE.sub(lambda found: LABEL_SETS[found[1]], self.by)
        return frozenset(named.replace(" ", "").split(","))


@dataclass(frozen=True, slots=True)
class AlertGroup:
    """Rules that are evaluated one after the other; records come before the alerts that read them."""

    name: str
    alerts: tuple[Alert, ...]
    records: tuple[Record, ...] = ()
    slow: bool = False
    """Evaluated once a minute, because it compares hours and days."""


def duration(name: str, seconds: float, text: str) -> Threshold:
    """Make a threshold that is a time of the rule itself."""
    return Threshold(name, Measure.DURATION, seconds, text)


def latency(name: str, standard: float, text: str, *, interactive: float, batch: float) -> Threshold:
    """Make a threshold on a latency, which differs between profiles."""
    return Threshold(name, Measure.SECONDS, standard, text, {Profile.INTERACTIVE: interactive, Profile.BATCH: batch})


def ratio(name: str, value: float, text: str) -> Threshold:
    """Make a threshold between 0 and 1."""
    return Threshold(name, Measure.RATIO, value, text)


def number(name: str, value: float, text: str) -> Threshold:
    """Make a threshold that is a count or a factor."""
    return Threshold(name, Measure.NUMBER, value, text)


def newest(info: str, label: str) -> str:
    """Write a label of a metric `..._info` of each replica as a series of 1, exactly one for each replica.

    After a change both the previous and the new series may be found for five minutes; the new one was scraped last.
    """
    return f"group by (<<T>>, {label}) (topk by (<<T>>) (1, timestamp({info})))"


WHERE = (
    "{{ with $labels.namespace }} in {{ . }}{{ end }}{{ with $labels.node }} on node {{ . }}{{ end }}"
    "{{ with $labels.cluster }} ({{ . }}){{ end }}"
)
REPLICA = (
    "{{ with $labels.pod }}pod {{ . }}{{ else }}{{ $labels.instance }}{{ end }}"
    "{{ with $labels.target }} ({{ . }}){{ end }}" + WHERE
)
MODEL = (
    "{{ with $labels.model_name }}{{ . }}{{ else }}a model without a known name{{ end }}"
    "{{ with $labels.namespace }} in {{ . }}{{ end }}{{ with $labels.cluster }} ({{ . }}){{ end }}"
)
"""A model, in an alert about all its replicas."""
SERVED = "{{ $labels.model_name }} on " + REPLICA
"""A model, in an alert about one replica."""
PEER = SERVED.replace("{{ with $labels.node }} on node {{ . }}{{ end }}", "")
"""The same for an alert that reads a record, which has no label `node`."""
ENGINE = "{{ $labels.model_name }} engine {{ $labels.engine }} on " + REPLICA
GPU = "GPU {{ $labels.gpu }} ({{ $labels.uuid }}) of " + REPLICA
NOT_ONE_ENGINE_PATTERN = "|".join(NOT_ONE_ENGINE)
_PROXY = "kubectl get --raw /api/v1/namespaces/{{ $labels.namespace }}/pods/{{ . }}:10190/proxy"
STATUS = (
    "{{ with $labels.pod }}" + _PROXY + "/api/v1/status{{ else }}curl -s http://{{ $labels.instance }}/api/v1/status"
    "{{ end }}"
)
"""A command that shows the status of the sidecar of a replica, also from a machine that cannot reach pods."""
LOGS = (
    "{{ with $labels.pod }}kubectl -n {{ $labels.namespace }} logs {{ . }} --all-containers --tail=200{{ else }}"
    "journalctl -u vllm -n 200{{ end }}"
)
PREVIOUS_LOGS = LOGS.replace("--all-containers", "-c vllm --previous")
"""Logs of the previous container; with --all-containers kubectl stops at the first one that never restarted."""
PODS = (
    "{{ with $labels.namespace }}kubectl -n {{ . }} get pods -o wide{{ else }}systemctl status vllm on each host"
    "{{ end }}"
)
OF_MODEL = 'namespace="{{ $labels.namespace }}",model_name="{{ $labels.model_name }}"'
"""Matchers of a query in a text; an empty value matches series without the label."""
YESTERDAY = "offset 23h30m"
"""With a range of an hour: around the same time of the day before."""
STALE_SECONDS = 30
"""After this many seconds without progress a queue is not evaluated: the engine stalls, or its gauges are frozen."""
