"""What a request log says each derived signal should be: one function for each, from a view of the log."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from exactly import exact

from truth.log import COUNTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from truth.view import View

Key = frozenset[tuple[str, str]]
"""The labels of a series but the model."""
Values = dict[Key, float]
QUANTILES = (0.5, 0.9, 0.95, 0.99)
FEWEST = 5
"""Observations below which the sidecar exports no quantile."""
FEWEST_SHARED = 20
"""Finished requests from which their mean times are compared with those of the first tokens before."""
STALL_AFTER = 120.0
EDGE = 15.0
"""Seconds around a change of an engine's state in which it may be seen late."""


@dataclass(frozen=True)
class Truth:
    """What is true, and the largest and the mean error that are allowed."""

    of: Callable[[View], Values]
    most: float = 1e-9
    mean: float = inf
    floor: float = 0.0
    """An error is relative to the truth, or to this where the truth is smaller; 0 for an error in the signal's unit."""
    sometimes: bool = False
    """The log decides only for some of the series or moments."""


def key(engine: int | None = None, **labels: str) -> Key:
    own = {} if engine is None else {"engine": str(engine)}
    return frozenset({**own, **labels}.items())


def each(value: Callable[[View, int], float | None]) -> Callable[[View], Values]:
    """Make a truth of one that is of a single engine."""

    def of(view: View) -> Values:
        found = ((engine, value(view, engine)) for engine in view.spans)
        return {key(engine): each_value for engine, each_value in found if each_value is not None}

    return of


def several(values: Callable[[View, int], Mapping[str, float]], label: str) -> Callable[[View], Values]:
    def of(view: View) -> Values:
        return {key(engine, **{label: name}): value
                for engine in view.spans for name, value in values(view, engine).items()}  # fmt: skip

    return of


HISTOGRAMS = {
    "queue": "queue",
    "time_to_first_token": "first_token",
    "inter_token_latency": "inter_token",
    "time_per_output_token": "per_output_token",
    "request": "request",
    "prefill": "prefill",
    "decode": "decode",
}
"""Value of the label `latency` -> name in the log."""


def quantiles(name: str) -> Callable[[View], Values]:
    """Exact quantiles of the window's values."""

    def of(view: View) -> Values:
        found: Values = {}
        for engine in view.spans:
            values = view.values(engine, name)
            if len(values) >= FEWEST:
                found |= {key(engine, quantile=str(q)): exact(values, q) for q in QUANTILES}
        return found

    return of


FIRST_BOUNDS = {latency: 0.01 if "token" in latency else 0.3 for latency in HISTOGRAMS}
"""About the first bucket bound of each: smaller values differ by what no histogram shows."""


def counted(name: str) -> Callable[[View], Values]:
    """Observations since the counters began at 0."""
    return each(lambda view, engine: float(len(view.ever(engine, name))))


def observations(view: View, engine: int) -> dict[str, float]:
    return {latency: len(view.values(engine, name)) for latency, name in HISTOGRAMS.items()}


def bounds(view: View) -> Values:
    """The true p95: the sidecar's bounds are compared with it as a pair (see `truth.play`)."""
    return {
        key(engine, latency=latency): exact(values, 0.95)
        for engine in view.spans
        for latency, name in HISTOGRAMS.items()
        if len(values := view.values(engine, name)) >= FEWEST
    }


def first_token_shares(view: View, engine: int) -> dict[str, float]:
    """Mean parts of the time to the first token of the requests that finished in the window."""
    since, until = view.spans[engine]
    rows = [row for row in view.log.rows
            if row.engine == engine and row.outcome in COUNTED and since < row.ended <= until]  # fmt: skip
    whole = sum(row.outputs[0][0] - row.arrival for row in rows)
    if len(rows) < FEWEST_SHARED:
        return {}
    queue = sum(row.scheduled - row.queued for row in rows)
    prefill = sum(row.outputs[0][0] - row.scheduled for row in rows)
    return {"queue": queue / whole, "prefill": prefill / whole, "other": (whole - queue - prefill) / whole}


