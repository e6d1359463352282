"""The parser of whole bodies: what it refuses, what it leaves out, and what it keeps from one body to the next."""

from __future__ import annotations

import os
import tracemalloc
from typing import TYPE_CHECKING

import captured
import pytest

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.exposition import DifferentialParser, parser

if TYPE_CHECKING:
    from vllm_sidecar.exposition.layout import Exposition

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def values(exposition: Exposition) -> dict[str, float]:
    """Values by name and labels."""
    pairs = zip(exposition.layout.series, exposition.values, strict=True)
    return {name + "".join(f",{k}={v}" for k, v in labels): value for (name, labels), value in pairs}


def refusal(body: bytes, content_type: str = "") -> PollError:
    with pytest.raises(PollError) as caught:
        DifferentialParser().parse(body, content_type)
    return caught.value


REFUSED = {
    "no byte": (b"", Reason.EMPTY),
    "line breaks only": (b"\n\n", Reason.EMPTY),
    "blanks only": (b"  \t\n " * 100, Reason.EMPTY),
    "comments only": (b"# HELP a b\n# nothing here\n", Reason.EMPTY),
    "an HTML page": (b"<!DOCTYPE html>\n<html></html>\n", Reason.NOT_PROMETHEUS),
    "an HTML page after white space": (b"\n\n  <html>\n", Reason.NOT_PROMETHEUS),
    "an HTML page after 300 blanks": (b" " * 300 + b"\n<html>\n", Reason.NOT_PROMETHEUS),
    "an HTML page without a line break": (b"<html></html>", Reason.NOT_PROMETHEUS),
    "a JSON object": (b'{"detail":"Not Found"}', Reason.NOT_PROMETHEUS),
    "a JSON object on several lines": (b'{\n  "object": "list",\n  "data": []\n}\n', Reason.NOT_PROMETHEUS),
    "a JSON object on several lines without a last line break": (b'{\n  "a": 1\n}', Reason.NOT_PROMETHEUS),
    "an empty JSON object": (b"{}", Reason.NOT_PROMETHEUS),
    "a JSON list": (b"[]\n", Reason.NOT_PROMETHEUS),
    "words without a line break": (b"Not Found", Reason.NOT_PROMETHEUS),
    "words": (b"404 page not found\n", Reason.NOT_PROMETHEUS),
    "bytes that are no text": (bytes(range(128, 256)) * 9 + b"\n", Reason.NOT_PROMETHEUS),
    "more bad lines than good ones": (b"a 1\n" + b"this is no metric\n" * 1_001, Reason.NOT_PROMETHEUS),
    "half a line": (b"a 1\nb{c=", Reason.TRUNCATED),
    "half a number": (b"# TYPE a gauge\na 123", Reason.TRUNCATED),
    "half a comment": (b"# HELP vllm:num_requ", Reason.TRUNCATED),
    "line ends of Windows": (b"# TYPE a gauge\r\na 1\r\n", Reason.UNREADABLE),
}


