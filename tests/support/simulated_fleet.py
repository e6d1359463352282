"""Replicas of one simulated server behind a service, under a load that changes, added and removed while it runs."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from simulated_load import STEADY, FollowedEngine, Shape

from vllm_sidecar.derive.saturation import saturation
from vllm_sidecar.simulator.requests import Clients
from vllm_sidecar.simulator.settings import Conditions

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.simulator.requests import Request

POLL = 7.5
"""Seconds between polls: the sidecar's second costs more than the simulation. Means of a minute are noisier for it."""


class Replica:
    """One server of a fleet; its own clock begins when it is ready."""

    def __init__(self, shape: Shape, created: float, ready: float, seed: int) -> None:
        self._look = shape.look(0.0, seed)
        self._followed = FollowedEngine(self._look)
        self.created, self.ready = created, ready

    @property
    def open(self) -> int:
        """Its requests."""
        return self._look.in_flight

    def advance(self, now: float) -> None:
        """Run to a time of the fleet."""
        self._look.advance(now - self.ready)

    def poll(self, now: float) -> None:
        """Run to a time of the fleet, and let the sidecar poll."""
        self._followed.poll(now - self.ready)

    def submit(self, drawn: Request) -> Request:
        """Send it a request."""
        return self._look.submit(drawn.prompt, drawn.output, drawn.max_tokens, drawn.adapter, drawn.ending)

    def saturation(self) -> float | None:
        """Return what the sidecar exports after its last poll."""
        return next(iter(saturation(self._followed.engine).values()), None)

    def waiting(self) -> float:
        """Return vllm:num_requests_waiting."""
        return float(self._look.engines[0].meters.waiting)

    def kv_cache_usage(self) -> float:
        """Return vllm:kv_cache_usage_perc."""
        return self._look.engines[0].meters.kv_usage


class Fleet:
    """Replicas that share a Poisson stream of requests; each request goes to a ready one at random, as in a Service."""

    def __init__(self, shape: Shape, rate: Callable[[float], float], highest: float, replicas: int, seed: int) -> None:
        """`rate` is requests per second at a time, `highest` at least its maximum; all replicas are ready at 0."""
        self._shape, self._rate, self._highest = shape, rate, highest
        self._random, self._routing, self._seed = random.Random(seed), random.Random(seed), seed
        self._clients = Clients(shape.settings(), seed)
        self._conditions = Conditions.model_validate({**STEADY, **shape.traffic})
        self._next = self._random.expovariate(highest)
        self._started = 0
        self._leaving: list[Replica] = []
        self.replicas: list[Replica] = []
        """Those that exist and are not asked to end, oldest first; the last may still load their model."""
        self.requests: list[Request] = []
        self.arrivals: list[float] = []
        """Time of the fleet at which each request arrived."""
        self.replica_seconds = 0.0
        self.now = 0.0
        self.scale(replicas, 0.0)

    def scale(self, wanted: int, load_seconds: float) -> None:
        """Have so many replicas; new ones load their model, the newest leave first and finish what they have."""
        while len(self.replicas) < wanted:
            self._started += 1
            ready = self.now + load_seconds
            self.replicas.append(Replica(self._shape, self.now, ready, self._seed + self._started))
        while len(self.replicas) > wanted:
            gone = self.replicas.pop()
            if gone.ready <= self.now:
                self._leaving.append(gone)

    @property
    def serving(self) -> list[Replica]:
        """Those that take requests."""
        return [replica for replica in self.replicas if replica.ready <= self.now]

    def advance(self, until: float) -> None:
        """Run to a time."""
        while self._next <= until:
            self.now = self._next
            if self._random.random() * self._highest < self._rate(self.now):
                self._arrive()
            self._next += self._random.expovariate(self._highest)
        self.replica_seconds += (until - self._paid_at) * (len(self.replicas) + len(self._leaving))
        self.now = self._paid_at = until
        for replica in (*self.serving, *self._leaving):
            replica.advance(until)
        self._leaving = [replica for replica in self._leaving if replica.open]

    _paid_at = 0.0

    def _arrive(self) -> None:
        replica = self._routing.choice(self.serving)
        replica.advance(self.now)
        self.requests.append(replica.submit(self._clients.request(self.now, self._conditions)))
        self.arrivals.append(self.now)
