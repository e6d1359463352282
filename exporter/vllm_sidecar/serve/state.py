"""The state of a target in words, from its snapshot: the headline of the status page."""

from __future__ import annotations

from collections import Counter
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_sidecar.catalog.alerts import standard
from vllm_sidecar.catalog.reasons import HINTS, NOT_ONE_ENGINE
from vllm_sidecar.series.progress import SETTLE_SECONDS
from vllm_sidecar.slices import at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping, Sequence

    from vllm_sidecar.config import Config
    from vllm_sidecar.exposition.metric_values import Value
    from vllm_sidecar.serve.snapshot import Snapshot

    Samples = Mapping[str, Sequence[tuple[str, Value]]]

NO_GPUS: Samples = {}

QUEUEING_SECONDS = 0.5
"""A live wait below this is the end of a step, not a queue."""
LONG_WAIT_SECONDS = standard("VllmQueueWaitHigh", "wait")
PRESSURE = standard("VllmKvCachePressure", "pressure")
PREEMPTIONS = standard("VllmKvCachePressure", "preemptions")
FAILING = standard("VllmErrorRatioHigh", "errors")
RESTARTS = standard("VllmCrashLoop", "restarts")
HELD = standard("VllmKvCacheHeld", "held")
"""The page uses the default thresholds of the alerts."""
LIMITS = {
    "batch": "the batch is full",
    "kv_cache": "the KV cache is full",
    "adapter": "all LoRA slots are taken",
    "transfer": "KV blocks or a grammar are not ready",
}
"""Why requests wait, in words."""


class Level(IntEnum):
    """How bad a state is; the worst of several is shown."""

    FINE = 0
    WATCH = 1
    BAD = 2


class State(NamedTuple):
    """A state: its name from a closed set, its severity, and a text for people."""

    name: str
    severity: Level
    text: str

    def as_json(self) -> dict[str, str]:
        """Return it as plain values."""
        return {"name": self.name, "severity": self.severity.name.lower(), "text": self.text}


def target_state(snapshot: Snapshot, gpus: Samples = NO_GPUS) -> State:
    """Return the state of a target: why it does not answer, or the worst state of its engines and requests.

    `gpus` are the series of its GPUs, if known.
    """
    return _state(snapshot, [state for _, state in at_once(_engine_states(snapshot, gpus))])


def _state(snapshot: Snapshot, engines: Sequence[State]) -> State:
    health = snapshot.health
    if health.reason in NOT_ONE_ENGINE:
        return State(health.reason.value, Level.BAD, HINTS[health.reason])
    if not health.up:
        if health.reason is None:
            return State("starting", Level.WATCH, "waiting for the first answer")
        return State("down", Level.BAD, f"down: {health.reason.value}. {HINTS[health.reason]}")
    states = [*engines]
    if snapshot.recent_restarts >= RESTARTS:
        states.append(State("restarting", Level.BAD, f"restarting: {snapshot.recent_restarts} times in 15 minutes"))
    errors = dict(snapshot.samples.get("recent_error_ratio", ())).values()
    worst = max((value for value in errors if isinstance(value, float)), default=0.0)
    if worst > FAILING:
        states.append(State("failing", Level.BAD, f"failing: {failures_text(worst)}"))
    if not states:
        return State("no_engines", Level.WATCH, "answers, but reports no engine yet")
    return max(states, key=lambda state: state.severity)


def without_targets(config: Config, sources: Sequence[Mapping[str, Any]] = ()) -> State | None:
    """Return why no server is watched, from the status of each source of discovery; None if that is not intended."""
    if config.headless:
        watched = "only its GPUs are watched" if config.gpu.enabled else "and its GPUs are not watched (gpu.devices)"
        words = f"a worker without an HTTP server (vllm.headless): nothing is polled, {watched}"
        return State("headless", Level.FINE, words)
    if config.discovery.is_used:
        return _no_servers(sources)
    return State("gpus_only", Level.FINE, "watching the GPUs of this node (gpu.only)") if config.gpu.only else None


def _no_servers(sources: Sequence[Mapping[str, Any]]) -> State:
    failing = next((source for source in sources if source["last_error"]), None)
    if failing is not None:
        error, place = failing["last_error"], failing["discovery"]
        words = f"no server is watched: the list {place} cannot be read ({error['reason']}). {error['hint']}"
        return State("no_servers", Level.BAD, words)
    unread = [source["discovery"] for source in sources if source["last_success"] is None]
    if unread:
        return State("no_servers", Level.WATCH, f"no server is watched: waiting for the list {unread[0]}")
    counts: Counter[str] = Counter()
    for source in sources:
        counts.update(source["targets"])
    others = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if others:
        return State("no_servers", Level.WATCH, f"no server is watched of those that are listed: {others}")
    return State("no_servers", Level.WATCH, "no server is listed by the sources of discovery")


