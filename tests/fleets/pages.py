"""Notifications that Alertmanager would make of what fired: one for each model and incident."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleets.clock import MINUTE, written

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fleets.evaluate import Fired

GROUPED_BY = ("cluster", "namespace", "model_name")
RESOLVED_AFTER = 5 * MINUTE
"""`group_interval`: what fires again sooner is the same notification."""


@dataclass
class Page:
    """One notification: what fired in it, in order."""

    fired: list[Fired]

    @property
    def model(self) -> str:
        """The model that it is about."""
        return self.fired[0].model

    @property
    def begin(self) -> float:
        """When its first alert fired."""
        return self.fired[0].spell.begin

    @property
    def end(self) -> float:
        """When its last alert was resolved."""
        return max(each.spell.end for each in self.fired)

    @property
    def alerts(self) -> list[str]:
        """Names of its alerts in the order in which they came."""
        return list(dict.fromkeys(each.alert for each in self.fired))

    def __str__(self) -> str:
        """Say what, for whom and when."""
        return f"{written(self.begin)} until {written(self.end)} {self.model or '(no model)'}: {', '.join(self.alerts)}"


def pages(fired: Iterable[Fired]) -> list[Page]:
    """Group the alerts that page, in the order of time."""
    found: list[Page] = []
    open_pages: dict[tuple[str, ...], Page] = {}
    ordered = sorted((each for each in fired if each.severity == "page"), key=lambda each: each.spell.begin)
    for each in ordered:
        group = tuple(each.spell.labels.get(name, "") for name in GROUPED_BY)
        page = open_pages.get(group)
        if page is not None and each.spell.begin <= page.end + RESOLVED_AFTER:
            page.fired.append(each)
            continue
        open_pages[group] = Page([each])
        found.append(open_pages[group])
    return found


def tickets(fired: Iterable[Fired]) -> list[Page]:
    """Group tickets as Alertmanager does: by model and name of the alert."""
    found: list[Page] = []
    open_tickets: dict[tuple[str, ...], Page] = {}
    for each in sorted((each for each in fired if each.severity == "ticket"), key=lambda each: each.spell.begin):
        group = (*(each.spell.labels.get(name, "") for name in GROUPED_BY), each.alert)
        ticket = open_tickets.get(group)
        if ticket is not None and each.spell.begin <= ticket.end + RESOLVED_AFTER:
            ticket.fired.append(each)
            continue
        open_tickets[group] = Page([each])
        found.append(open_tickets[group])
    return found
