"""What each replica does at each scrape, from the traffic of its model, its release and what befalls it.

A model of queueing theory it is not: enough that everything the rules read fits together. Running requests follow from
traffic and step time, step time from running requests, prefix hits from the age of the cache, first tokens from hits
and queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fleets import demand
from fleets.clock import MINUTE
from fleets.faults import Kind
from vllm_sidecar.derive.capacity import Load, capacity
from vllm_sidecar.derive.inputs import STANDARD_FIRST_TOKEN
from vllm_sidecar.series.step_costs import Costs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fleets.clock import Floats, Grid, Mask
    from fleets.faults import Fault
    from fleets.pods import Pod

STALL_AFTER = 120.0
"""`progress.stall_after`."""
WARM_UP = 12 * MINUTE
"""How long the prefix cache of a new replica is cold."""
OVERLOAD_WAIT = 30.0
BATCH_WAIT = 18.0


@dataclass(frozen=True)
class Shape:
    """A model: its traffic, and what a request and a step take."""

    name: str
    rate: Callable[[Floats], Floats]
    load: float
    batched: bool = False
    """Whether a nightly batch of unique documents comes."""
    output_tokens: float = 200.0
    prompt_tokens: float = 1500.0
    step: float = 0.012
    step_per_request: float = 0.00035
    first_token: float = 0.55
    """Seconds until the first token of a prompt whose prefix hits as usual."""
    hit: float = 0.62
    seats: float = 48.0

    def highest_rate(self, slower: float) -> float:
        """Return the requests per second at which the objective breaks, with steps that take so many times longer.

        Prompts cost no time of their own here, so what a first token takes without a queue is taken from the objective.
        """
        costs = Costs(self.step * slower, self.step_per_request * slower, 0.0)
        running = 0.1 * self.seats
        steps = running / (costs.fixed + costs.sequence * running)
        rate = steps / self.output_tokens
        load = Load(requests=rate, prompt_tokens=0.0, sequence_steps=steps, running=running, costs=costs,
                    threshold=STANDARD_FIRST_TOKEN - self.first_token, seats=self.seats)  # fmt: skip
        return rate * capacity(load).factor


@dataclass
class Replica:
    """What one pod does at each scrape of a grid; rates are per second."""

    pod: Pod
    shape: Shape
    target: Mask
    """Prometheus has it as a target."""
    alive: Mask
    """Its sidecar answers."""
    serving: Mask
    """Its server answers."""
    age: Floats
    """Seconds since its server last started."""
    faults: dict[Kind, Floats]
    """Size of each kind of fault while it lasts, 0 otherwise."""
    unique: Mask
    """The nightly batch runs."""
    step_of_grid: float
    rate: Floats = field(default_factory=lambda: np.zeros(0))

    def share(self, kind: Kind) -> Floats:
        """Return the size of a kind of fault while it lasts, 0 otherwise."""
        return np.where(self.serving, self.faults.get(kind, 0.0), 0.0)

    def on(self, kind: Kind) -> Mask:
        """Return when a kind of fault lasts here."""
        found: Mask = self.share(kind) > 0.0
        return found

    def times(self, kind: Kind) -> Floats:
        """Return how many times longer a kind of fault makes something; 1 while none lasts."""
        return np.where(self.on(kind), self.share(kind), 1.0)

    @property
    def takes(self) -> Mask:
        """When the balancer sends requests to it."""
        return self.serving & ~self.on(Kind.NO_TRAFFIC)

    @property
    def full(self) -> Mask:
        """When more comes than it can serve at once."""
        return (self.unique | self.on(Kind.OVERLOAD)) & self.takes

    @property
    def slower(self) -> Floats:
        """How many times longer a step takes."""
        return self.times(Kind.SLOW)

    @property
    def running(self) -> Floats:
        """Requests that run."""
        shape = self.shape
        work = self.rate * shape.output_tokens * self.slower
        running = work * shape.step / np.clip(1.0 - work * shape.step_per_request, 0.05, None)
        return np.where(self.full, shape.seats, np.minimum(running, shape.seats))

    @property
    def saturation(self) -> Floats:
        """The load as a share of the one that breaks the objective, by the sidecar's own model; 1 while it is full."""
        levels, which = np.unique(self.slower, return_inverse=True)
        most = np.array([self.shape.highest_rate(float(level)) for level in levels])[which]
        share = np.maximum(self.rate / most, self.running / self.shape.seats)
        return np.where(self.full, 1.0, np.minimum(1.0, share))

    @property
    def step_seconds(self) -> Floats:
        """Seconds between two tokens of a request."""
        return (self.shape.step + self.shape.step_per_request * self.running) * self.slower

    @property
    def finished(self) -> Floats:
        """Requests that end a second, however they end."""
        capacity = self.shape.seats / (self.shape.output_tokens * self.step_seconds)
        return np.where(self.on(Kind.STALL), 0.0, np.where(self.full, np.minimum(self.rate, capacity), self.rate))

    @property
    def hit(self) -> Floats:
        """Share of the prompt tokens that the prefix cache had."""
        warm = np.clip(0.3 + 0.7 * self.age / WARM_UP, 0.3, 1.0)
        return np.where(self.unique, 0.08, self.shape.hit * warm)

    @property
    def wait(self) -> Floats:
        """Seconds that a request waits which comes now."""
        return np.where(self.on(Kind.OVERLOAD), OVERLOAD_WAIT, np.where(self.unique, BATCH_WAIT, 0.0)) * self.takes

    @property
    def first_token(self) -> Floats:
        """Median seconds until the first token of those that wait for nothing."""
        prefill = (1.0 - self.hit) / (1.0 - self.shape.hit)
        times = self.slower * self.times(Kind.SLOW_FIRST_TOKEN)
        return self.shape.first_token * (0.4 + 0.6 * prefill) * times

    @property
    def stalled_for(self) -> Floats:
        """Seconds without progress."""
        on = self.on(Kind.STALL)
        index = np.arange(on.size)
        began = np.maximum.accumulate(np.where(on, -1, index))
        return np.where(on, (index - began) * self.step_of_grid, 0.0)


