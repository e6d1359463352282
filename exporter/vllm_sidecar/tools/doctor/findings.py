"""States and signals of one target -> findings, each with its evidence; no thresholds but those of the alerts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.alerts import ALERTS, Profile, standard
from vllm_sidecar.catalog.canary import CHANGED_OUTPUT, WRONG_OUTPUT
from vllm_sidecar.catalog.objectives import SLOS
from vllm_sidecar.serve.state import LIMITS, failures_text, seconds_text
from vllm_sidecar.tools.doctor.causes import MEANINGS, Meaning
from vllm_sidecar.tools.doctor.past import HITS, past_of
from vllm_sidecar.tools.doctor.readings import Readings, labels_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BAD, WATCH = "bad", "watch"
LEAST_REQUESTS = 10
"""Fewest requests of the window from which a share is taken."""
_CAUSES = {each.name: each.cause for each in ALERTS} | {each.alert: each.cause for each in SLOS}
_LIMIT_OF = {slo.name: slo.thresholds[Profile.STANDARD] for slo in SLOS if slo.thresholds}
_TTFT, _ITL = "recent_time_to_first_token_seconds", "recent_inter_token_latency_seconds"
_OBJECTIVES = {_TTFT: _LIMIT_OF["time_to_first_token"], _ITL: _LIMIT_OF["inter_token_latency"]}
_PARTS = "recent_time_to_first_token_share_ratio"
_MOST_OF_IT = 0.5
"""Share of the time to the first token from which a part of it is the reason."""
QUEUED = "requests waited in the queue"
OUTSIDE = "requests wait in the front end, before or after the engine: tokenizing, images, or a busy CPU"
_REASONS = {
    "queue": QUEUED,
    "prefill": "long prompts that are not cached, or slower steps",
    "other": OUTSIDE,
}
"""By the part that is most of the time to the first token."""
_FINE = ("healthy", "idle", "starting", "no_engines")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or may be."""

    name: str
    severity: str
    evidence: str
    subject: str = ""
    """The engine; empty for the server."""
    since: float | None = None
    """Seconds for which it was seen; None if unknown."""
    hint: str = ""
    """Instead of the usual cause, where the server itself reports one."""
    follows: str = ""
    """The finding that it likely follows from; empty for none."""
    flag: str = ""
    """The flag to turn, in which direction, and what that costs; empty for none, as of a consequence."""

    @property
    def meaning(self) -> Meaning:
        """Its symptom, the next command and its usual flag."""
        return MEANINGS[self.name]

    @property
    def cause(self) -> str:
        """The likeliest cause."""
        return self.hint or self.meaning.cause or _CAUSES.get(self.meaning.alert, "")

    @property
    def shows(self) -> bool:
        """Whether its symptom is seen, and not only to be feared."""
        return self.meaning.shows or self.severity == BAD


def findings(target: Readings, ages: Mapping[str, float]) -> list[Finding]:
    """Return what is wrong; `ages` are the seconds of states by the labels of engines."""
    found = [*_states(target, ages), *_of_server(target), *_of_past(target), *_of_canary(target)]
    for text in _engines(target):
        found += _of_engine(target, text)
    return found


def _engines(target: Readings) -> list[str]:
    return [str(each["labels"]) for each in target.target.get("engines") or ()]


def _states(target: Readings, ages: Mapping[str, float]) -> Iterator[Finding]:
    state = target.target["state"]
    error = target.target.get("last_error") or {}
    if state["name"] in MEANINGS and not _engines(target):
        detail = f" ({error['detail']})" if error.get("detail") else ""
        yield Finding(state["name"], state["severity"], state["text"] + detail, "", ages.get(""), error.get("hint", ""))
    elif state["name"] == "failing":
        yield Finding("failing", state["severity"], state["text"])
    for engine in target.target.get("engines") or ():
        own = engine["state"]
        if own["name"] not in _FINE and own["severity"] != "fine":
            name = _named(own["name"], target, engine["labels"])
            since = target.value("work_without_progress_seconds", engine["labels"]) or ages.get(engine["labels"])
            yield Finding(name, own["severity"], own["text"], _subject(engine["labels"]), since)


def _named(state: str, target: Readings, engine: str) -> str:
    if state == "queueing":
        limit = next((each for each in LIMITS if target.value("admission_limit", engine, limit=each)), "")
        return f"queueing:{limit}" if limit else state
    return state


def _of_server(target: Readings) -> Iterator[Finding]:
    ratio = target.largest("recent_error_ratio")
    if ratio is not None and ratio > standard("VllmErrorRatioHigh", "errors") and not _is_failing(target):
        yield Finding("failing", BAD, failures_text(ratio))
    yield from _rejections(target)
    restarts = (target.target.get("process") or {}).get("recent_restarts") or 0
    if restarts:
        severity = BAD if restarts >= standard("VllmCrashLoop", "restarts") else WATCH
        yield Finding("restarting", severity, f"restarts in the last 15 minutes: {restarts}")
    uneven = target.largest("recent_data_parallel_imbalance_ratio", load="generation_tokens")
    running = target.value("requests_running") or 0.0
    engines = len(_engines(target))
    if (uneven or 0.0) > standard("VllmDataParallelImbalance", "imbalance") and running >= engines * standard(
        "VllmDataParallelImbalance", "running"
    ):
        yield Finding("engines_uneven", WATCH, f"imbalance of generated tokens {uneven:.0%} over {engines} engines")
    yield from _corrupted(target)
    if target.largest("gpu_starved"):
        yield Finding("gpu_starved", WATCH, "requests wait while every GPU is idle")


