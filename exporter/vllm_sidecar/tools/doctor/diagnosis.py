"""The status of a sidecar -> diagnoses as plain values: the seven steps of the runbook, and what is unknown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm_sidecar.tools.doctor.causes import COMPARE_DAYS, ONE_REQUEST, Symptom
from vllm_sidecar.tools.doctor.commands import Place
from vllm_sidecar.tools.doctor.consequences import related
from vllm_sidecar.tools.doctor.findings import BAD, WATCH, Finding, findings, gpu_findings
from vllm_sidecar.tools.doctor.past import Past, past_of
from vllm_sidecar.tools.doctor.readings import Readings, labels_of
from vllm_sidecar.tools.doctor.symptoms import symptoms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vllm_sidecar.tools.doctor.state_ages import Ages

COMPATIBILITY = ("tokenizer", "chat_template", "generation_config", "quantization", "dtype", "max_model_len")
"""Flags that decide whether model, prompts and answers fit each other."""
CAPACITY = (
    *("max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization", "kv_cache_dtype", "tensor_parallel_size"),
    *("pipeline_parallel_size", "data_parallel_size", "enable_prefix_caching", "speculative_config", "max_loras"),
)
"""Flags that decide how much a server can take."""


@dataclass(frozen=True)
class Source:
    """Where a status was taken from, and for how long the server was observed (None if unknown)."""

    name: str
    seconds: float | None
    notes: tuple[str, ...] = ()
    """Limits of the diagnosis."""
    ages: Ages = field(default_factory=dict)
    """For how long the states of targets and engines were seen; empty if unknown."""
    no_gpus: str = "they are not watched here"
    """Why a status from there may hold no GPUs."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """The addresses of targets, where they are known."""
    connections: Mapping[str, float] = field(default_factory=dict)
    """By target: how many more files than before it opened while no engine made progress; see `NewConnections`."""


@dataclass
class Diagnosis:
    """The diagnosis of one target."""

    source: Source
    target: str
    state: Mapping[str, str]
    identity: Mapping[str, object]
    findings: list[Finding]
    symptoms: Mapping[Symptom, str]
    shape: Mapping[str, float]
    """Mean tokens and rates."""
    past: Past
    """The shape of requests now and before."""
    unknown: list[str] = field(default_factory=list)

    @property
    def severity(self) -> str:
        """`bad`, `watch` or `fine`: the worst finding, or the state; `unknown` if it is seen to work on nothing."""
        found = {each.severity for each in self.findings} | {self.state["severity"]}
        worst = BAD if BAD in found else WATCH if WATCH in found else "fine"
        idle = self.state["name"] == "idle" and not self.new_connections
        works = not self.symptoms[Symptom.AVAILABILITY].startswith("unknown") or idle
        return worst if works or worst != "fine" else "unknown"

    @property
    def new_connections(self) -> float:
        """Files that were opened without any progress, if they are so many that clients may wait; otherwise 0."""
        return self.source.connections.get(self.target, 0.0)

    @property
    def headline(self) -> str:
        """The state, and its likely cause; after what is worse than it, or unknown, where there is such a thing."""
        text = self.state["text"]
        if self.severity == "unknown":
            return f"{self._unanswered} Now {text}"
        worst = next((each for each in self.findings if each.severity == self.severity), None)
        if worst is None or self.state["severity"] == self.severity:
            return text + self._reason
        return f"{worst.name.replace('_', ' ')}: {worst.evidence}. Now {text}"

    @property
    def _unanswered(self) -> str:
        if self.new_connections:
            return (
                f"{self.new_connections:.0f} more connections are open than before and none was answered: "
                "clients may wait, whatever the gauges show; send one short request."
            )
        return "nothing was seen to finish in this time."

    @property
    def _reason(self) -> str:
        """The finding that the state likely follows from; empty for none."""
        names = {each.follows for each in self.findings if self.state["text"].endswith(each.evidence)}
        cause = next((each for each in self.findings if each.name in names), None)
        return f"; likely because of {cause.name}: {cause.evidence}" if cause else ""

    def command(self, text: str) -> str:
        """Return a next command with the addresses and the model of this target, where they are known."""
        models = self.identity.get("models")
        model = models[0] if isinstance(models, list) else ""
        place = self.source.places.get(self.target) or self.source.places.get("") or Place()
        return place.filled(text, model)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "source": self.source.name,
            "observed_seconds": self.source.seconds,
            "target": self.target or None,
            "severity": self.severity,
            "state": dict(self.state),
            "identity": dict(self.identity),
            "symptoms": {str(symptom): answer for symptom, answer in self.symptoms.items()},
            "shape": dict(self.shape),
            "past": self.past.as_json(),
            "findings": [
                {
                    "finding": each.name,
                    "severity": each.severity,
                    "subject": each.subject or None,
                    "symptom": str(each.meaning.symptom),
                    "evidence": each.evidence,
                    "since_seconds": each.since,
                    "follows_from": each.follows or None,
                    "likely_cause": each.cause or None,
                    "next": self.command(each.meaning.next) or None,
                    "look_for": self.command(each.meaning.look) or None,
                    "flag": each.flag or None,
                    "runbook": each.meaning.alert or None,
                }
                for each in self.findings
            ],
            "unknown": self.unknown,
        }


def diagnose(status: Mapping[str, Any], source: Source) -> list[Diagnosis]:
    """Diagnose every target of a status."""
    gpus = status.get("gpus")
    targets = status.get("targets") or []
    return [_diagnosis(target, gpus if len(targets) == 1 else None, source) for target in targets]


def _diagnosis(target: Mapping[str, Any], gpus: Mapping[str, Any] | None, source: Source) -> Diagnosis:
    readings = Readings(dict(target))
    name = target.get("target") or ""
    found = findings(readings, {labels: age for (owner, labels), age in source.ages.items() if owner == name})
    if gpus and gpus.get("up"):
        found += gpu_findings(Readings(dict(gpus)))
    found = related(found)
    identity = target.get("identity") or {}
    past = past_of(target)
    one = Diagnosis(
        source,
        name,
        _state(target),
        _identity(identity),
        found,
        symptoms(readings, found),
        dict(_shape(readings)),
        past,
        [*source.notes, *_unknown(target, identity, gpus, past, source)],
    )
    if one.severity == "unknown":
        one.unknown.insert(0, f"whether requests are answered: {one.command(ONE_REQUEST)}")
    return one


def _state(target: Mapping[str, Any]) -> dict[str, str]:
    """Return the state; of several engines, with the one that has it, or with what all of them do."""
    state, engines = dict(target["state"]), target.get("engines") or ()
    found = next((each for each in engines if each["state"] == state), None)
    if found is None or len(engines) < 2:
        return state
    if state["severity"] != "fine":
        number = labels_of(found["labels"]).get("engine", "")
        return state | {"text": f"engine {number} of {len(engines)}: {state['text']}"}
    counts = Counter(each["state"]["name"].replace("_", " ") for each in engines)
    words = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return state | {"text": f"{len(engines)} engines: {words}"}


def _identity(identity: Mapping[str, Any]) -> dict[str, object]:
    flags = identity.get("flags") or {}
    models = identity.get("models") or []
    known: dict[str, object] = {
        "version": identity.get("version"),
        "fingerprint": identity.get("fingerprint"),
        "models": [each["id"] for each in models if not each.get("parent")],
        "adapters": {each["id"]: each["parent"] for each in models if each.get("parent")},
        **{name: flags.get(name) for name in (*COMPATIBILITY, *CAPACITY)},
        "config_changes_seen": identity.get("changes"),
    }
    found = {name: value for name, value in known.items() if value not in (None, [], {})}
    return {} if found == {"config_changes_seen": 0} else found


def _shape(readings: Readings) -> Iterator[tuple[str, float]]:
    for name, value in (
        ("prompt_tokens_mean_since_start", readings.mean("request_prompt_tokens")),
        ("generation_tokens_mean_since_start", readings.mean("request_generation_tokens")),
        ("finished_requests_per_second", readings.value("recent_requests_per_second")),
        ("prompt_tokens_per_second", readings.value("recent_prompt_tokens_per_second")),
        ("generation_tokens_per_second", readings.value("recent_generation_tokens_per_second")),
        ("requests_running", readings.value("requests_running")),
        ("requests_waiting", readings.value("requests_waiting")),
        ("kv_cache_usage_ratio", readings.largest("kv_cache_usage_ratio")),
        ("cache_hit_ratio", _hits(readings)),
    ):
        if value is not None:
            yield name, value


def _hits(readings: Readings) -> float | None:
    """Return the local cache hits of all engines together, as a share of their prompt tokens; None if unknown."""
    ratios = [
        (value, readings.value("recent_prompt_tokens_per_second", engine=text) or 0.0)
        for text in (str(each["labels"]) for each in readings.target.get("engines") or ())
        if (value := readings.value("recent_cache_hit_ratio", engine=text, cache="local")) is not None
    ]
    tokens = sum(weight for _, weight in ratios)
    return sum(value * weight for value, weight in ratios) / tokens if tokens else None


def _unknown(
    target: Mapping[str, Any], identity: Mapping[str, Any], gpus: Mapping[str, Any] | None, past: Past, source: Source
) -> Iterator[str]:
    flags = identity.get("flags") or {}
    missing = [name for name in COMPATIBILITY if name not in flags]
    if missing:
        yield f"no source exposes {', '.join(missing)} (see /server_info, or vllm.args of the sidecar)"
    if not identity.get("version"):
        yield "the version of vLLM"
    if gpus is None:
        yield f"the GPUs: {source.no_gpus}"
    elif not gpus.get("up"):
        error = gpus.get("last_error") or {}
        reason, hint = error.get("reason"), error.get("hint", "")
        yield f"the GPUs: {reason}. {hint}" if reason else "the GPUs: not read yet"
    if target.get("missing"):
        yield f"signals that the server does not expose: {', '.join(target['missing'])}"
    if past.unknown:
        yield f"whether prompts, answers and rates differ from the past: {past.unknown}"
    yield f"whether they differ from other days: {COMPARE_DAYS}"
