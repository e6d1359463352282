"""The rules over a week of a fleet: silent while it is healthy, and one page for each fault that users feel."""

from __future__ import annotations

import shutil
from functools import cache
from typing import TYPE_CHECKING

import promtool
import pytest

from fleets import incidents, week
from fleets.clock import DAY, Grid
from fleets.evaluate import Fired, fired
from fleets.pages import Page, pages, tickets

if TYPE_CHECKING:
    from pathlib import Path

    from fleets.incidents import Incident

pytestmark = [pytest.mark.io, pytest.mark.slow]

MOST_TICKETS = 3
FINE = Grid(week.WEEK.begin, week.WEEK.end, 15.0)
"""Scrapes as often as in production: how soon a page comes is a matter of seconds."""
_folders: dict[str, Path] = {}


@pytest.fixture(autouse=True)
def _programs(tmp_path_factory: pytest.TempPathFactory) -> None:
    promtool.program()
    if shutil.which("prometheus") is None:
        pytest.skip(promtool.HINT)
    _folders.setdefault("root", tmp_path_factory.mktemp("week"))


@cache
def healthy() -> list[Fired]:
    """Return what fires in the healthy week."""
    folder = _folders["root"] / "healthy"
    folder.mkdir()
    given = {**week.THRESHOLDS, "scrape_interval": "1m", "evaluation_interval": "1m"}
    return fired(folder, week.scraped(), given, since=DAY, away=week.AWAY)


@cache
def faulty() -> list[Fired]:
    """Return what fires in the week with its faults."""
    folder = _folders["root"] / "faulty"
    folder.mkdir()
    faults = [each.fault for each in (*incidents.PAGES, *incidents.TICKETS)]
    return fired(folder, week.scraped(FINE, faults), week.THRESHOLDS, since=DAY, away=week.AWAY)


def listed(found: list[Page]) -> str:
    """Write each on a line of its own."""
    return "\n".join(str(each) for each in found)


def test_nobody_is_paged_in_a_healthy_week() -> None:
    assert pages(healthy()) == [], listed(pages(healthy()))


def test_a_healthy_week_has_few_tickets_and_one_is_the_slow_replica() -> None:
    found = tickets(healthy())
    assert len(found) <= MOST_TICKETS, listed(found)
    slow = [each for each in found if each.alerts == ["VllmReplicaSlow"]]
    assert [week.NOISY.begin <= each.begin < week.NOISY.end for each in slow] == [True], listed(found)


@pytest.mark.parametrize("incident", incidents.PAGES, ids=str)
def test_a_fault_that_users_feel_pages_once_and_soon(incident: Incident) -> None:
    during = [page for page in pages(faulty()) if page.model == incident.model and _during(page, incident)]
    assert len(during) == 1, listed(during)
    assert during[0].alerts[0] == incident.alert, str(during[0])
    assert 0.0 <= during[0].begin - incident.fault.begin <= incident.within, str(during[0])


@pytest.mark.parametrize("incident", incidents.TICKETS, ids=str)
def test_a_fault_of_one_replica_is_a_ticket_and_wakes_nobody(incident: Incident) -> None:
    found = [each for each in tickets(faulty()) if _during(each, incident) and each.alerts == [incident.alert]]
    assert len(found) == 1, listed(tickets(faulty()))
    assert [page for page in pages(faulty()) if _during(page, incident)] == []


def test_nothing_else_pages_in_a_week_with_one_fault_a_day() -> None:
    strange = [page for page in pages(faulty()) if not any(_during(page, each) for each in incidents.PAGES)]
    assert strange == [], listed(strange)


def _during(page: Page, incident: Incident) -> bool:
    """Say whether it came while a fault lasted, or in the time that its alert may take."""
    return incident.fault.begin <= page.begin < max(incident.fault.end, incident.fault.begin + incident.within)
