"""Health of the polls of one source: counts, reasons, intervals. Owned by one loop; the snapshot gets a frozen copy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.limits import LIMITS
from vllm_sidecar.catalog.reasons import VLLM_REASONS, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_FAILED_POLLS = 3
"""Successive failed polls after which the last values of a source count as stale."""
ANOMALIES = (
    "not_finite",
    "negative",
    "bad_histogram",
    "sum_fell",
    "impossible",
    "unattributed",
    "too_many_engines",
)
GPU_ANOMALIES = ("not_finite", "negative", "sentinel", "zero", "out_of_range")


@dataclass(frozen=True, slots=True)
class Health:
    """State of one source after a poll."""

    source: str
    model_name: str = ""
    models: Sequence[str] = ()
    """Every model that was served at the last successful poll."""
    """The name of what the source serves, or last served; empty until it is known."""
    up: bool = False
    misses: int = 0
    """Failed polls since the last success."""
    polls: int = 0
    failures: Mapping[Reason, int] = field(default_factory=dict)
    anomalies: Mapping[str, int] = field(default_factory=dict)
    rejected_lines: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    """Polls at which more was exposed than a limit allows, by the name of the limit."""
    reason: Reason | None = None
    """Reason of the last poll's failure; None if it succeeded."""
    detail: str = ""
    last_success: float | None = None
    """Unix time."""
    seconds: float | None = None
    """Response time of the last success."""
    body_bytes: int = 0
    interval: float = 1.0
    server_time_ratio: float = 0.0
    reasons: Sequence[Reason] = VLLM_REASONS
    """Possible reasons of a failed poll of this source."""
    anomaly_kinds: Sequence[str] = ANOMALIES
    certificates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Unix times from and until which certificates are valid: of the `server`, and the one shown to it (`client`)."""
    watched_since: float | None = None
    """Unix time of the begin of the polls of this server; None of the GPUs."""
    over_http: bool = True
    """The source answers with bodies, and its server spends time on them."""

    def succeeded(self, **changes: object) -> Health:
        """Return the health after a successful poll."""
        return replace(
            self, up=True, misses=0, polls=self.polls + 1, reason=None, detail="", **changes  # type: ignore[arg-type]
        )  # fmt: skip

    def failed(self, reason: Reason, detail: str) -> Health:
        """Return the health after a failed poll: still up until `MISSES` polls in a row have failed."""
        misses = self.misses + 1
        return replace(
            self,
            up=self.up and misses < MAX_FAILED_POLLS,
            misses=misses,
            polls=self.polls + 1,
            failures=Counter(self.failures) + Counter((reason,)),
            reason=reason,
            detail=detail,
        )

    def failed_internally(self, detail: str) -> Health:
        """Return the health after a successful poll whose result was lost to a bug."""
        failures = Counter(self.failures) + Counter((Reason.INTERNAL,))
        return replace(self, up=False, failures=failures, reason=Reason.INTERNAL, detail=detail)

    def samples(self) -> Iterable[tuple[str, Sequence[str], float]]:
        """Yield signal, label values and value of every series of the source's own health."""
        source = self.source
        yield "up", (source, self.model_name), float(self.up)
        for model in self.models:
            yield "model_up", (model,), float(self.up)
        yield "polls_total", (source,), float(self.polls)
        yield "poll_interval_seconds", (source,), self.interval
        if self.over_http:
            yield "rejected_lines_total", (source,), float(self.rejected_lines)
            yield "poll_server_time_ratio", (source,), self.server_time_ratio
            for limit in LIMITS:
                yield "limit_hits_total", (source, limit), float(self.limits.get(limit, 0))
        for anomaly in self.anomaly_kinds:
            yield "dropped_values_total", (source, anomaly), float(self.anomalies.get(anomaly, 0))
        for whose, (not_before, not_after) in self.certificates.items():
            yield "target_certificate_not_before_timestamp_seconds", (whose,), not_before
            yield "target_certificate_not_after_timestamp_seconds", (whose,), not_after
        if self.watched_since is not None:
            yield "watched_since_timestamp_seconds", (), self.watched_since
        if self.last_success is not None and self.seconds is not None:
            yield "last_success_timestamp_seconds", (source,), self.last_success
            yield "poll_duration_seconds", (source,), self.seconds
            if self.over_http:
                yield "poll_body_bytes", (source,), float(self.body_bytes)

    def failure_samples(self) -> Iterable[tuple[str, Sequence[str], float]]:
        """Yield the failures by reason: all reasons, so that the first failure is an increase."""
        for reason in self.reasons:
            yield "poll_failures_total", (self.source, reason.value), float(self.failures.get(reason, 0))
