"""Log lines of a target: one per change of state, and few for what the server decides."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from readings import readings

from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.serve.target_log import MOST_BUGS, PAUSE, TargetLog
from vllm_sidecar.vllm.client import Response
from vllm_sidecar.vllm.scraper import Scrape

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings

GOOD = "a 1\n"


class Logged:
    """A target's log, a clock, and the events that were logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.now = 0.0
        self.log = TargetLog("t", lambda: self.now)
        self.poll()
        caplog.clear()

    def poll(self, body: str = GOOD, *, seconds: float = 1.0, **found: object) -> None:
        self.now += seconds
        scraped = Scrape(DifferentialParser().parse(body.encode()), Response(body.encode(), "", 0.1))
        read: Readings = replace(readings({}), **found)  # type: ignore[arg-type]
        self.log.succeeded(scraped, read)

    def fields(self) -> list[dict[str, object]]:
        return [{"event": record.getMessage(), **record.fields} for record in self._caplog.records]  # type: ignore[attr-defined]

    def events(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records]


def test_bad_lines_are_logged_when_they_begin_and_not_at_each_poll(caplog: pytest.LogCaptureFixture) -> None:
    logged = Logged(caplog)
    for n in range(100):
        logged.poll(GOOD + f"bad line {n}\n")
    (event,) = logged.fields()
    assert (event["event"], event["count"], event["line"], event["text"]) == ("lines_rejected", 1, 2, "bad line 0")


def test_bad_lines_that_come_and_go_are_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    logged = Logged(caplog)
    for n in range(100):
        logged.poll(GOOD + f"bad line {n}\n" * (n % 2))
    assert logged.events() == ["lines_rejected"]
    logged.poll(seconds=PAUSE)
    logged.poll(GOOD + "bad line\n")
    assert logged.events() == ["lines_rejected"] * 2


def test_unknown_families_are_logged_as_a_number_and_a_few_names(caplog: pytest.LogCaptureFixture) -> None:
    logged = Logged(caplog)
    for poll in range(50):
        names = tuple(f"vllm:x{poll}_{n}" for n in range(100))
        logged.poll(unknown=names, unknown_count=20_000)
    (event,) = logged.fields()
    assert (event["event"], event["count"]) == ("unknown_families", 20_000)
    assert event["first"] == "vllm:x0_0,vllm:x0_1,vllm:x0_2,vllm:x0_3,vllm:x0_4"


def test_limits_are_logged_by_name_once(caplog: pytest.LogCaptureFixture) -> None:
    logged = Logged(caplog)
    for n in range(50):
        logged.poll(limits={"buckets": n, "lines": 5})
    (event,) = logged.fields()
    assert (event["event"], event["limits"]) == ("limits_exceeded", "lines")


def _fail(text: str) -> None:
    raise ValueError(text)


def test_a_bug_whose_text_changes_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    logged = Logged(caplog)
    for n in range(50):
        with pytest.raises(ValueError, match=str(n)) as caught:
            _fail(f"at poll {n}")
        logged.log.bug(caught.value)
    assert logged.events() == ["internal_error"]
    assert caplog.records[0].exc_info


def test_of_many_kinds_of_bugs_the_first_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    logged = Logged(caplog)
    for n in range(2 * MOST_BUGS):
        logged.log.bug(type(f"Error{n}", (Exception,), {})())
    assert len(logged.events()) == MOST_BUGS
