"""The status of a sidecar -> the servers of the screen, as plain values. States are those of the status."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_sidecar.tools.doctor.readings import Readings, labels_of
from vllm_sidecar.tools.top.families import Values, combined, read
from vllm_sidecar.tools.top.figures import Unit, figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SEVERITIES = ("fine", "watch", "bad")
"""From the best to the worst."""


class Place(NamedTuple):
    """Where a server is found again: its feed, and its target there."""

    feed: str
    target: str


class Condition(NamedTuple):
    """A state: its name from a closed set, its severity, and a sentence."""

    name: str
    severity: str
    text: str

    @property
    def words(self) -> str:
        """The name as words."""
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Engine:
    """One engine of a server."""

    labels: str
    """Text of its labels, which identifies it."""
    number: str
    model: str
    state: Condition
    values: Values

    @property
    def name(self) -> str:
        """Its number and its model."""
        return f"{self.number} {self.model}".strip()


class Gpu(NamedTuple):
    """One GPU of the node."""

    number: str
    utilization: float | None
    memory_used: float | None
    memory_total: float | None
    watts: float | None
    celsius: float | None
    trouble: str
    """Lost, or why it is throttled; empty otherwise."""


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a node."""

    devices: tuple[Gpu, ...] = ()
    unknown: str = ""
    """Why they are not known."""


class Adapter(NamedTuple):
    """One LoRA adapter that requests use now, and whether they run or wait."""

    name: str
    use: str