@pytest.mark.parametrize(("body", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_body_that_is_no_exposition_is_refused_with_its_reason(body: bytes, reason: Reason) -> None:
    assert refusal(body).reason is reason


def test_openmetrics_without_its_end_mark_is_truncated() -> None:
    assert refusal(b"# TYPE a gauge\na 1\n", OPENMETRICS).reason is Reason.TRUNCATED


def test_openmetrics_is_cut_before_its_end_mark_even_where_a_line_ends() -> None:
    body = captured.text("0.32.0__baseline__idle-slash.openmetrics").encode()
    cut = body[: body.rindex(b"\n", 0, len(body) // 2) + 1]
    assert refusal(cut, OPENMETRICS).reason is Reason.TRUNCATED


@pytest.mark.parametrize("end", [b"# EOF\n", b"# EOF"])
def test_openmetrics_ends_with_its_end_mark_with_or_without_a_line_break(end: bytes) -> None:
    exposition = DifferentialParser().parse(b"# TYPE a counter\na_total 1\n" + end, OPENMETRICS)
    assert exposition.layout.openmetrics
    assert exposition.layout.families == {"a": "counter"}
    assert values(exposition) == {"a_total": 1.0}


def test_what_follows_the_end_mark_is_rejected() -> None:
    exposition = DifferentialParser().parse(b"a 1\n# EOF\nb 1\n\n")
    assert values(exposition) == {"a": 1.0}
    assert [(line.line, line.why) for line in exposition.rejected] == [(3, "text after # EOF")]


def test_a_text_body_is_not_openmetrics() -> None:
    assert not DifferentialParser().parse(b"a 1\n").layout.openmetrics


def test_a_refused_json_body_is_shown() -> None:
    assert '{"detail":"Not Found"}' in refusal(b'{"detail":"Not Found"}').detail


def test_a_body_of_types_alone_is_an_exposition_without_samples() -> None:
    exposition = DifferentialParser().parse(b"# TYPE a gauge\n")
    assert exposition.layout.families == {"a": "gauge"}
    assert exposition.layout.series == ()


def test_a_comment_may_be_indented() -> None:
    exposition = DifferentialParser().parse(b" \t# TYPE a gauge\n  # HELP a text\n a 1\n")
    assert exposition.layout.families == {"a": "gauge"}
    assert exposition.rejected_count == 0


def test_a_quoted_name_in_the_first_line_is_no_json() -> None:
    assert values(DifferentialParser().parse(b'{"a:b.c",d="e"} 1\n')) == {"a:b.c,d=e": 1.0}


def test_malformed_lines_are_counted_and_described_and_the_rest_survives() -> None:
    body = b'a 1\nb 1_0\n# TYPE c dial\nd{e="1",e="2"} 1\n\na 2\nf{g="\xff"} 1\nh 1 1700000000000\n'
    exposition = DifferentialParser().parse(body)
    assert values(exposition) == {"a": 1.0, "h": 1.0}
    assert exposition.rejected_count == 5
    assert [(line.line, line.why, line.text) for line in exposition.rejected] == [
        (2, "unexpected text after the value", "b 1_0"),
        (3, "# TYPE needs a name and a known type", "# TYPE c dial"),
        (4, "label e occurs twice", 'd{e="1",e="2"} 1'),
        (6, "the same series occurs twice", "a 2"),
        (7, "not valid UTF-8", 'f{g="\ufffd"} 1'),
    ]


def test_many_malformed_lines_are_all_counted_but_only_the_first_are_described() -> None:
    exposition = DifferentialParser().parse(b"a 1\n" + b"no metric here\n" * 1_000)
    assert exposition.rejected_count == 1_000
    assert [line.line for line in exposition.rejected] == list(range(2, 2 + parser.DESCRIBED))


def test_more_than_a_thousand_malformed_lines_are_bearable_among_more_good_ones() -> None:
    good = b"".join(b"a%d 1\n" % number for number in range(1_500))
    exposition = DifferentialParser().parse(good + b"no metric here\n" * 1_500)
    assert len(exposition.values) == exposition.rejected_count == 1_500


def test_the_text_of_a_rejected_line_is_cut() -> None:
    exposition = DifferentialParser().parse(b"a 1\n" + b"x" * 10_000 + b"\n")
    assert exposition.rejected[0].text == "x" * 120


def test_the_same_labels_in_another_order_are_a_duplicate_and_the_first_wins() -> None:
    exposition = DifferentialParser().parse(b'a{b="1",c="2"} 1\na{c="2",b="1"} 2\n')
    assert exposition.layout.series == (("a", (("b", "1"), ("c", "2"))),)
    assert exposition.values == [1.0]
    assert exposition.rejected_count == 1


def test_the_duplicates_of_a_multiprocess_server_behind_the_slash_are_counted() -> None:
    exposition = DifferentialParser().parse(captured.text("0.32.0__asc2__after-slash.prom").encode())
    assert exposition.rejected_count == 70
    assert {line.why for line in exposition.rejected} == {"the same series occurs twice"}


def test_a_line_longer_than_a_megabyte_is_rejected_and_the_rest_survives() -> None:
    exposition = DifferentialParser().parse(b'a{b="' + b"x" * parser.MAX_LINE + b'"} 1\nc 1\n')
    assert values(exposition) == {"c": 1.0}
    assert "longer than" in exposition.rejected[0].why


def test_lines_that_end_as_in_windows_are_no_metrics() -> None:
    error = refusal(b"# TYPE a gauge\r\na 1\r\n".replace(b"# TYPE a gauge\r\n", b""))
    assert error.reason is Reason.NOT_PROMETHEUS
    assert "unexpected text after the value" in error.detail


def test_a_parser_that_refused_a_body_reads_the_next_one() -> None:
    parser = DifferentialParser()
    layout = parser.parse(b"a 1\nb 2\n").layout
    for body, reason in REFUSED.values():
        if len(body) < 1_000_000:
            with pytest.raises(PollError) as caught:
                parser.parse(body)
            assert caught.value.reason is reason
    again = parser.parse(b"a 1\nb 3\n")
    assert again.layout is layout
    assert again.values == [1.0, 3.0]


def test_the_layout_stays_the_same_object_while_only_values_change() -> None:
    parser = DifferentialParser()
    first = parser.parse(b"# TYPE a gauge\na 1\nb 2\n")
    second = parser.parse(b"# TYPE a gauge\na NaN\nb +Inf\n")
    third = parser.parse(b"# TYPE a gauge\na 4\nb 2\n")
    assert first.layout is second.layout is third.layout
    assert (first.values, third.values) == ([1.0, 2.0], [4.0, 2.0])


@pytest.mark.parametrize(
    "body",
    [
        b"# TYPE a gauge\n# HELP a new\na 1\nb 2\n",
        b"# TYPE a gauge\na 1 1700000000000\nb 2\n",
        b"# TYPE a gauge\na 1\nb 2\nno metric here\n",
        b"# TYPE a gauge\n\na\t1\nb  2\n",
    ],
    ids=["a comment comes", "a timestamp comes", "a malformed line comes", "blanks come"],
)
def test_the_layout_stays_the_same_object_while_the_same_series_are_there(body: bytes) -> None:
    parser = DifferentialParser()
    first = parser.parse(b"# TYPE a gauge\na 1\nb 2\n")
    assert parser.parse(body).layout is first.layout


@pytest.mark.parametrize(
    "body",
    [b"# TYPE a gauge\na 1\n", b"# TYPE a gauge\nb 2\na 1\n", b"# TYPE a counter\na 1\nb 2\n", b"a 1\nb 2\n"],
    ids=["a series went", "the order changed", "a type changed", "a type went"],
)
def test_the_layout_is_a_new_object_when_what_it_says_changes(body: bytes) -> None:
    parser = DifferentialParser()
    first = parser.parse(b"# TYPE a gauge\na 1\nb 2\n")
    assert parser.parse(body).layout is not first.layout


@pytest.mark.parametrize("number", ["1_0", "1\r", "1\f", "1\v", "0x1", "", "1 x", "\u0661"])
def test_a_number_that_turns_bad_is_rejected_though_the_line_is_known(number: str) -> None:
    parser = DifferentialParser()
    parser.parse(b"a 1\nb 2\n")
    for _ in range(2):
        exposition = parser.parse(f"a {number}\nb 3\n".encode())
        assert values(exposition) == {"b": 3.0}
        assert exposition.rejected_count == 1
    assert values(parser.parse(b"a 5\nb 3\n")) == {"a": 5.0, "b": 3.0}


def _lines(size: int) -> bytes:
    row = b"all work and no play makes jack a dull boy, says line\n"
    return row * (size // len(row))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (lambda size: b"x" * size, Reason.NOT_PROMETHEUS),
        (lambda size: b"x" * size + b"\n", Reason.NOT_PROMETHEUS),
        (lambda size: b'a{b="' + rb"\n" * (size // 2) + b"\n", Reason.NOT_PROMETHEUS),
        (lambda size: os.urandom(1 << 20) * (size >> 20) + b"\n", Reason.NOT_PROMETHEUS),
        (_lines, Reason.NOT_PROMETHEUS),
        (lambda size: b"\n" * (size - 1) + b"x\n", Reason.EMPTY),
    ],
    ids=["one line without end", "one line", "an open quote with escapes", "noise", "prose", "line breaks"],
)
def test_fifty_megabytes_of_garbage_are_refused_with_little_more_memory(garbage, reason: Reason) -> None:  # type: ignore[no-untyped-def]
    body = garbage(50 << 20)
    tracemalloc.start()
    try:
        assert refusal(body).reason is reason
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(body)


def test_series_share_their_names_and_their_label_pairs() -> None:
    lines = "".join(f'm{{engine="{engine}",model="a-model"}} 1.0\n' for engine in range(2))
    one, other = DifferentialParser().parse(lines.encode()).layout.series
    assert one[0] is other[0]
    assert one[1][1] is other[1][1]
