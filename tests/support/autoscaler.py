"""The algorithm of a HorizontalPodAutoscaler, as Kubernetes documents it, on an external metric per replica.

KEDA creates such an autoscaler and serves its metric; with `useCachedMetrics` the value is as old as `pollingInterval`.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

SYNC = 15.0
"""Seconds between two decisions: --horizontal-pod-autoscaler-sync-period."""
TOLERANCE = 0.1
"""Deviation from the target below which nothing changes: --horizontal-pod-autoscaler-tolerance."""
FASTEST_UP = (1.0, 4, 15.0)
"""Default policies of scaling up: to double the replicas, or four more, whichever is more, in so many seconds."""


class Behavior(NamedTuple):
    """How fast replicas are removed; the defaults are those of the chart."""

    stabilization_seconds: float = 600.0
    """The highest wish of so many seconds counts."""
    pods: int = 1
    """Most replicas that are removed in a period."""
    period_seconds: float = 300.0


CHART = Behavior()


class Autoscaler:
    """Decides the number of replicas from the sum of a metric over them."""

    def __init__(self, target: float, least: int, most: int, behavior: Behavior = CHART) -> None:
        self._target, self._least, self._most = target, least, most
        self._behavior = behavior
        self._wishes: list[tuple[float, int]] = []
        self._changes: list[tuple[float, int]] = []

    def decide(self, now: float, total: float | None, current: int) -> int:
        """Return how many replicas there should be; `current` ones exist. Without a metric nothing changes."""
        if total is None:
            return current
        # Replicas that still load their model count: each of them will take its share of the total.
        off = abs(total / (self._target * current) - 1.0)
        wished = ceil(total / self._target) if off > TOLERANCE else current
        wished = min(self._most, max(self._least, wished))
        since = now - self._behavior.stabilization_seconds
        self._wishes = [*(wish for wish in self._wishes if wish[0] > since), (now, wished)]
        wanted = wished if wished > current else min(current, max(wish for _, wish in self._wishes))
        wanted = (
            min(wanted, self._highest(now, current)) if wanted > current else max(wanted, self._lowest(now, current))
        )
        if wanted != current:
            self._changes.append((now, wanted - current))
        return wanted

    def _highest(self, now: float, current: int) -> int:
        share, pods, period = FASTEST_UP
        before = current - sum(change for at, change in self._changes if at > now - period and change > 0)
        return max(ceil(before * (1.0 + share)), before + pods)

    def _lowest(self, now: float, current: int) -> int:
        since = now - self._behavior.period_seconds
        before = current - sum(change for at, change in self._changes if at > since and change < 0)
        return min(current, before - self._behavior.pods)