@dataclass(frozen=True)
class Server:
    """One row of the fleet."""

    place: Place
    name: str
    state: Condition
    values: Values
    engines: tuple[Engine, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    slots: str = ""
    """LoRA slots in use; empty if unknown."""
    facts: tuple[str, ...] = ()
    """Version, model and restarts."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """More about a value, by the key of its family."""
    missing: tuple[str, ...] = ()
    """Signals that the server does not expose."""
    gpus: Gpus | None = None
    """None where they are not watched, or belong to several servers."""


@dataclass(frozen=True)
class Report:
    """The servers of one feed at one time."""

    servers: tuple[Server, ...]
    gpus: Gpus | None = None
    """The GPUs of the node."""


def unreachable(feed: str, problem: str) -> Report:
    """Return the report of a sidecar that does not answer."""
    state = Condition("no_answer", "bad", f"no answer of the sidecar: {problem}")
    return Report((Server(Place(feed, ""), feed, state, combined(())),))


def report(feed: str, status: Mapping[str, Any]) -> Report:
    """Return the servers of a status."""
    targets: Sequence[Mapping[str, Any]] = status.get("targets") or ()
    gpus = _gpus(status.get("gpus"))
    if not targets:
        found = status.get("state") or {"name": "no_servers", "severity": "watch", "text": "it watches no server"}
        return Report((Server(Place(feed, ""), feed, _condition(found), combined(()), gpus=gpus),), gpus)
    own = gpus if len(targets) == 1 else None
    return Report(tuple(_server(feed, target, own) for target in targets), gpus)


def _server(feed: str, target: Mapping[str, Any], gpus: Gpus | None) -> Server:
    readings = Readings(dict(target))
    engines = tuple(sorted(_engines(readings), key=_place))
    name = target.get("target") or ""
    slots, used = readings.value("lora_slots"), readings.value("lora_slots_used")
    return Server(
        place=Place(feed, name),
        name=name or feed,
        state=_of_engines(_condition(target["state"]), engines),
        values=combined([engine.values for engine in engines]),
        engines=engines,
        adapters=tuple(_adapters(readings)),
        slots=f"{used or 0.0:.0f} of {slots:.0f} slots in use" if slots else "",
        facts=tuple(_facts(target, readings, engines)),
        notes=dict(_notes(readings, target)),
        missing=tuple(target.get("missing") or ()),
        gpus=gpus,
    )


def _condition(state: Mapping[str, str]) -> Condition:
    return Condition(state["name"], state["severity"], state["text"])


def _of_engines(state: Condition, engines: Sequence[Engine]) -> Condition:
    """Return the state of a server with several engines: the engine that has it, or what all of them do."""
    found = next((engine for engine in engines if engine.state == state), None)
    if found is None or len(engines) < 2:
        return state
    if state.severity != "fine":
        return state._replace(text=f"engine {found.number} of {len(engines)}: {state.text}")
    counts = Counter(engine.state.words for engine in engines)
    words = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return state._replace(text=f"{len(engines)} engines: {words}")


def _engines(readings: Readings) -> Iterator[Engine]:
    for each in readings.target.get("engines") or ():
        labels = labels_of(each["labels"])
        yield Engine(
            each["labels"],
            labels.get("engine", ""),
            labels.get("model_name", ""),
            _condition(each["state"]),
            read(readings, each["labels"]),
        )


def _place(engine: Engine) -> tuple[str, int, str]:
    """Order engines by their numbers, those with a name behind them."""
    number = int(engine.number) if engine.number.isdecimal() else sys.maxsize
    return engine.model, number, engine.number


def _adapters(readings: Readings) -> Iterator[Adapter]:
    for labels, value in readings.series("lora_adapter_active"):
        if value:
            yield Adapter(labels.get("lora_adapter", ""), labels.get("state", ""))


def _facts(target: Mapping[str, Any], readings: Readings, engines: Sequence[Engine]) -> Iterator[str]:
    identity = target.get("identity") or {}
    if identity.get("version"):
        yield f"vLLM {identity['version']}"
    served = [each["id"] for each in identity.get("models") or () if not each.get("parent")]
    yield from dict.fromkeys(served or [engine.model for engine in engines if engine.model])
    restarts = readings.value("server_restarts_total")
    if restarts:
        yield f"{restarts:.0f} restart{'s' if restarts > 1 else ''} seen"
    interval = target.get("interval_seconds") or 1.0
    if interval > 1.5:
        yield f"polled every {interval:.0f} s"


def _notes(readings: Readings, target: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    flags = (target.get("identity") or {}).get("flags") or {}
    for key, signal in (
        ("queue", "recent_request_queue_seconds"),
        ("ttft", "recent_time_to_first_token_seconds"),
        ("itl", "recent_inter_token_latency_seconds"),
    ):
        medians = [readings.quantile(signal, each["labels"], "0.5") for each in target.get("engines") or ()]
        known = [median for median in medians if median is not None]
        if known:
            yield key, f"p50 {figure(max(known), Unit.SECONDS)}"
    for key, signal, unit in (
        ("kv", "recent_kv_cache_usage_peak_ratio", Unit.RATIO),
        ("running", "recent_requests_running_peak", Unit.COUNT),
        ("waiting", "recent_requests_waiting_peak", Unit.COUNT),
    ):
        peak = readings.largest(signal)
        if peak is not None:
            yield key, f"peak {figure(peak, unit)}{_more(key, readings, flags)}"
    requests = readings.value("recent_requests_per_second")
    if requests is not None:
        yield "prompt", f"{figure(requests, Unit.RATE)} requests/s"


def _more(key: str, readings: Readings, flags: Mapping[str, object]) -> str:
    if key == "running" and isinstance(limit := flags.get("max_num_seqs"), int):
        return f", at most {limit}"
    if key == "kv" and (free := readings.value("kv_cache_free_tokens")) is not None:
        return f", {figure(free, Unit.RATE)} tokens free"
    wait = readings.largest("live_queue_wait_seconds")
    return f", waiting for {figure(wait, Unit.SECONDS)}" if key == "waiting" and wait else ""


def _gpus(status: Mapping[str, Any] | None) -> Gpus | None:
    if not status:
        return None
    if not status.get("up"):
        error = status.get("last_error") or {}
        return Gpus(unknown=error.get("reason", "not read yet"))
    readings = Readings(dict(status))
    found = {labels["uuid"]: labels["gpu"] for labels, _ in readings.series("gpu_lost")}
    return Gpus(tuple(_gpu(readings, uuid, index) for uuid, index in found.items()))


def _gpu(readings: Readings, uuid: str, index: str) -> Gpu:
    def value(signal: str) -> float | None:
        return readings.largest(signal, uuid=uuid)

    throttled = [
        labels["reason"] for labels, on in readings.series("gpu_throttled") if on and labels.get("uuid") == uuid
    ]
    trouble = "lost" if value("gpu_lost") else ", ".join(each for each in throttled if each != "idle")
    return Gpu(
        index,
        value("gpu_utilization_ratio"),
        value("gpu_memory_used_bytes"),
        value("gpu_memory_total_bytes"),
        value("gpu_power_watts"),
        value("gpu_temperature_celsius"),
        trouble.replace("_", " "),
    )
