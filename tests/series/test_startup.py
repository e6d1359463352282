"""How long starts of a server take, from values only: when polls failed and why, and what answered."""

from __future__ import annotations

import pytest
from readings import ENGINE, START, readings

from vllm_sidecar.catalog.reasons import NOT_ONE_ENGINE, Evidence, Reason, reasons_of
from vllm_sidecar.series.server_process import NOTHING, Change
from vllm_sidecar.series.startup import Startup

NOW = 1_800_000_000.0
"""Unix time at START."""
RESTARTED = Change(restarted=True)
NO_PROCESS = reasons_of(Evidence.NO_PROCESS)
ANSWERED = sorted({*Reason} - {*NO_PROCESS, *NOT_ONE_ENGINE})
REFUSED = Reason.REFUSED


def missed(startup: Startup, *reasons: Reason, at: float = START) -> Startup:
    """Let polls fail one second after the other."""
    for i, reason in enumerate(reasons):
        startup.missed(at + i, reason)
    return startup


def answered(
    startup: Startup, at: float, change: Change = NOTHING, *, started: float | None = None, requests: float = 0.0
) -> float | None:
    """Let a poll succeed; `started` is when the process began, on the scale of the polls."""
    unix = None if started is None else NOW + started - START
    poll = readings({ENGINE: {("requests_finished_total", "stop"): requests}}, started=unix)
    startup.answered(at, poll, NOW + at - START, change)
    return startup.seconds


def running(at: float = START) -> Startup:
    """A server that answered the first poll."""
    startup = Startup()
    assert answered(startup, at, started=at - 9000.0) is None
    return startup


def test_a_server_that_answers_the_first_poll_has_an_unknown_start() -> None:
    assert running().seconds is None
    assert answered(running(), START + 1) is None


@pytest.mark.parametrize("started", [None, START - 5.0, START + 60.0], ids=["not told", "just before", "meanwhile"])
def test_the_first_start_counts_from_the_sidecars_own(started: float | None) -> None:
    startup = missed(Startup(), *[REFUSED] * 300)
    assert answered(startup, START + 300.0, started=started) == 300.0


@pytest.mark.parametrize(
    "facts", [{"started": START - 9000.0}, {"requests": 90_000.0}], ids=["its start time", "what it has counted"]
)
def test_a_first_process_that_is_older_than_the_outage_was_not_seen_starting(facts: dict[str, float]) -> None:
    """The network of a pod comes up seconds after its sidecar: the server has been there for hours."""
    assert answered(missed(Startup(), REFUSED, REFUSED), START + 2.0, **facts) is None


def test_a_restart_counts_from_the_first_poll_that_nothing_answered() -> None:
    startup = missed(running(), *[REFUSED] * 200, at=START + 10.0)
    assert answered(startup, START + 210.0, RESTARTED) == 200.0
    assert answered(startup, START + 211.0) == 200.0


@pytest.mark.parametrize("reason", NO_PROCESS)
def test_an_address_at_which_nobody_is_begins_a_start(reason: Reason) -> None:
    assert answered(missed(running(), reason, at=START + 10.0), START + 70.0, RESTARTED) == 60.0


@pytest.mark.parametrize("reason", ANSWERED)
def test_a_server_that_is_there_begins_no_start(reason: Reason) -> None:
    """It is busy, refuses, or answers what cannot be read; the time until its process ended is not part of a start."""
    startup = missed(running(), reason, reason, reason, REFUSED, at=START + 10.0)
    assert answered(startup, START + 73.0, RESTARTED) == 60.0
    assert answered(missed(Startup(), reason, reason), START + 2.0) is None


@pytest.mark.parametrize("reason", ANSWERED)
def test_a_server_that_answers_before_it_has_metrics_is_still_starting(reason: Reason) -> None:
    assert answered(missed(Startup(), REFUSED, reason, reason), START + 120.0) == 120.0


@pytest.mark.parametrize("reason", NOT_ONE_ENGINE)
def test_a_router_at_the_address_ends_what_was_thought_to_be_a_start(reason: Reason) -> None:
    assert answered(missed(Startup(), REFUSED, reason), START + 120.0) is None
    assert answered(missed(running(), REFUSED, reason, at=START + 5.0), START + 120.0, RESTARTED) is None


def test_an_outage_of_the_same_process_is_no_start_and_keeps_the_last_one() -> None:
    startup = missed(Startup(), *[REFUSED] * 30)
    assert answered(startup, START + 30.0) == 30.0
    assert answered(missed(startup, *[REFUSED] * 100, at=START + 40.0), START + 140.0) == 30.0
    assert answered(missed(startup, Reason.TIMEOUT, at=START + 150.0), START + 160.0) == 30.0
    assert answered(missed(startup, REFUSED, at=START + 170.0), START + 190.0, RESTARTED) == 20.0


def test_a_restart_that_was_not_seen_from_its_beginning_has_an_unknown_length() -> None:
    """Nothing but timeouts, as of a node that is gone; what the start before took says nothing of this one."""
    startup = missed(Startup(), REFUSED)
    assert answered(startup, START + 30.0) == 30.0
    assert answered(missed(startup, Reason.TIMEOUT, at=START + 40.0), START + 99.0, RESTARTED) is None


def test_another_server_that_is_followed_from_now_on_did_not_start() -> None:
    startup = missed(Startup(), REFUSED)
    assert answered(startup, START + 30.0) == 30.0
    assert answered(missed(startup, REFUSED, at=START + 40.0), START + 60.0, Change(resumed=True)) == 30.0