def engine_states(snapshot: Snapshot, gpus: Samples = NO_GPUS) -> list[tuple[str, State]]:
    """Return the state of each engine, with the text of its labels."""
    return at_once(_engine_states(snapshot, gpus))


def _engine_states(snapshot: Snapshot, gpus: Samples) -> Generator[None, None, list[tuple[str, State]]]:
    running = snapshot.samples.get("requests_running", ()) if snapshot.readings else ()
    index = _Index(snapshot.samples, {text for text, _ in running})
    states: list[tuple[str, State]] = []
    for text, _ in running:
        yield
        states.append((text, _engine(_Engine(index, text, gpus))))
    return states


class _Index:
    """The series of each engine by signal: a search for each value would take the square of the number of engines."""

    def __init__(self, samples: Samples, engines: Collection[str]) -> None:
        self._samples = samples
        self._engines = frozenset(engines)
        self._found: dict[str, dict[str, list[tuple[str, Value]]]] = {}

    def of(self, name: str, engine: str) -> Sequence[tuple[str, Value]]:
        """Return the series of a signal of an engine, which is given as the text of its labels."""
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = {}
            for text, value in self._samples.get(name, ()):
                found.setdefault(self._engine_of(text), []).append((text, value))
        return found.get(engine, ())

    def _engine_of(self, text: str) -> str:
        """Return the labels of an engine that a series begins with; further labels follow a comma."""
        end = len(text)
        while end > 0 and text[:end] not in self._engines:
            end = text.rfind(",", 0, end)
        return text[: max(end, 0)]


class _Engine:
    """The values of one engine; a missing value counts as 0."""

    def __init__(self, index: _Index, text: str, gpus: Samples) -> None:
        self._index = index
        self._text = text
        self._gpus = gpus

    def get(self, name: str, absent: float = 0.0, **label: str) -> float:
        """Return a value, or the sum of those that differ in one more label; `label` selects one value of it."""
        own = self._text + "".join(f',{key}="{value}"' for key, value in label.items())
        series = self._index.of(name, self._text)
        found = [value for text, value in series if text == own or text.startswith(own + ",")]
        return sum(value for value in found if isinstance(value, float)) if found else absent

    def gpus(self) -> str:
        """Describe the load of the GPUs; empty if unknown."""
        busy = [v for _, v in self._gpus.get("gpu_utilization_ratio", ()) if isinstance(v, float)]
        watts = [v for _, v in self._gpus.get("gpu_power_watts", ()) if isinstance(v, float)]
        if not busy or not watts:
            return ""
        return f", GPU {sum(busy) / len(busy):.0%} at {sum(watts) / len(watts):.0f} W"


def _engine(engine: _Engine) -> State:
    for rule in _RULES:
        state = rule(engine)
        if state:
            return state
    running, load = engine.get("requests_running"), _load(engine)
    if not running and not load:
        return State("idle", Level.FINE, "idle: no requests")
    return State(
        "healthy", Level.FINE, "healthy: " + ", ".join([*([f"{running:.0f} running"] if running else []), *load])
    )


def _load(engine: _Engine) -> list[str]:
    """Describe the engine's throughput: generated tokens or, if it generates none, requests and prompt tokens."""
    generated = engine.get("recent_generation_tokens_per_second")
    if generated:
        return [f"{_rate(generated)} tokens/s"]
    rates = {
        "requests/s": engine.get("recent_requests_per_second"),
        "prompt tokens/s": engine.get("recent_prompt_tokens_per_second"),
    }
    return [f"{_rate(rate)} {unit}" for unit, rate in rates.items() if rate]


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10.0 else f"{rate:.2g}"


def _unhealthy(engine: _Engine) -> State | None:
    if engine.get("engine_healthy", 1.0):
        return None
    return State("unhealthy", Level.BAD, "unhealthy: vLLM reports that this engine failed")


def _stalled(engine: _Engine) -> State | None:
    if not engine.get("stalled"):
        return None
    age = seconds_text(engine.get("work_without_progress_seconds"))
    return State("stalled", Level.BAD, f"stalled for {age}: {_requests_text(engine)}{engine.gpus()}")


