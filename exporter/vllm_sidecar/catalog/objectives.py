"""The service level objectives, as typed values; `generate.slo_rules` writes their rules with a user's settings.

A burn is how many times faster than allowed the error budget is used: the share of bad observations over a window,
divided by 1 - objective. An alert needs the burn over a long window, so that it matters, and over a short one, so
that it still continues (the multi-window, multi-burn-rate alerts of the Site Reliability Workbook, chapter 5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.alerts.alert import Profile, Severity
from vllm_sidecar.catalog.slo_signals import AVAILABILITY

if TYPE_CHECKING:
    from collections.abc import Mapping

DASHBOARD = "vllm-slo"
BUDGET_SECONDS = 30 * 86_400.0
"""The period of an error budget."""
LEAST_OBSERVATIONS = 30
"""Below this many observations in the long window no burn is evaluated."""
CAP = 0.8
"""Largest factor, as a share of the largest possible burn, 1 / (1 - objective); larger ones are lowered to it."""


class CountedFrom(StrEnum):
    """Source of the counts of an objective."""

    HISTOGRAM = "histogram"
    """vLLM's own counters and buckets: thresholds at bucket bounds, also for the past, and without a sidecar."""
    SIDECAR = "sidecar"
    """The sidecar's counters of every poll: thresholds of its configuration, across restarts, with HTTP 5xx."""
    GATEWAY = "gateway"
    """A gateway's counters of the responses to clients, also while no server answers; only for availability."""


@dataclass(frozen=True, slots=True)
class Burn:
    """One pair of windows (seconds) with the burn that both must exceed."""

    long: float
    short: float
    factor: float
    severity: Severity
    hold: float
    """Seconds that it must last (`for`)."""


BURNS = (
    Burn(3600.0, 300.0, 14.4, Severity.PAGE, 120.0),
    Burn(21_600.0, 1800.0, 6.0, Severity.PAGE, 120.0),
    Burn(86_400.0, 7200.0, 3.0, Severity.TICKET, 900.0),
    Burn(259_200.0, 21_600.0, 1.0, Severity.TICKET, 900.0),
)
"""At these burns 2 % of a 30-day budget is used in 1 h, 5 % in 6 h, 10 % in a day and 10 % in three days."""


class Drafts(StrEnum):
    """Engines that an objective covers, by whether they speculate: if they do, ITL is per batch of tokens."""

    ALL = ""
    WITHOUT = "unless"
    WITH = "and"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """One objective, before a user's settings are put in. `name` is its label `slo`."""

    name: str
    alert: str
    what: str
    """After "99% of": what is good, with `<<threshold>>` instead of the number."""
    objective: float
    """Share of good observations over the period of the budget."""
    source: CountedFrom
    histogram: str | None = None
    """The latency; None for availability."""
    thresholds: Mapping[Profile, float] = field(default_factory=dict)
    """Seconds by profile; empty for availability."""
    drafts: Drafts = Drafts.ALL
    enabled: bool = True
    cause: str
    first: str


def _seconds(interactive: float, standard: float, batch: float) -> dict[Profile, float]:
    return {Profile.INTERACTIVE: interactive, Profile.STANDARD: standard, Profile.BATCH: batch}


_STEPS = (
    "slower steps: throttled GPUs, larger batches, long prompts in the same steps, preemptions, or a flag that changed"
)
_SCOPE = (
    'model_name="{{ $labels.model_name }}"{{ with $labels.namespace }},namespace="{{ . }}"{{ end }}'
    '{{ with $labels.cluster }},cluster="{{ . }}"{{ end }}'
)
"""The model of the alert, as matchers of a query."""


def _query(metric: str) -> str:
    """Write a query about the model of an alert, as a template of Prometheus."""
    return f"vllm_sidecar_{metric}{{{_SCOPE}}}"


_INSPECT = f"PromQL: {_query('recent_step_mean_tokens')} shows which replicas have larger steps"

SLOS: tuple[Slo, ...] = (
    Slo(
        name="time_to_first_token",
        alert="VllmTimeToFirstTokenSloBurn",
        what="requests get their first token within <<threshold>>",
        objective=0.99,
        source=CountedFrom.HISTOGRAM,
        histogram="time_to_first_token_seconds",
        thresholds=_seconds(0.5, 2.5, 10.0),
        cause="requests wait in the queue, or prompts are longer and not cached",
        first=(
            f"PromQL: {_query('recent_time_to_first_token_share_ratio')} shows whether queue or prefill takes the time"
        ),
    ),
    Slo(
        name="inter_token_latency",
        alert="VllmInterTokenLatencySloBurn",
        what="outputs arrive within <<threshold>> of the previous one",
        objective=0.99,
        source=CountedFrom.HISTOGRAM,
        histogram="inter_token_latency_seconds",
        thresholds=_seconds(0.05, 0.1, 0.2),
        drafts=Drafts.WITHOUT,
        cause=_STEPS,
        first=_INSPECT,
    ),
    Slo(
        name="time_per_output_token",
        alert="VllmInterTokenLatencySloBurn",
        what="requests take up to <<threshold>> per output token on average",
        objective=0.99,
        source=CountedFrom.HISTOGRAM,
        histogram="time_per_output_token_seconds",
        thresholds=_seconds(0.05, 0.1, 0.2),
        drafts=Drafts.WITH,
        cause=f"{_STEPS}; or fewer drafts are accepted",
        first=f"PromQL: {_query('recent_spec_decode_acceptance_ratio')} shows whether drafts are still accepted",
    ),
    Slo(
        name="request_duration",
        alert="VllmRequestDurationSloBurn",
        what="requests are finished within <<threshold>>",
        objective=0.99,
        source=CountedFrom.HISTOGRAM,
        histogram="request_seconds",
        thresholds=_seconds(30.0, 60.0, 240.0),
        enabled=False,  # it depends on the length of the answers, so no default threshold is right
        cause="longer answers, or a slower server",
        first=f"PromQL: {_query('recent_request_seconds')} shows which replicas are slow",
    ),
    Slo(
        name=AVAILABILITY,
        alert="VllmAvailabilitySloBurn",
        what="requests do not fail on the server's side",
        objective=0.999,
        source=CountedFrom.SIDECAR,
        cause="no replica answers, errors in the engine, HTTP 5xx of a front end whose engine is gone, or rejections "
        "by admission control",
        first=f"PromQL: {_query('up')} shows which replicas answer, {_query('recent_requests')} how requests end",
    ),
)

BOUND_MISSING = "VllmSloEdgeMissing"
"""The ticket for replicas that do not expose the counts of an objective."""
