"""Alerts of the canary: users cannot reach a model, or get wrong answers with status 200."""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import (
    MODEL,
    OF_MODEL,
    PEER,
    PODS,
    STATUS,
    Alert,
    Severity,
    number,
    ratio,
)
from vllm_sidecar.catalog.canary import CHANGED_OUTPUT

_CHANGED = "|".join(CHANGED_OUTPUT)
_DOWN = 'unless on (<<T>>) (~up{source="vllm"} == 0)'


def _share(signal: str, repeats: str) -> str:
    """Return the share of a model's replicas on which a prompt has so many bad results in a row."""
    bad = f"count by (<<F>>) (count by (<<M>>) (~{signal} >= {repeats} {_DOWN}))"
    return f"{bad} / (count by (<<F>>) (count by (<<M>>) (~{signal})) > 0)"


CANARY_PAGES: tuple[Alert, ...] = (
    Alert(
        name="VllmCanaryFailing",
        severity=Severity.PAGE,
        hold="30s",
        expr=f"{_share('canary_consecutive_failures', '<<repeats>>')} > <<replicas>>",
        thresholds=(
            number("repeats", 3, "Requests of the canary in a row without a complete answer."),
            ratio(
                "replicas", 0.3, "Share of a model's replicas; one of one exceeds the default, one of four does not."
            ),
        ),
        summary=f"short requests to {MODEL} are not answered, although its servers answer polls",
        description="On {{ $value | humanizePercentage }} of its replicas <<repeats>> or more requests of the canary "
        "in a row had no complete answer: [[list: topk(5, max by (<<T>>) (~canary_consecutive_failures) >= 1)]]. Users "
        "get the same.",
        cause="the way to the server (name, network, certificate, gateway, API key), or an engine that hangs or is "
        "full: the "
        "reason and the phases show which",
        first=f"PromQL: sum by (reason) (increase(vllm_sidecar_canary_failures_total{{{OF_MODEL}}}[15m])) > 0",
        dashboard="vllm-incident",
    ),
    Alert(
        name="VllmCanaryOutputWrong",
        severity=Severity.PAGE,
        hold="30s",
        expr=f"{_share('canary_consecutive_wrong_outputs', '<<repeats>>')} > <<replicas>>",
        thresholds=(
            number("repeats", 3, "Wrong answers to the canary in a row."),
            ratio("replicas", 0.0, "Share of a model's replicas that is accepted: none, as users get wrong text."),
        ),
        summary=f"{MODEL} answers a known prompt wrongly",
        description="On {{ $value | humanizePercentage }} of its replicas <<repeats>> or more answers in a row are "
        "unexpected, empty, endless, garbage or contain control tokens: "
        "[[list: topk(5, max by (<<T>>) (~canary_consecutive_wrong_outputs) >= 1)]]. Users get wrong text with status "
        "200.",
        cause="chat template, tokenizer, generation config or adapter of a release; if it is one replica, "
        "damaged weights or a GPU with errors",
        first=f"PromQL: vllm_sidecar_canary_output_state{{{OF_MODEL}}} == 1; then {PODS}",
        dashboard="vllm-incident",
    ),
)
CANARY_TICKETS: tuple[Alert, ...] = (
    Alert(
        name="VllmCanaryOutputChanged",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            f'sum by (<<M>>) (~canary_output_state{{state=~"{_CHANGED}"}}) > <<changed>> '
            "or sum by (<<M>>) (increase(~canary_baseline_changes_total[1h])) > <<changed>>"
        ),
        thresholds=(number("changed", 0, "Prompts whose answer may differ from their baseline."),),
        summary=f"{PEER} answers a known prompt in another way than before",
        description="{{ $value | humanize }} prompts have another answer, or other token ids, than in their baseline: "
        "without a change of version, models or flags, or with one of the last hour.",
        cause="a release with another template, tokenizer, generation config, quantization or weights; if no release "
        "was made, weights or an adapter that were replaced in place",
        first=STATUS + ": canary lists hash and baseline of each prompt",
        dashboard="vllm-incident",
    ),
)
