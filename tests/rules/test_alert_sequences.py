"""Incidents that follow each other, and changes that are none, at the times of production: what fires, and when."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import promtool
import pytest
from running import WALL

from fleets.evaluate import fired
from fleets.pages import pages, tickets
from fleets.sequences import SEQUENCES, scraped

if TYPE_CHECKING:
    from pathlib import Path

    from fleets.sequences import Sequence

pytestmark = [pytest.mark.io, pytest.mark.slow]


@pytest.mark.parametrize("sequence", SEQUENCES, ids=str)
def test_a_sequence_pages_once_for_what_users_feel_and_for_nothing_else(sequence: Sequence, tmp_path: Path) -> None:
    promtool.program()
    if shutil.which("prometheus") is None:
        pytest.skip(promtool.HINT)
    found = fired(tmp_path, scraped(sequence), sequence.thresholds, away=sequence.away, epoch=WALL)
    what = "\n".join(str(each) for each in found)
    paged = pages(found)
    assert [page.alerts[0] for page in paged] == [expected[0] for expected in sequence.pages], what
    for page, expected in zip(paged, sequence.pages, strict=True):
        assert set(page.alerts) <= set(expected), what
    assert {ticket.alerts[0] for ticket in tickets(found)} == sequence.tickets, what
