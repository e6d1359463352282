"""Lines of one kind in a minute: ten are written, and a summary says how many were not."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.logs import LogfmtFormatter, dropped_lines, event, flush, setup
from vllm_sidecar.logs.handler import EventHandler
from vllm_sidecar.logs.output import DescriptorOutput, StreamOutput
from vllm_sidecar.logs.repeats import MOST_KINDS, MOST_LINES, PERIOD_SECONDS, Repeats

if TYPE_CHECKING:
    from collections.abc import Iterator


class Log:
    """A logger with a handler of its own, on a clock that the test moves."""

    def __init__(self, *, level: int = logging.INFO) -> None:
        self.now = 1000.0
        self.stream = io.StringIO()
        self.handler = EventHandler(self.stream, StreamOutput(self.stream), Repeats(lambda: self.now))
        self.handler.setFormatter(LogfmtFormatter())
        self.logger = logging.Logger("vllm_sidecar.serve.target", level)
        self.logger.addHandler(self.handler)

    def events(self) -> list[str]:
        """Return the lines that were written, without time and level."""
        self.handler.summarize()
        return [line.partition("event=")[2] for line in self.stream.getvalue().splitlines()]


def test_ten_lines_of_a_kind_are_written_and_the_others_are_counted_in_one_line() -> None:
    log = Log()
    for number in range(100):
        event(log.logger, logging.WARNING, "odd", number=number)
    first = log.events()
    log.now += PERIOD_SECONDS

    assert first == [f"odd number={number}" for number in range(MOST_LINES)]
    assert log.events()[MOST_LINES:] == ["repeated of=odd times=90 seconds=60"]
    assert log.handler.repeats.suppressed == 90


def test_after_the_minute_lines_are_written_again() -> None:
    log = Log()
    for _ in range(3):
        for _ in range(MOST_LINES):
            event(log.logger, logging.WARNING, "odd")
        log.now += PERIOD_SECONDS

    assert log.events() == ["odd"] * (3 * MOST_LINES)


def test_each_target_and_each_event_is_a_kind_of_its_own() -> None:
    log = Log()
    for _ in range(MOST_LINES + 1):
        for target in ("a", "b"):
            event(log.logger, logging.WARNING, "target_down", target=target)
        event(log.logger, logging.INFO, "target_up", target="a")
    log.now += PERIOD_SECONDS

    assert log.events()[-3:] == [
        "repeated of=target_down times=1 seconds=60 about=a",
        "repeated of=target_down times=1 seconds=60 about=b",
        "repeated of=target_up times=1 seconds=60 about=a",
    ]


def test_nothing_is_left_out_of_a_debug_log_of_debug_events() -> None:
    log = Log(level=logging.DEBUG)
    for _ in range(50):
        event(log.logger, logging.DEBUG, "detail")

    assert len(log.events()) == 50


def test_messages_that_all_differ_share_one_limit_once_there_are_too_many() -> None:
    log = Log()
    for number in range(5 * MOST_KINDS):
        log.logger.warning("message %d of a library", number)
        log.logger.warning(f"text {number}")

    assert len(log.events()) <= MOST_KINDS + 2 * MOST_LINES


def test_a_record_that_cannot_be_formatted_is_counted_and_hurts_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.logger.warning("%d", "text")

    assert (log.handler.failed, log.events(), capsys.readouterr().err) == (1, [], "")


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def test_lines_that_the_reader_did_not_take_are_reported_when_it_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    class Stuck(DescriptorOutput):
        def __init__(self) -> None:
            self.is_stuck, self.taken = True, b""
            path = tmp_path_factory.mktemp("log") / "log"
            with path.open("w") as file:
                super().__init__(file.fileno(), most_waiting=200)
            self._send = self.send

        def send(self, data: bytes) -> int:
            if self.is_stuck:
                raise BlockingIOError
            self.taken += data
            return len(data)

    log = Log()
    log.handler.output = output = Stuck()
    for number in range(8):
        event(log.logger, logging.WARNING, f"event_{number}")
    log.handler.summarize()
    assert output.taken == b""
    output.is_stuck = False
    log.handler.summarize()

    *written, last = output.taken.decode().splitlines()
    assert len(written) + output.dropped == 8
    assert last.endswith(f"component=logs.handler event=log_lines_dropped lines={output.dropped}")


@pytest.mark.usefixtures("restored_logging")
def test_a_changed_configuration_keeps_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("vllm_sidecar.serve.target")
    setup("info", "logfmt")
    for _ in range(MOST_LINES + 5):
        event(logger, logging.WARNING, "odd")
    setup("info", "json")
    event(logger, logging.WARNING, "odd")
    flush()

    assert dropped_lines() == {"repeated": 6, "stuck": 0}
    assert len(capsys.readouterr().err.splitlines()) == MOST_LINES
