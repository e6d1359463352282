"""Pods of a model as Kubernetes makes and ends them: HPA, rolling deploys, scale to zero."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import inf

from fleets.clock import DAY, MINUTE

DRAIN = 8 * MINUTE
"""From SIGTERM, at which the sidecar ends, until the last answer of its server; the pod stays a target meanwhile."""
BEFORE = -2 * DAY
"""When the pods started that were there from the beginning."""


@dataclass
class Pod:
    """One replica: when it was created, when its server answered first, when it was told to end."""

    name: str
    model: str
    created: float
    load: float
    """Seconds until its server answers."""
    release: str
    ended: float = inf

    @property
    def ready(self) -> float:
        """Second at which its server answers first."""
        return self.created + self.load

    @property
    def gone(self) -> float:
        """Second at which it is no longer a target."""
        return self.ended + DRAIN


class Deployment:
    """The pods of one model over time; events have to come in their order."""

    def __init__(self, model: str, load: float, release: str = "r1") -> None:
        """Make one whose servers take `load` seconds to answer."""
        self.model, self.load, self.release = model, load, release
        self.pods: list[Pod] = []
        self._numbers = count()

    def current(self, now: float) -> list[Pod]:
        """Return the pods that were not told to end, the oldest first."""
        return [pod for pod in self.pods if pod.created <= now < pod.ended]

    def scale(self, now: float, replicas: int) -> None:
        """Create pods, or end the newest."""
        current = self.current(now)
        for pod in current[replicas:]:
            pod.ended = now
        for _ in range(replicas - len(current)):
            self._create(now)

    def deploy(self, now: float, release: str, surge: int = 2) -> float:
        """Replace all pods, so many at a time, each once its successor answers; return when the last is told to end."""
        self.release, old = release, self.current(now)
        for first in range(0, len(old), surge):
            batch = old[first : first + surge]
            for _ in batch:
                self._create(now)
            now += self.load + MINUTE
            for pod in batch:
                pod.ended = now
        return now

    def _create(self, now: float) -> None:
        name = f"{self.model}-{self.release}-{next(self._numbers)}"
        self.pods.append(Pod(name, self.model, now, self.load, self.release))