def _no_progress(engine: _Engine) -> State | None:
    """Return the state of requests without progress, but not yet for long enough, or not surely enough, for a stall."""
    seconds = engine.get("work_without_progress_seconds")
    if not seconds and engine.get("requests_running"):  # it is unknown whether their clients wait
        age = engine.get("progress_age_seconds")
        seconds = age if age >= SETTLE_SECONDS else 0.0
    if not seconds:
        return None
    words = f"no progress for {seconds_text(seconds)}: {_requests_text(engine)}{engine.gpus()}"
    return State("no_progress", Level.WATCH, words)


def failures_text(ratio: float) -> str:
    """Write which share of the requests fails, and in what ways."""
    return f"{ratio:.0%} of the requests fail: server errors, or no answer until their clients left"


def _requests_text(engine: _Engine) -> str:
    running, waiting = engine.get("requests_running"), engine.get("requests_waiting")
    if running or waiting:
        return f"running {running:.0f}, waiting {waiting:.0f}, no tokens"
    return "clients wait for answers, but the engine reports no requests"


def _clients_left(engine: _Engine) -> State | None:
    if not engine.get("clients_left"):
        return None
    frozen = engine.get("requests_running") + engine.get("requests_waiting")
    return State("idle", Level.FINE, f"idle: the clients left, the gauges are frozen at {frozen:.0f} requests")


def _asleep(engine: _Engine) -> State | None:
    if not engine.get("engine_sleeping"):
        return None
    waiting = engine.get("requests_waiting")
    if waiting:
        return State("asleep", Level.BAD, f"asleep while {waiting:.0f} requests wait")
    return State("asleep", Level.WATCH, "asleep")


def _gauges_stale(engine: _Engine) -> State | None:
    if not engine.get("gauges_stale"):
        return None
    running = engine.get("requests_running")
    return State("gauges_stale", Level.WATCH, f"gauges frozen at {running:.0f} running, and no progress")


def _kv_cache_held(engine: _Engine) -> State | None:
    held = engine.get("kv_cache_held_ratio")
    if held < HELD:
        return None
    return State("kv_cache_held", Level.WATCH, f"KV cache held: {held:.0%} used, but no request is running or waiting")


def _kv_cache_full(engine: _Engine) -> State | None:
    preempted = engine.get("recent_preemptions_per_request")
    if engine.get("kv_cache_pressure_ratio") <= PRESSURE or preempted <= PREEMPTIONS:
        return None
    usage, waiting = engine.get("recent_kv_cache_usage_peak_ratio"), engine.get("requests_waiting")
    words = f"KV cache full: up to {usage:.0%} used, {preempted:.1f} preemptions per request, {waiting:.0f} waiting"
    return State("kv_cache_full", Level.BAD, words)


def _queueing(engine: _Engine) -> State | None:
    waiting, wait = engine.get("requests_waiting"), engine.get("live_queue_wait_seconds")
    if not waiting or wait < QUEUEING_SECONDS:
        return None
    severity = Level.BAD if wait > LONG_WAIT_SECONDS else Level.WATCH
    running = engine.get("requests_running")
    limit = next((f": {words}" for limit, words in LIMITS.items() if engine.get("admission_limit", limit=limit)), "")
    runs = f", {running:.0f} running" if running and limit else ""
    if not running and engine.get("work_without_progress_seconds"):
        runs = ", none running"
    return State("queueing", severity, f"queueing: {waiting:.0f} waiting, {seconds_text(wait)}{runs}{limit}")


_RULES: tuple[Callable[[_Engine], State | None], ...] = (
    _unhealthy,
    _stalled,
    _asleep,
    _clients_left,
    _gauges_stale,
    _kv_cache_full,
    _queueing,
    _no_progress,
    _kv_cache_held,
)
"""The first rule that applies determines the state."""


def seconds_text(seconds: float) -> str:
    """Write a duration with as many digits as people read: `3.1 s`, `140 s`, `25 min`."""
    if seconds < 10.0:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600.0 else f"{seconds / 60.0:.0f} min"


def states_json(snapshot: Snapshot, gpus: Samples) -> Generator[None, None, dict[str, object]]:
    """Return the states of a target and its engines for the status, in steps."""
    states = yield from _engine_states(snapshot, gpus)
    engines = [{"labels": text, "state": state.as_json()} for text, state in states]
    return {"state": _state(snapshot, [state for _, state in states]).as_json(), "engines": engines}
