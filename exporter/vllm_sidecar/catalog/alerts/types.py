"""Types of the alerts; what breaks a rule of the pack raises when the catalog is imported.

Notation of expressions: `~name{...}` is a metric of the sidecar, `<<name>>` a threshold of the alert, and `<<T>>`,
`<<M>>`, `<<E>>`, `<<G>>`, `<<S>>` are the labels that identify a server, a model of it, an engine, a GPU and a
sidecar, for `on (...)` and `by (...)`. Sums are taken `without` what is summed over, so that labels of discovery such
as `pod` arrive in the alert.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from vllm_sidecar.model import NOT_ONE_ENGINE

if TYPE_CHECKING:
    from collections.abc import Mapping


class Severity(StrEnum):
    """What an alert asks of people."""

    PAGE = "page"
    """Somebody gets up: users feel it now, or will within minutes."""
    TICKET = "ticket"
    """Somebody looks at it in working hours."""
    INFO = "info"
    """Nobody is told; it stands beside what else fires."""
    WATCHDOG = "watchdog"
    """Nobody does anything as long as it fires: it shows that alerts arrive."""


class Profile(StrEnum):
    """What the traffic is for; decides the defaults of thresholds."""

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
LABEL_SETS = {
    "T": "cluster, namespace, job, instance, target",
    "M": "cluster, namespace, job, instance, target, model_name",
    "E": "cluster, namespace, job, instance, target, model_name, engine",
    "G": "cluster, namespace, job, instance, gpu, uuid",
    "S": "cluster, namespace, job, instance",
}
"""Labels that identify a server, a model of it, an engine, a GPU and a sidecar; a missing one matches as empty."""
SIDECAR = "sidecar"
"""`up{<<sidecar>>}` is Prometheus' own metric about the sidecars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert, before a user's thresholds are put in.

    `hold` is how long the expression must be true (`for`), `keep` for how long the alert goes on when it no longer is
    (`keep_firing_for`): set where a restart would make it look solved. Texts are templates of Prometheus and may name
    thresholds too. `cause` and `first` end the description: the likeliest cause and the first command. `board` is the
    uid of the dashboard that shows more.
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
    board: str
    batch_hours: bool = False
    """Leave it out in the hours that the user names for batches."""

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


REPLICA = "{{ $labels.instance }}{{ with $labels.target }} ({{ . }}){{ end }}"
MODEL = "{{ $labels.model_name }} on " + REPLICA
ENGINE = "{{ $labels.model_name }} engine {{ $labels.engine }} on " + REPLICA
GPU = "GPU {{ $labels.gpu }} ({{ $labels.uuid }}) of {{ $labels.instance }}"
NOT_ONE_ENGINE_PATTERN = "|".join(NOT_ONE_ENGINE)
STATUS = "curl -s http://{{ $labels.instance }}/api/v1/status"
