"""Limits of the parser: each costs the lines that exceed it, is counted under its name, and leaves the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.exposition import DifferentialParser, grammar, parser

if TYPE_CHECKING:
    from vllm_sidecar.exposition.layout import Exposition

GOOD = b"good 1\n"


def values(exposition: Exposition) -> dict[str, float]:
    return {name: value for (name, _), value in zip(exposition.layout.series, exposition.values, strict=True)}


def labels(count: int) -> bytes:
    return b",".join(b'l%d="x"' % number for number in range(count))


LINES = {
    "line_length": b'a{b="' + b"x" * parser.MAX_LINE + b'"} 1',
    "name_length": b"a" * (grammar.MAX_NAME + 1) + b" 1",
    "labels": b"a{" + labels(grammar.MAX_LABELS + 1) + b"} 1",
    "number_length": b"a " + b"9" * (grammar.MAX_NUMBER + 1),
}


@pytest.mark.parametrize(("limit", "line"), LINES.items(), ids=LINES)
def test_a_line_beyond_a_limit_is_rejected_and_counted_at_every_poll(limit: str, line: bytes) -> None:
    reader = DifferentialParser()
    for poll in (b"1", b"2", b"3"):
        exposition = reader.parse(b"good " + poll + b"\n" + line + b"\n")
        assert values(exposition) == {"good": float(poll)}
        assert (exposition.limits, exposition.rejected_count) == ({limit: 1}, 1)


AT_THE_LIMIT = {
    "line": b'a{b="' + b"x" * (parser.MAX_LINE - 9) + b'"} 1',
    "name": b"a" * grammar.MAX_NAME + b" 1",
    "label name": b"a{" + b"b" * grammar.MAX_NAME + b'="x"} 1',
    "labels": b"a{" + labels(grammar.MAX_LABELS) + b"} 1",
    "number": b"a " + b"0" * (grammar.MAX_NUMBER - 1) + b"1",
}


@pytest.mark.parametrize("line", AT_THE_LIMIT.values(), ids=AT_THE_LIMIT)
def test_a_line_at_a_limit_is_read(line: bytes) -> None:
    exposition = DifferentialParser().parse(line + b"\n")
    assert (exposition.values, exposition.limits) == ([1.0], {})


@pytest.mark.parametrize(
    "line",
    [b"a{" + b"b" * (grammar.MAX_NAME + 1) + b'="x"} 1', b"# TYPE " + b"b" * (grammar.MAX_NAME + 1) + b" gauge"],
    ids=["a label name", "a family"],
)
def test_other_names_have_the_same_limit(line: bytes) -> None:
    assert DifferentialParser().parse(GOOD + line + b"\n").limits == {"name_length": 1}


def test_a_number_that_grows_beyond_the_limit_is_rejected_and_the_line_is_read_again_later() -> None:
    reader = DifferentialParser()
    reader.parse(b"a 1\nb 2\n")
    assert values(reader.parse(b"a " + b"1" * 200 + b"\nb 3\n")) == {"b": 3.0}
    assert values(reader.parse(b"a 4\nb 5\n")) == {"a": 4.0, "b": 5.0}


def test_lines_after_the_last_one_that_is_read_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "MAX_LINES", 3)
    reader = DifferentialParser()
    for poll in (b"1", b"2"):
        exposition = reader.parse(b"a " + poll + b"\nb 1\nc 1\nd 1\ne 1\n")
        assert values(exposition) == {"a": float(poll), "b": 1.0, "c": 1.0}
        assert (exposition.limits, exposition.rejected_count) == ({"lines": 2}, 0)
    assert reader.parse(b"a 1\nb 1\nc 1\nd 1\n").limits == {"lines": 1}
    assert reader.parse(b"a 1\nb 1\nc 1\n").limits == {}


def test_one_name_cannot_displace_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "MAX_PER_NAME", 2)
    reader = DifferentialParser()
    many = b"".join(b'many{n="%d"} %%d\n' % number for number in range(5))
    for poll in (1, 2, 2):
        exposition = reader.parse(many % ((poll,) * 5) + b"after %d\n" % poll)
        assert exposition.values == [poll, poll, poll]
        assert [name for name, _ in exposition.layout.series] == ["many", "many", "after"]
        assert exposition.limits == {"series_per_name": 3}


def test_of_too_many_names_the_first_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "MAX_NAMES", 2)
    exposition = DifferentialParser().parse(
        b'# TYPE a gauge\n# TYPE b gauge\n# TYPE c gauge\n# TYPE a counter\na 1\nb 2\nc 3\na{x="y"} 4\n'
    )
    assert exposition.values == [1.0, 2.0, 4.0]
    assert exposition.layout.families == {"a": "counter", "b": "gauge"}
    assert exposition.limits == {"names": 2}


def test_a_body_is_read_in_steps_of_few_lines_and_a_long_line_is_followed_by_a_pause() -> None:
    body = b"".join(b"a%d 1\n" % number for number in range(2 * parser.READ_AT_ONCE))
    assert sum(1 for _ in DifferentialParser().steps(body)) >= 3
    long = b"".join(b'a%d{b="%s"} 1\n' % (number, b"x" * parser.LONG_LINE) for number in range(50))
    assert sum(1 for _ in DifferentialParser().steps(long)) >= 50


def test_lines_are_compared_in_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "AT_ONCE", 10)
    reader = DifferentialParser()
    body = b"".join(b"a%d %%d\n" % number for number in range(95))
    first = reader.parse(body % ((1,) * 95))
    steps = sum(1 for _ in reader.steps(body % tuple(range(95))))
    assert steps >= 10
    again = reader.parse(body % tuple(range(95)))
    assert again.layout is first.layout
    assert again.values == [float(number) for number in range(95)]


@pytest.mark.parametrize("families", [b"", b"# TYPE a gauge\n"], ids=["without families", "with families"])
def test_a_body_of_which_no_sample_can_be_read_is_refused(families: bytes) -> None:
    reader = DifferentialParser()
    with pytest.raises(Exception, match="no sample in the body, line") as caught:
        reader.parse(families + b"a x\na y\n")
    assert caught.value.reason.value == ("unreadable" if families else "not_prometheus")  # type: ignore[attr-defined]
    assert reader.parse(families + b"a 1\n").values == [1.0]
