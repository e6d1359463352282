"""What can befall replicas of the synthetic fleet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fleets.clock import Grid, Mask
    from fleets.pods import Pod


class Kind(StrEnum):
    """Kinds of faults, and of the harmless things that a healthy week has."""

    DOWN = "down"
    """The server crashes and answers again when the fault ends."""
    STALL = "stall"
    VANISH = "vanish"
    """Its node is gone: the target with it."""
    ERRORS = "errors"
    REJECTIONS = "rejections"
    OVERLOAD = "overload"
    NAN = "nan"
    SLOW_FIRST_TOKEN = "slow first token"
    SLOW = "slow"
    """Steps take longer; so do first tokens."""
    KV_PRESSURE = "kv pressure"
    XID = "xid"
    NO_TRAFFIC = "no traffic"
    ABORTS = "aborts"


ALL = 10**6


@dataclass(frozen=True)
class Fault:
    """A kind, for some replicas of a model, between two seconds."""

    kind: Kind
    model: str
    begin: float
    end: float
    replicas: int = ALL
    """The oldest that are there when it begins."""
    size: float = 1.0
    """A share of the requests, or how many times slower."""

    def hits(self, pods: Sequence[Pod], pod: Pod) -> bool:
        """Say whether it befalls a pod, one of all of its model; what befalls all also befalls those that come."""
        if self.replicas == ALL:
            return pod.created < self.end and pod.ended > self.begin
        there = [each for each in pods if each.ready <= self.begin < each.ended]
        return pod in there[: self.replicas]

    def when(self, grid: Grid) -> Mask:
        """Return the scrapes at which it lasts."""
        return grid.between(self.begin, self.end)
