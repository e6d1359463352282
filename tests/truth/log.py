"""A request log: what a server did for each request, with the exact times, and what follows from it.

Nothing here reads a counter or a histogram of the simulator: every number that a test compares with the sidecar is
counted from these rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.simulator.settings import ServerSettings

COUNTED = ("stop", "length", "error")
"""Outcomes that vLLM's Python front end counts: it does not count clients that left."""


@dataclass(slots=True)
class Row:
    """One request of one engine; times are seconds since the log began, infinite for what never happened."""

    number: int
    engine: int
    arrival: float
    prompt: int
    adapter: str
    queued: float = inf
    scheduled: float = inf
    cached: int = 0
    """Prompt tokens from the prefix cache."""
    outputs: list[tuple[float, int]] = field(default_factory=list)
    """Time and number of tokens of each output."""
    drafts: list[tuple[float, int, int]] = field(default_factory=list)
    """Time, drafted and accepted tokens of each draft."""
    preempted: list[float] = field(default_factory=list)
    ended: float = inf
    outcome: str = ""


class Step(NamedTuple):
    """An engine after one step."""

    at: float
    running: int
    waiting: int
    deferred: int
    usage: float
    """Share of the KV blocks in use."""
    limit: str
    """What kept the first waiting request out; empty where none waited, or where only the step's tokens were spent."""
    adapters: frozenset[str]
    """Adapters of running requests."""
    wanted: frozenset[str]
    """Adapters of waiting requests."""


class Observation(NamedTuple):
    """One value that a histogram, or one increment that a counter, received."""

    at: float
    name: str
    value: float
    request: int


@dataclass
class Log:
    """Everything that one server did."""

    settings: ServerSettings
    seconds: float
    rows: list[Row] = field(default_factory=list)
    steps: dict[int, list[Step]] = field(default_factory=lambda: defaultdict(list))
    """By engine, in order."""
    processes: list[tuple[float, float]] = field(default_factory=list)
    """Start and end of each server process; the last one has no end."""
    phases: list[tuple[float, str]] = field(default_factory=list)
    """Start and scenario of each phase."""
    answers: list[tuple[float, str]] = field(default_factory=list)
    """Time and status class of each HTTP answer."""
    rejected: list[float] = field(default_factory=list)
    """When admission control refused a request, which is also an answer 5xx."""

    @property
    def engines(self) -> range:
        return range(self.settings.data_parallel_size)

    def step(self, engine: int, at: float) -> Step | None:
        """Return the last step of an engine's present process until a time; None before the first."""
        steps = self.steps[engine]
        index = bisect_right(steps, at, key=lambda step: step.at)
        return steps[index - 1] if index and steps[index - 1].at >= self.process(at)[0] else None

    def process(self, at: float) -> tuple[float, float]:
        """Return start and end of the newest process at a time."""
        return next(each for each in reversed(self.processes) if each[0] <= at)

    def phase(self, at: float) -> tuple[float, str, float]:
        """Return start, scenario and end of the phase at a time."""
        ends = [start for start, _ in self.phases[1:]] + [inf]
        found = ((start, name, end) for (start, name), end in zip(self.phases, ends, strict=True) if start <= at)
        return list(found)[-1]

    def observations(self, engine: int) -> list[Observation]:
        """Return everything that the engine's histograms and counters received, in order."""
        rows = [row for row in self.rows if row.engine == engine]
        found = [each for row in rows for each in _of_request(row)]
        found += _of_steps(rows)
        return sorted(found)


def _of_request(row: Row) -> Iterator[Observation]:
    def made(at: float, name: str, value: float) -> Observation:
        return Observation(at, name, value, row.number)

    if row.scheduled < inf:
        yield made(row.scheduled, "prefix_queries", row.prompt)
        yield made(row.scheduled, "prefix_hits", row.cached)
    for at in row.preempted:
        yield made(at, "preemptions", 1)
    for at, drafted, accepted in row.drafts:
        yield made(at, "drafts", 1)
        yield made(at, "draft_tokens", drafted)
        yield made(at, "accepted_tokens", accepted)
        for position in range(accepted):
            yield made(at, f"accepted_at_{position}", 1)
    if row.outputs:
        first = row.outputs[0][0]
        yield made(first, "first_token", first - row.arrival)
        yield made(first, "prompt_tokens", row.prompt)
        yield made(first, "cached_tokens", row.cached)
    before = None
    for at, tokens in row.outputs:
        yield made(at, "generation_tokens", tokens)
        if before is not None:
            yield made(at, "inter_token", at - before)
        before = at
    if row.outcome in COUNTED:
        yield from (made(row.ended, name, value) for name, value in _of_finished(row))


def _of_finished(row: Row) -> Iterator[tuple[str, float]]:
    first, tokens = row.outputs[0][0], sum(tokens for _, tokens in row.outputs)
    yield f"finished_{row.outcome}", 1
    yield "request", row.ended - row.arrival
    yield "queue", row.scheduled - row.queued
    yield "inference", row.ended - row.scheduled
    yield "prefill", first - row.scheduled
    yield "decode", row.ended - first
    yield "per_output_token", (row.ended - first) / (tokens - 1) if tokens > 1 else 0.0


def _of_steps(rows: Sequence[Row]) -> list[Observation]:
    """Return the tokens of each step: those that came out, and the prompts that were computed for first tokens."""
    tokens: dict[float, float] = defaultdict(float)
    for row in rows:
        for at, count in row.outputs:
            tokens[at] += count
        if row.outputs:
            tokens[row.outputs[0][0]] += row.prompt - row.cached
    return [Observation(at, "step_tokens", count, 0) for at, count in tokens.items()]