def live_wait(view: View, engine: int) -> float | None:
    """What the next request really waited, where some wait now and the server does not change meanwhile."""
    step, wait = view.step(engine), view.next_wait(engine)
    start, name, end = view.log.phase(view.at)
    settled = view.at - start > 60.0 and wait is not None and view.at + wait < end and name not in UNWELL
    if step is None or wait is None or not settled or step.deferred:  # the next one may need another adapter
        return None
    return wait if step.waiting else 0.0


UNWELL = ("stall", "stale-gauges", "sleep", "crash-loop")


def limit(view: View, engine: int) -> dict[str, float]:
    """What kept requests out in each of the steps of the last seconds, where that was the same in all of them."""
    steps = [step for step in view.log.steps[engine] if view.at - 5.0 < step.at <= view.at]
    last = view.step(engine)
    limits = {step.limit for step in steps if step.waiting}
    if last is None or not last.waiting or len(limits) != 1 or "" in limits or view.spans[engine].seconds < 20.0:
        return {}
    found = limits.pop()
    return {each: float(each == found) for each in ("batch", "kv_cache", "adapter")}


def capacity(view: View) -> float:
    settings = view.log.settings
    return settings.num_gpu_blocks * settings.block_size


def free_tokens(view: View, engine: int) -> float:
    step = view.step(engine)
    return capacity(view) * (1.0 - (step.usage if step else 0.0))


def time_to_full(view: View, engine: int) -> float | None:
    """What a straight line through usage at both ends of the window says: a forecast has no other truth."""
    span = view.spans[engine]
    first, last = view.log.step(engine, span.since), view.step(engine)
    if last is None or span.seconds < 59.0:
        return None
    growth = (last.usage - (first.usage if first else 0.0)) / span.seconds
    return (1.0 - last.usage) / growth if growth > 0.0 else None


def preemptions_per_request(view: View, engine: int) -> float | None:
    finished = len(view.values(engine, "request"))
    return view.total(engine, "preemptions") / finished if finished else None


def held(view: View, engine: int) -> float:
    busy = view.peak(engine, "running") + view.peak(engine, "waiting")
    step = view.step(engine)
    return 0.0 if busy or step is None else step.usage


def ratio(part: str, whole: str) -> Callable[[View, int], float | None]:
    def of(view: View, engine: int) -> float | None:
        total = view.total(engine, whole)
        return view.total(engine, part) / total if total else None

    return of


def hits(view: View, engine: int) -> dict[str, float]:
    found = ratio("prefix_hits", "prefix_queries")(view, engine)
    return {} if found is None else {"local": found}


def rate(name: str) -> Callable[[View, int], float | None]:
    return lambda view, engine: view.total(engine, name) / view.spans[engine].seconds


def finished(view: View, engine: int) -> dict[str, float]:
    return {reason: len(view.values(engine, f"finished_{reason}")) for reason in ("stop", "length", "error")}


def outcomes(view: View, engine: int) -> dict[str, float]:
    """Clients that left before their first token are in no metric of the engine, and the others appear at a step."""
    ended = finished(view, engine)
    since, until = view.spans[engine]
    if resting(view):
        return {}
    aborted = sum(row.engine == engine and row.outcome == "abort" and since < row.ended <= until and bool(row.outputs)
                  for row in view.log.rows)  # fmt: skip
    return {"finished": ended["stop"] + ended["length"], "failed": ended["error"], "aborted": aborted}


def resting(view: View) -> bool:
    """Whether clients left in the window, or before a window in which their requests still show."""
    return "stale-gauges" in {view.log.phase(max(0.0, at))[1] for at in (view.at, view.at - 61.0)}


def occupancy(view: View, engine: int) -> float | None:
    return None if resting(view) else view.mean(engine, "running") / view.log.settings.max_num_seqs


def computed(view: View, engine: int) -> float | None:
    cached = ratio("cached_tokens", "prompt_tokens")(view, engine)
    return None if cached is None else 1.0 - cached


def step_tokens(view: View, engine: int) -> float | None:
    values = view.values(engine, "step_tokens")
    return sum(values) / len(values) if values else None


