"""Properties of the parser: it agrees with prometheus_client, and what it remembers never changes what it reads."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import captured
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from properties import examples

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.exposition import DifferentialParser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vllm_sidecar.exposition.layout import Exposition

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float | str]


def ours(exposition: Exposition) -> Samples:
    pairs = zip(exposition.layout.series, exposition.values, strict=True)
    return {series: captured.plain(value) for series, value in pairs}


def theirs(parse: Callable[[str], Iterable[Any]], body: str) -> Samples:
    found: Samples = {}
    for family in parse(body):
        for sample in family.samples:
            found.setdefault((sample.name, tuple(sorted(sample.labels.items()))), captured.plain(float(sample.value)))
    return found


names = st.from_regex(r"[a-z_][a-z0-9_:]{0,8}", fullmatch=True)
label_names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,5}", fullmatch=True).filter(
    lambda name: not name.startswith("__")
)
label_values = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n{},=# %'), max_size=8)
numbers = (
    st.floats().map(lambda value: {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(repr(value), repr(value)))
    | st.integers(-(10**20), 10**20).map(str)
    | st.sampled_from(["1e+06", "5.", ".5", "+3", "-0", "1E-7"])
)
blanks = st.sampled_from(["", " ", "\t", "  "])


def escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


@st.composite
def sample_lines(draw: st.DrawFn, name: st.SearchStrategy[str] = names) -> str:
    labels = draw(st.dictionaries(label_names, label_values, max_size=3))
    pairs = [f'{draw(blanks)}{key}{draw(blanks)}={draw(blanks)}"{escaped(value)}"' for key, value in labels.items()]
    comma = "," if pairs and draw(st.booleans()) else ""
    braces = f"{{{','.join(pairs)}{comma}{draw(blanks)}}}" if pairs or draw(st.booleans()) else ""
    stamp = draw(st.sampled_from(["", "", " 1700000000000"]))
    return f"{draw(name)}{braces} {draw(blanks)}{draw(numbers)}{stamp}"


comments = st.sampled_from(
    ["# HELP a text", "# TYPE a gauge", "# TYPE a_b_total counter", "# a comment", "#", "", "  "]
)


@examples(200)
@given(st.lists(sample_lines() | comments, max_size=20))
def test_a_generated_text_body_reads_as_prometheus_client_reads_it(lines: list[str]) -> None:
    body = "a_sample 1\n" + "".join(line + "\n" for line in lines)
    exposition = DifferentialParser().parse(body.encode())
    assert ours(exposition) == theirs(parse_text, body)
    written = sum(1 for line in lines if line.strip() and not line.startswith("#")) + 1
    assert len(exposition.values) + exposition.rejected_count == written


@given(st.dictionaries(label_values.filter(bool), label_values, min_size=1, max_size=3), label_values.filter(bool))
def test_quoted_names_of_text_1_0_0_read_as_they_were_written(labels: dict[str, str], name: str) -> None:
    pairs = "".join(f',"{escaped(key)}"="{escaped(value)}"' for key, value in labels.items())
    exposition = DifferentialParser().parse(f'{{"{escaped(name)}"{pairs}}} 1\n'.encode())
    assert ours(exposition) == {(name, tuple(sorted(labels.items()))): 1.0}


@st.composite
def openmetrics_bodies(draw: st.DrawFn) -> str:
    lines = []
    for number, kind in enumerate(draw(st.lists(st.sampled_from(["gauge", "counter", "unknown"]), max_size=5))):
        name = f"m{number}"
        lines.append(f"# TYPE {name} {kind}")
        value = st.integers(0, 10**9).map(str) if kind == "counter" else numbers
        for label in draw(st.lists(label_values, unique=True, max_size=3)):
            exemplar = ' # {trace_id="x"} 0.5' if kind == "counter" and draw(st.booleans()) else ""
            suffix = "_total" if kind == "counter" else ""
            lines.append(f'{name}{suffix}{{a="{escaped(label)}"}} {draw(value)}{exemplar}')
    return "".join(line + "\n" for line in [*lines, "# TYPE last gauge", "last 1", "# EOF"])


@given(openmetrics_bodies())
def test_a_generated_openmetrics_body_reads_as_prometheus_client_reads_it(body: str) -> None:
    exposition = DifferentialParser().parse(body.encode(), "application/openmetrics-text")
    assert ours(exposition) == theirs(parse_openmetrics, body)
    assert exposition.rejected_count == 0
    assert exposition.layout.families == {family.name: family.type for family in parse_openmetrics(body)}


@pytest.mark.parametrize("name", captured.TEXT_NAMES)
def test_a_capture_reads_as_prometheus_client_reads_it(name: str) -> None:
    body = captured.text(name)
    exposition = DifferentialParser().parse(body.encode())
    assert ours(exposition) == theirs(parse_text, body)
    lines = [line for line in body.splitlines() if not line.startswith("#")]
    assert len(exposition.values) + exposition.rejected_count == len(lines)


def test_the_openmetrics_capture_reads_as_prometheus_client_reads_it() -> None:
    body = captured.text("0.32.0__baseline__idle-slash.openmetrics")
    exposition = DifferentialParser().parse(body.encode(), "application/openmetrics-text; version=1.0.0")
    assert exposition.rejected_count == 0
    # prometheus_client's strict parser refuses samples that do not bear their family's name, so it gets the same names.
    assert ours(exposition) == theirs(parse_openmetrics, body.replace("vllm:", "vllm_"))


def outcome(parser: DifferentialParser, body: bytes) -> tuple[object, ...]:
    """All that a result says, or the reason why there is none."""
    try:
        exposition = parser.parse(body)
    except PollError as error:
        return (error.reason, error.detail)
    return said(exposition)


def said(exposition: Exposition) -> tuple[object, ...]:
    layout = exposition.layout
    values = [captured.plain(value) for value in exposition.values]
    return (
        layout.series, dict(layout.families), layout.openmetrics, values, exposition.rejected,
        exposition.rejected_count,
    )  # fmt: skip


heads = st.sampled_from(
    [b"a ", b"b ", b"bb ", b'a{x="1"} ', b'a{x="1",y="2"} ', b'a{y="2",x="1"} ', b'a{x="\xc3\xa9"} ']
)
tails = st.sampled_from([b"1", b"2", b"3.5", b"NaN", b"+Inf", b" 7", b"1 "])
odd_tails = st.sampled_from(
    [b"", b"1_0", b"1\r", b"1\x0b", b"1\x0c", b"1\xa0", b"0x1", b"1 5", b"1\t5", b"x", b"1 # {} 2"]
)
odd_lines = st.sampled_from(
    [
        *(b"", b" ", b"\r", b"# x", b"# EOF", b"{", b"1 1", b"# HELP a \xff"),
        *(b"# TYPE a gauge", b"# TYPE a counter", b"# TYPE a", b"  # TYPE b gauge"),
        *(b"a\t1", b"a 1\t", b' a{x="1"} 4', b'a{x="1"}4', b'{"a",x="1"} 9'),
        *(b'a{x="\xff"} 1', b'a{x="1",x="1"} 1', b'a{x="q 1'),
    ]
)
one_line = st.one_of(
    st.builds(bytes.__add__, heads, tails),
    st.builds(bytes.__add__, heads, tails),
    st.builds(bytes.__add__, heads, odd_tails),
    odd_lines,
)


@st.composite
def mutated_bodies(draw: st.DrawFn) -> list[bytes]:
    """Bodies each of which is the one before with a few changes."""
    lines = draw(st.lists(one_line, min_size=1, max_size=10))
    bodies = [lines]
    for _ in range(draw(st.integers(1, 5))):
        lines = list(lines)
        for _ in range(draw(st.integers(0, 3))):
            place = draw(st.integers(0, len(lines) - 1))
            change = draw(st.sampled_from(["value", "value", "value", "replace", "insert", "delete", "move", "repeat"]))
            if change == "value" and b" " in lines[place]:
                lines[place] = lines[place].rpartition(b" ")[0] + b" " + draw(tails | odd_tails)
            elif change == "replace":
                lines[place] = draw(one_line)
            elif change == "insert":
                lines.insert(place, draw(one_line))
            elif change == "repeat":
                lines.append(lines[place])
            elif change == "move":
                lines.append(lines.pop(place))
            elif change == "delete" and len(lines) > 1:
                del lines[place]
        bodies.append(lines)
    return [b"".join(line + b"\n" for line in lines) for lines in bodies]


@examples(500)
@given(mutated_bodies())
def test_a_parser_that_remembers_reads_each_body_as_a_new_one_does(bodies: list[bytes]) -> None:
    parser = DifferentialParser()
    for body in bodies:
        assert outcome(parser, body) == outcome(DifferentialParser(), body)


@given(mutated_bodies())
def test_a_result_stays_as_it_was_when_later_bodies_are_read(bodies: list[bytes]) -> None:
    parser = DifferentialParser()
    results = []
    for body in bodies:
        try:
            exposition = parser.parse(body)
        except PollError:
            continue
        results.append((exposition, said(exposition)))
    for exposition, before in results:
        assert said(exposition) == before


@given(st.lists(st.lists(st.floats(), min_size=4, max_size=4), min_size=2, max_size=5))
def test_the_layout_is_one_object_for_bodies_that_differ_in_values_only(polls: list[list[float]]) -> None:
    parser = DifferentialParser()
    layouts = Counter(
        id(parser.parse("".join(f'a{{n="{n}"}} {value!r}\n' for n, value in enumerate(poll)).encode()).layout)
        for poll in polls
    )
    assert list(layouts.values()) == [len(polls)]


@pytest.mark.parametrize("name", captured.LOADED)
def test_the_states_of_a_recorded_server_read_one_after_the_other_as_each_alone(name: str) -> None:
    states = [captured.text(name.replace("after", state)).encode() for state in ("idle", "load", "after")]
    parser = DifferentialParser()
    for body in [*states, states[0], states[2]]:
        assert outcome(parser, body) == outcome(DifferentialParser(), body)