def replicas(shape: Shape, pods: Sequence[Pod], grid: Grid, faults: Sequence[Fault]) -> list[Replica]:
    """Return what each pod that is there during a grid does."""
    own = [fault for fault in faults if fault.model == shape.name]
    there = [pod for pod in pods if pod.gone > grid.begin and pod.created < grid.end]
    found = [_replica(shape, pod, grid, [fault for fault in own if fault.hits(pods, pod)]) for pod in there]
    wanted = shape.rate(grid.times)
    takers = np.clip(np.sum([replica.takes for replica in found], axis=0), 1, None)
    for replica in found:
        replica.rate = np.where(replica.takes, wanted / takers, 0.0)
    return found


def _replica(shape: Shape, pod: Pod, grid: Grid, own: Sequence[Fault]) -> Replica:
    times = grid.times
    sizes: dict[Kind, Floats] = {}
    for fault in own:
        size = np.where(fault.when(grid), fault.size, 0.0)
        sizes[fault.kind] = np.maximum(sizes.get(fault.kind, size), size)
    away = [fault for fault in own if fault.kind in (Kind.DOWN, Kind.VANISH)]
    no_target = np.any([grid.between(0, 0), *(f.when(grid) for f in away if f.kind is Kind.VANISH)], axis=0)
    no_server = np.any([grid.between(0, 0), *(f.when(grid) for f in away)], axis=0)
    target = (times >= pod.created) & (times < pod.gone) & ~no_target
    alive = target & (times < pod.ended)
    serving = alive & (times >= pod.ready) & ~no_server
    started = np.max([np.full(times.shape, pod.ready), *(np.where(times >= f.end, f.end, 0.0) for f in away)], axis=0)
    return Replica(pod, shape, target, alive, serving, times - started, sizes,
                   demand.in_batch(times) & shape.batched & serving, grid.step)  # fmt: skip
