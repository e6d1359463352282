"""Findings and readings -> an answer for each symptom: `yes`, `no`, or `unknown` with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.tools.doctor.causes import Symptom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.tools.doctor.findings import Finding
    from vllm_sidecar.tools.doctor.readings import Readings

_TTFT, _ITL = "recent_time_to_first_token_seconds", "recent_inter_token_latency_seconds"
_RATES = ("recent_generation_tokens_per_second", "recent_prompt_tokens_per_second", "recent_requests_per_second")


def symptoms(target: Readings, found: Sequence[Finding]) -> dict[Symptom, str]:
    """Return for each symptom `yes`, `no`, or `unknown` with the reason; and the findings that may cause it."""
    return {symptom: _answer(symptom, target, found) for symptom in Symptom}


def _answer(symptom: Symptom, target: Readings, found: Sequence[Finding]) -> str:
    about = [each for each in found if each.meaning.symptom is symptom]
    if any(each.shows for each in about):
        return "yes"
    why = _unknown(symptom, target)
    answer = f"unknown: {why}" if why else "no"
    names = ", ".join(dict.fromkeys(each.name for each in about))
    return f"{answer}, but see {names}" if names else answer


def _unknown(symptom: Symptom, target: Readings) -> str:
    """Return why the absence of a symptom is not known; empty if it is."""
    if symptom is Symptom.OUTPUT:
        if any(one["output"] for one in target.target.get("canary") or ()):
            return ""
        return "answers are not read; only NaN is counted, by servers with VLLM_COMPUTE_NANS_IN_LOGITS"
    if not target.target.get("up"):
        return "" if symptom in (Symptom.AVAILABILITY, Symptom.MONITORING) else "there are no metrics"
    known, why = {
        Symptom.AVAILABILITY: (_makes_progress(target), "no token or request was seen to finish"),
        Symptom.ERRORS: (target.has("recent_error_ratio"), "no request was seen to end, or the server counts none"),
        Symptom.TTFT: (target.has_quantiles(_TTFT), "fewer than 5 first tokens in the last minute"),
        Symptom.ITL: (target.has_quantiles(_ITL), "too few tokens in the last minute"),
        Symptom.MEMORY: (target.has("kv_cache_usage_ratio"), "the server does not expose its KV-cache usage"),
    }.get(symptom, (True, ""))
    return "" if known else why


def _makes_progress(target: Readings) -> bool:
    return any(target.value(rate) for rate in _RATES)