def _rejections(target: Readings) -> Iterator[Finding]:
    rejected = target.value("recent_requests_rejected") or 0.0
    share = rejected / max(1.0, rejected + (target.value("recent_requests") or 0.0))
    if rejected >= LEAST_REQUESTS and share > standard("VllmRejectionRatioHigh", "rejected"):
        yield Finding("rejecting", BAD, f"admission control refuses {share:.0%} of the requests")


def _corrupted(target: Readings) -> Iterator[Finding]:
    """Find requests with NaN in their logits: now, or at some time since the server started."""
    periods = target.target.get("request_totals") or {}
    recent, before = ((periods.get(name) or {}).get("corrupted") or 0.0 for name in ("recent", "before"))
    if recent:
        yield Finding("corrupted", BAD, f"vLLM counts NaN in the logits of {recent:.0f} requests of the last minute")
    elif before:
        yield Finding("corrupted", WATCH, f"vLLM counted NaN in the logits of {before:.0f} requests since its start")


def _of_past(target: Readings) -> Iterator[Finding]:
    """Find prefix-cache hits of the last minute that are far fewer than before."""
    alert = "VllmPrefixHitRatioDropped"
    requests = ((target.target.get("request_totals") or {}).get("recent") or {}).get("requests") or 0.0
    hits = next((row for row in past_of(target.target).rows if row.name == HITS), None)
    if hits is None or requests < standard(alert, "least_requests") or hits.before <= standard(alert, "worth"):
        return
    if hits.now < standard(alert, "share") * hits.before:
        evidence = f"{hits.now:.0%} of the prompt tokens of the last minute were found in the cache, {hits.before:.0%} "
        yield Finding("prefix_hits_dropped", WATCH, f"{evidence}of those before")


def _of_canary(target: Readings) -> Iterator[Finding]:
    """Find prompts of the sidecar's canary that have no answer, a wrong one, or another one than before."""
    for one in target.target.get("canary") or ():
        subject, output = f"prompt {one['prompt']} of {one['model']}", one["output"]
        if one["reason"]:
            yield Finding("canary_failing", WATCH, f"no answer: {one['detail']}", subject, hint=one["hint"])
        elif output in WRONG_OUTPUT:
            yield Finding("canary_wrong", BAD, f"the answer is {output}", subject, hint=one["hint"])
        elif output in CHANGED_OUTPUT:
            evidence = f"{output}: hash {one['hash']}, baseline {one['baseline']}"
            yield Finding("canary_changed", WATCH, evidence, subject, hint=one["hint"])


def _is_failing(target: Readings) -> bool:
    return bool(target.target["state"]["name"] == "failing")


def _of_engine(target: Readings, engine: str) -> Iterator[Finding]:
    subject = _subject(engine)
    first, step = _too_slow(target, engine, _TTFT), _too_slow(target, engine, _ITL)
    if first:
        parts, hint = _parts_of_first_token(target, engine)
        yield Finding("slow_first_token", WATCH, first + parts, subject, hint=hint)
    if step:
        yield Finding("slow_decode", WATCH, step, subject)
    drafted = target.value("recent_spec_decode_accepted_length_tokens", engine)
    if drafted is not None and drafted < standard("VllmSpecDecodeAcceptanceLow", "gain"):
        yield Finding("drafts_rejected", WATCH, f"a step yields {drafted:.2f} tokens, without drafts 1", subject)
    requests = target.value("recent_requests", engine) or 0.0
    aborted = target.value("recent_requests", engine, outcome="aborted") or 0.0
    if requests >= LEAST_REQUESTS and aborted / requests > standard("VllmAbortRatioHigh", "aborted"):
        yield Finding("aborting", WATCH, f"clients abort {aborted / requests:.0%} of their requests", subject)


def _too_slow(target: Readings, engine: str, signal: str) -> str:
    """Return the evidence that the p95 of a latency is above its objective; empty if it is not, or unknown."""
    value, limit = target.quantile(signal, engine, "0.95"), _OBJECTIVES[signal]
    if value is None or value <= limit:
        return ""
    return f"p95 of the last minute is {_latency(value)}, the objective is {_latency(limit)}"


def _parts_of_first_token(target: Readings, engine: str) -> tuple[str, str]:
    """Return which part of the time to the first token is the longest, and its cause; empty if no request ended."""
    shares = {part: target.value(_PARTS, engine, part=part) or 0.0 for part in _REASONS}
    part, share = max(shares.items(), key=lambda each: each[1])
    return (f"; {share:.0%} of it is {part}", _REASONS[part]) if share >= _MOST_OF_IT else ("", "")


def _latency(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1.0 else seconds_text(seconds)


def gpu_findings(gpus: Readings) -> Iterator[Finding]:
    """Return what is wrong with the GPUs of the node."""
    if gpus.largest("gpu_lost"):
        yield Finding("gpu_lost", BAD, "a GPU is lost")
    for reason in ("hw_slowdown", "hw_thermal", "hw_power_brake", "sw_thermal"):
        if gpus.largest("gpu_throttled", reason=reason):
            yield Finding("gpu_throttled", WATCH, f"a GPU is throttled: {reason}")


def _subject(engine: str) -> str:
    labels = labels_of(engine)
    return f"{labels.get('model_name', '')} engine {labels.get('engine', '')}".strip()
