"""A day of a fleet of simulated servers under an autoscaler."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, cos, inf, pi
from typing import NamedTuple

from autoscaler import SYNC, Autoscaler
from simulated_fleet import POLL, Fleet, Replica
from simulated_load import THRESHOLD, Shape


class Service(NamedTuple):
    """Replicas of one server, and the requests they get."""

    shape: Shape
    capacity: float
    """Requests per second at which one replica breaks its objective, as `simulated_load.breaking_rate` finds it."""


CHAT = Service(
    Shape(
        {
            "max_num_seqs": 24,
            "num_gpu_blocks": 800,
            "step_seconds": 0.12,
            "sequence_seconds": 0.0024,
            "prefill_token_seconds": 0.0001,
        },
        {"prompt_tokens": 300.0, "output_tokens": 40.0, "prefix_tokens": 0, "shared_ratio": 0.0},
        2.3,
    ),
    2.3,
)
"""A large model that answers slowly, because its few steps per second cost little to simulate."""
PROMPTS = Service(
    Shape(
        {
            "max_num_seqs": 64,
            "num_gpu_blocks": 4096,
            "step_seconds": 0.1,
            "sequence_seconds": 0.001,
            "prefill_token_seconds": 0.0003,
        },
        {
            "prompt_tokens": 700.0,
            "prompt_sigma": 0.6,
            "output_tokens": 15.0,
            "prefix_tokens": 0,
            "shared_ratio": 0.0,
        },
        1.73,
    ),
    1.73,
)
"""Long prompts and short answers: neither seats nor the KV cache are ever short."""
SERVICES = {"chat": CHAT, "prompts": PROMPTS}
HOUR = 3600.0
FIRST_HOUR = 5.5
HOURS = 8.5
LOAD_SECONDS = 180.0
"""From the decision to the first request: a node that is there, an image that is there, weights that must be read."""
LEAST, MOST = 1, 10
SCRAPE = 15.0
KEDA_POLLING = 30.0
"""KEDA's default pollingInterval."""
SLOT = 900.0

DAY = (
    (5.5, 0.4),
    (6.5, 0.5),
    (8.5, 2.0),
    (11.45, 2.1),
    (11.55, 3.3),
    (12.0, 3.3),
    (12.1, 1.9),
    (12.5, 1.9),
    (14.0, 0.6),
)
"""Hour of the day, and load as a multiple of the capacity of a replica: a ramp in the morning, a burst at noon."""


def demand(now: float) -> float:
    """Return the load at seconds since the first hour, in replicas at their limit; smooth between the points."""
    hour = FIRST_HOUR + now / HOUR
    for (begin, low), (end, high) in pairwise(DAY):
        if begin <= hour < end:
            return low + (high - low) * 0.5 * (1.0 - cos(pi * (hour - begin) / (end - begin)))
    return DAY[-1][1]


def needed_hours(hours: float) -> float:
    """Return the replica-hours of a fleet that always has as many replicas as its load needs."""
    minutes = range(int(60 * hours))
    return sum(max(LEAST, ceil(demand(60.0 * minute))) for minute in minutes) / 60.0


class Scaler(NamedTuple):
    """A signal of a replica, its target, and the age that the values may have."""

    signal: str
    target: float
    polling: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Scaler:
        """Parse `signal@target`, or `signal@target+keda`."""
        signal, _, rest = text.partition("@")
        target, _, keda = rest.partition("+")
        return cls(signal, float(target), KEDA_POLLING if keda else 0.0)


class Day(NamedTuple):
    """What a scaler made of a day."""

    in_time: float
    """Share of the requests with their first token within the objective."""
    worst: float
    """The same in the worst slot of 15 minutes."""
    replica_hours: float
    history: tuple[tuple[float, int], ...]
    """Replicas from each time on."""

    @property
    def most(self) -> int:
        """Most replicas."""
        return max(number for _, number in self.history)

    @property
    def changes(self) -> int:
        """How often the number of replicas changed."""
        return len(self.history) - 1

    @property
    def turns(self) -> int:
        """How often a rise followed a fall or a fall a rise."""
        numbers = [number for _, number in self.history]
        ways = [later > earlier for earlier, later in pairwise(numbers)]
        return sum(one != other for one, other in pairwise(ways))

    def replicas_at(self, at: float) -> int:
        """Return how many replicas existed at a time."""
        return next(number for since, number in reversed(self.history) if since <= at)


def scaled_day(scaler: Scaler, seconds: float, seed: int, service: Service = CHAT) -> Day:
    """Run a day: a scrape and then a decision each 15 s, on what was scraped."""
    fixed = scaler.signal == "fixed"
    highest = max(load for _, load in DAY) * service.capacity
    replicas = int(scaler.target) if fixed else LEAST
    fleet = Fleet(service.shape, lambda at: service.capacity * demand(at), highest, replicas, seed)
    autoscaler = Autoscaler(scaler.target, LEAST, MOST)
    history, seen, seen_at = [(0.0, len(fleet.replicas))], dict[Replica, float](), -inf
    total: float | None = None
    for tick in range(1, int(seconds / POLL) + 1):
        now = tick * POLL
        fleet.advance(now)
        if scaler.signal == "saturation":
            for replica in fleet.serving:
                replica.poll(now)
        if now % SCRAPE == 0.0:
            # A decision is made on the scrape before this one: Prometheus and its adapter take their time.
            if now - seen_at >= scaler.polling:
                known = [seen[replica] for replica in fleet.replicas if replica in seen]
                total, seen_at = (sum(known) if known else None), now
            seen = {replica: value for replica in fleet.serving if (value := _signal(scaler, replica)) is not None}
        if now % SYNC == 0.0 and not fixed:
            wanted = autoscaler.decide(now, total, len(fleet.replicas))
            if wanted != len(fleet.replicas):
                fleet.scale(wanted, LOAD_SECONDS)
                history.append((now, wanted))
    return _judged(fleet, tuple(history))


def _signal(scaler: Scaler, replica: Replica) -> float | None:
    found: float | None = getattr(replica, scaler.signal)() if scaler.signal != "fixed" else None
    return found


def _judged(fleet: Fleet, history: tuple[tuple[float, int], ...]) -> Day:
    slots: dict[int, list[bool]] = {}
    for at, request in zip(fleet.arrivals, fleet.requests, strict=True):
        good = request.first_token - request.arrival <= THRESHOLD
        # The last requests have no first token yet, and are not late yet either.
        if good or at <= fleet.now - THRESHOLD:
            slots.setdefault(int(at // SLOT), []).append(good)
    shares = [sum(found) / len(found) for found in slots.values()]
    every = [good for found in slots.values() for good in found]
    return Day(sum(every) / len(every), min(shares), fleet.replica_seconds / HOUR, history)
