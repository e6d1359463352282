"""Logging: every record is one line, in both formats, whatever it holds."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.logs import JsonFormatter, LogfmtFormatter, event, setup

if TYPE_CHECKING:
    from collections.abc import Iterator

TS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root, access = logging.getLogger(), logging.getLogger("aiohttp.access")
    before = root.handlers[:], root.level, access.level
    yield
    root.handlers[:], root.level, access.level = before


@pytest.fixture
def logger() -> logging.Logger:
    return logging.getLogger("vllm_sidecar.serve.target")


def written(
    fmt: Literal["logfmt", "json"], level: Literal["debug", "info", "warning", "error"] = "info"
) -> io.StringIO:
    stream = io.StringIO()
    setup(level, fmt, stream)
    return stream


def record_of(name: str = "target_down", **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("vllm_sidecar.serve.target", logging.WARNING, __file__, 1, name, (), None)
    record.created = 1_700_000_000.0625
    record.fields = fields
    return record


def test_logfmt_writes_the_fixed_keys_first_and_then_the_fields_in_order() -> None:
    line = LogfmtFormatter().format(record_of(target="a", age_seconds=1.5, stale=True, reason=None))

    assert line == (
        "ts=2023-11-14T22:13:20.062Z level=warning component=serve.target event=target_down"
        " target=a age_seconds=1.5 stale=true reason=null"
    )


def test_json_keeps_numbers_bools_and_null_and_writes_the_rest_as_text() -> None:
    line = JsonFormatter().format(record_of(n=1, x=1.5, ok=False, none=None, nan=float("nan"), path={"a"}))

    assert json.loads(line) == {
        "ts": "2023-11-14T22:13:20.062Z",
        "level": "warning",
        "component": "serve.target",
        "event": "target_down",
        "n": 1,
        "x": 1.5,
        "ok": False,
        "none": None,
        "nan": "nan",
        "path": "{'a'}",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain/text:1", "plain/text:1"),
        ("größe", "größe"),
        ("", '""'),
        ("two words", '"two words"'),
        ('a"b', r'"a\"b"'),
        ("a=b", '"a=b"'),
        ("a\\b", r'"a\\b"'),
        ("a\nb\tc\x00", r'"a\nb\tc\u0000"'),
        ("a\x7fb\u2028c\x85", r'"a\u007fb\u2028c\u0085"'),
        ("\ud800", r'"\ud800"'),
    ],
)
def test_logfmt_quotes_what_would_break_a_line_or_a_value(value: str, text: str) -> None:
    assert LogfmtFormatter().format(record_of(v=value)).partition(" v=")[2] == text


@given(st.text())
def test_a_value_in_logfmt_is_one_line_of_printable_text_that_reads_back(value: str) -> None:
    line = LogfmtFormatter().format(record_of(v=value))
    text = line.partition(" v=")[2]

    assert line.isprintable()
    assert (json.loads(text) if text.startswith('"') else text) == value


@given(st.dictionaries(st.text(), st.text() | st.floats() | st.integers()))
def test_a_record_in_json_is_one_valid_line_whatever_its_fields(fields: dict[str, object]) -> None:
    record = record_of()
    record.fields = fields
    line = JsonFormatter().format(record)

    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line, parse_constant=pytest.fail)["event"] == "target_down"


def test_a_field_cannot_take_the_place_of_a_fixed_key_nor_break_its_own() -> None:
    record = record_of()
    record.fields = {"event": "x", "a b=c": "y", "": "z"}

    assert LogfmtFormatter().format(record).endswith(" event=target_down event_=x a_b_c=y _=z")


def test_records_of_other_libraries_become_the_event_log_with_a_message() -> None:
    stream = written("logfmt")
    logging.getLogger("aiohttp.server").error("Error handling %s", "request\n1")

    assert stream.getvalue().partition(" ")[2] == (
        'level=error component=aiohttp.server event=log message="Error handling request\\n1"\n'
    )


@pytest.mark.parametrize("fmt", ["logfmt", "json"])
def test_an_exception_is_one_field_on_the_same_line(fmt: Literal["logfmt", "json"], logger: logging.Logger) -> None:
    stream = written(fmt)
    with pytest.raises(ValueError) as caught:
        int("bad\nnews")
    event(logger, logging.ERROR, "internal_error", exc_info=caught.value, target="a")

    (line,) = stream.getvalue().splitlines()
    text = json.loads(line)["exception"] if fmt == "json" else json.loads(line.partition("exception=")[2])
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("ValueError: invalid literal for int() with base 10: 'bad\\nnews'")


def test_an_event_carries_its_time_level_component_name_and_fields(logger: logging.Logger) -> None:
    stream = written("logfmt")
    event(logger, logging.INFO, "target_up", level="shadowed", name="a b")
    ts, *rest = shlex.split(stream.getvalue())

    assert TS.fullmatch(ts.removeprefix("ts="))
    assert rest == ["level=info", "component=serve.target", "event=target_up", "level_=shadowed", "name=a b"]


def test_an_event_names_the_line_that_logged_it(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    written("logfmt")
    event(logger, logging.INFO, "target_up")

    assert caplog.records[0].funcName == "test_an_event_names_the_line_that_logged_it"


def test_only_events_of_the_level_or_above_are_written(logger: logging.Logger) -> None:
    stream = written("logfmt", "warning")
    event(logger, logging.INFO, "quiet")
    event(logger, logging.WARNING, "loud")

    assert [line.split()[3] for line in stream.getvalue().splitlines()] == ["event=loud"]


@pytest.mark.parametrize("level", ["debug", "info"])
def test_the_access_log_of_aiohttp_is_silent_up_to_warnings(level: Literal["debug", "info"]) -> None:
    stream = written("logfmt", level)
    logging.getLogger("aiohttp.access").info("GET /metrics")
    logging.getLogger("aiohttp.access").warning("odd")

    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == ["message=odd"]


def test_setup_again_replaces_its_own_handler_and_leaves_others(logger: logging.Logger) -> None:
    others = [handler for handler in logging.getLogger().handlers if handler.get_name() != "vllm_sidecar"]
    first, second = written("logfmt"), written("json")
    event(logger, logging.INFO, "target_up")

    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["event"] == "target_up"
    assert logging.getLogger().handlers[:-1] == others


def test_standard_error_is_where_events_go(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    setup("info", "logfmt")
    event(logger, logging.INFO, "target_up")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(" event=target_up\n")
