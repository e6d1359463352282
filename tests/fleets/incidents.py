"""Faults in a week that is healthy otherwise: one a day that users feel, which pages, and tickets of one replica."""

from __future__ import annotations

from dataclasses import dataclass

from fleets.clock import FRIDAY, MINUTE, MONDAY, SATURDAY, SUNDAY, THURSDAY, TUESDAY, WEDNESDAY, at
from fleets.faults import ALL, Fault, Kind

SOON = 3 * MINUTE
BURN = 35 * MINUTE
"""A fast burn looks at an hour: a third of the requests too late is 14.4 times too fast once 26 of 60 minutes are so,
and the rates of five minutes and `for` come on top. Nothing else is wrong with these requests."""


@dataclass(frozen=True)
class Incident:
    """A fault, and the alert that has to name it first."""

    fault: Fault
    alert: str
    within: float = SOON

    @property
    def model(self) -> str:
        """The model that it is about."""
        return self.fault.model

    def __str__(self) -> str:
        """Say what befalls whom."""
        whom = "all" if self.fault.replicas == ALL else f"{self.fault.replicas}"
        return f"{self.fault.kind} of {whom} of {self.model}"


def _fault(
    kind: Kind, model: str, day: int, clock: str, minutes: float, replicas: int = ALL, size: float = 1.0
) -> Fault:
    begin = at(day, clock)
    return Fault(kind, model, begin, begin + minutes * MINUTE, replicas, size)


PAGES = (
    Incident(_fault(Kind.DOWN, "chat", MONDAY, "09:30", 15), "VllmReplicasUnavailable"),
    Incident(_fault(Kind.DOWN, "chat", TUESDAY, "15:00", 15, replicas=4), "VllmReplicasUnavailable"),
    Incident(_fault(Kind.STALL, "chat", WEDNESDAY, "10:00", 15), "VllmReplicasUnavailable"),
    Incident(_fault(Kind.VANISH, "chat", THURSDAY, "09:30", 15), "VllmModelGone"),
    Incident(_fault(Kind.ERRORS, "chat", FRIDAY, "10:00", 15, size=0.2), "VllmErrorRatioHigh"),
    Incident(_fault(Kind.REJECTIONS, "chat", SATURDAY, "10:00", 15, size=0.2), "VllmRejectionRatioHigh"),
    Incident(_fault(Kind.OVERLOAD, "chat", SUNDAY, "10:00", 20), "VllmQueueWaitHigh"),
    Incident(_fault(Kind.NAN, "large", MONDAY, "14:00", 15, replicas=1), "VllmRequestsCorrupted"),
    Incident(
        _fault(Kind.SLOW_FIRST_TOKEN, "large", WEDNESDAY, "15:00", 60, size=3.0), "VllmTimeToFirstTokenSloBurn", BURN
    ),
)
"""What users feel."""
TICKETS = (
    Incident(_fault(Kind.DOWN, "chat", MONDAY, "17:00", 30, replicas=1), "VllmTargetDown"),
    Incident(_fault(Kind.STALL, "chat", TUESDAY, "17:00", 30, replicas=1), "VllmEngineStalled"),
    Incident(_fault(Kind.KV_PRESSURE, "chat", WEDNESDAY, "17:00", 30, replicas=1), "VllmKvCachePressure"),
    Incident(_fault(Kind.XID, "chat", THURSDAY, "17:30", 10, replicas=1), "VllmGpuXidCritical"),
    Incident(_fault(Kind.NO_TRAFFIC, "chat", SATURDAY, "16:00", 120, replicas=1), "VllmReplicaLoadUneven", 60 * MINUTE),
)
"""What one replica of many has: nobody needs to get up for it."""