def accepted_length(view: View, engine: int) -> float | None:
    found = ratio("accepted_tokens", "drafts")(view, engine)
    return None if found is None else 1.0 + found


def positions(view: View, engine: int) -> dict[str, float]:
    drafts = view.total(engine, "drafts")
    depth = range(view.log.settings.speculative_tokens)
    return {str(n): view.total(engine, f"accepted_at_{n}") / drafts for n in depth} if drafts else {}


def wasted(view: View, engine: int) -> float | None:
    if not view.log.settings.speculative_tokens:
        return None
    rejected = view.total(engine, "draft_tokens") - view.total(engine, "accepted_tokens")
    return rejected / view.spans[engine].seconds


def progress_age(view: View, engine: int) -> float | None:
    at = view.progress_at(engine)
    return None if at is None else view.at - at


def away_from_edges(view: View) -> bool:
    start, _, end = view.log.phase(view.at)
    return view.at - start > EDGE and end - view.at > 1.0


def stalled(view: View, engine: int) -> float | None:
    """Whether clients have waited without any progress for the time of a stall; they come all the time."""
    _, name, _ = view.log.phase(view.at)
    age = progress_age(view, engine)
    if age is None or not away_from_edges(view) or STALL_AFTER < age < STALL_AFTER + EDGE:
        return None
    return float(name == "stall" and age > STALL_AFTER)


def waited(view: View, engine: int) -> float | None:
    _, name, _ = view.log.phase(view.at)
    age = progress_age(view, engine)
    if age is None or not away_from_edges(view) or name == "sleep":
        return None
    return age if name == "stall" else 0.0


def left(view: View, engine: int) -> float | None:
    """Whether the gauges show requests of which no client is there any more."""
    step = view.step(engine)
    if step is None or not away_from_edges(view):
        return None
    return float(view.log.phase(view.at)[1] == "stale-gauges" and step.running + step.waiting > 0)


def sleeping(view: View, _: int) -> float:
    return float(view.log.phase(view.at)[1] == "sleep")


def imbalance(view: View) -> Values:
    if len(view.spans) < 2 or min(span.seconds for span in view.spans.values()) < 20.0:
        return {}
    loads = {
        "requests": [view.mean(n, "running") + view.mean(n, "waiting") for n in view.spans],
        "generation_tokens": [view.total(n, "generation_tokens") / view.spans[n].seconds for n in view.spans],
    }
    return {key(load=name): 1.0 - sum(load) / len(load) / max(load) for name, load in loads.items() if max(load) > 0.0}


def http_errors(view: View) -> Values:
    whole = view.answers()
    sides = {"client": "4xx", "server": "5xx"}
    return {key(side=side): view.answers(status) / whole for side, status in sides.items()} if whole else {}


def error_ratio(view: View) -> Values:
    if view.log.phase(view.at)[1] in UNWELL:  # requests whose clients gave up count, and the log has no such fact
        return {}
    return {key(): view.answers("5xx") / view.answers()} if view.answers() else {}


def adapters(view: View) -> Iterator[tuple[str, str]]:
    steps = [step for engine in view.spans if (step := view.step(engine))]
    yield from ((name, "running") for name in sorted(frozenset[str]().union(*(step.adapters for step in steps))))
    yield from ((name, "waiting") for name in sorted(frozenset[str]().union(*(step.wanted for step in steps))))


def lora(values: Callable[[View], Values]) -> Callable[[View], Values]:
    return lambda view: values(view) if view.log.settings.max_loras else {}


def active(view: View) -> Values:
    found = list(adapters(view))
    running = {name for name, state in found if state == "running"}
    if running == {name for name, state in found if state == "waiting"}:  # as vLLM writes it where it cannot tell
        return {key(lora_adapter=name, state="active"): 1.0 for name in running}
    return {key(lora_adapter=name, state=state): 1.0 for name, state in found}


def gauge(name: str, kind: str) -> Callable[[View], Values]:
    def of(view: View, engine: int) -> float:
        return view.peak(engine, name) if kind == "peak" else view.mean(engine, name)

    return each(of)
