"""The renderer: what it writes is read back by prometheus_client, and what it remembers never shows."""

from __future__ import annotations

import re

import captured
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from vllm_sidecar.exposition import DifferentialParser, Family, Renderer, labels_text
from vllm_sidecar.exposition.metric_values import Histogram, Summary, Value

Pairs = tuple[tuple[str, str], ...]
Written = list[tuple[Family, list[tuple[Pairs, Value]]]]
Samples = dict[tuple[str, Pairs], float | str]

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**15).map(float)
label_values = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n%{},='), max_size=8)
label_sets = st.dictionaries(st.sampled_from(["model_name", "engine", "reason", "x"]), label_values, max_size=3)
edges = st.lists(st.floats(0, 1e9), unique=True, max_size=5).map(lambda values: tuple(sorted(values)))


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    bounds = draw(edges)
    cumulative = sorted(draw(st.lists(counts, min_size=len(bounds) + 1, max_size=len(bounds) + 1)))
    return Histogram(bounds, tuple(cumulative), draw(st.floats(0, 1e9)))


@st.composite
def summaries(draw: st.DrawFn) -> Summary:
    quantiles = draw(st.lists(st.sampled_from([0.5, 0.9, 0.95, 0.99]), unique=True))
    return Summary(tuple((q, draw(st.floats(0, 1e9))) for q in quantiles), draw(st.floats(0, 1e9)), draw(counts))


VALUES: dict[str, st.SearchStrategy[Value]] = {
    "gauge": st.floats(),
    "counter": st.floats(0, 1e300),
    "info": st.just(1.0),
    "histogram": histograms(),
    "summary": summaries(),
}
SUFFIX = {"counter": "_total", "info": "_info"}


@st.composite
def family_lists(draw: st.DrawFn) -> Written:
    families: Written = []
    for number, kind in enumerate(draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=4))):
        unit = draw(st.sampled_from(["", "seconds"])) if kind != "info" else ""
        metric = f"m{number}{'_' + unit if unit else ''}{SUFFIX.get(kind, '')}"
        help_text = f"A{draw(label_values)}."
        labels = draw(st.lists(label_sets, max_size=3, unique_by=lambda pairs: labels_text(pairs.items())))
        series: list[tuple[Pairs, Value]] = [(tuple(pairs.items()), draw(VALUES[kind])) for pairs in labels]
        families.append((Family(metric, kind, help_text, unit), series))
    return families


def render(renderer: Renderer, families: Written, *, openmetrics: bool) -> str:
    texts = [(family, [(labels_text(pairs), value) for pairs, value in series]) for family, series in families]
    return renderer.render(texts, openmetrics=openmetrics).decode()


def samples_of(families: Written) -> Samples:
    """What a reader must find, written down without the renderer."""
    found: Samples = {}
    for family, series in families:
        for given_pairs, value in series:
            pairs = tuple(sorted((name, text) for name, text in given_pairs if text))
            if isinstance(value, float):
                found[family.metric, pairs] = captured.plain(value)
                continue
            if isinstance(value, Histogram):
                parts = zip((*value.bounds, "+Inf"), value.cumulative, strict=True)
                count, suffix, label = value.cumulative[-1], "_bucket", "le"
            else:
                parts = iter(value.quantiles)
                count, suffix, label = value.observations, "", "quantile"
            if value.total is not None or not isinstance(value, Histogram):
                found[family.metric + "_count", pairs] = count
            if value.total is not None:
                found[family.metric + "_sum", pairs] = value.total
            for edge, number in parts:
                text = edge if isinstance(edge, str) else repr(edge)
                found[family.metric + suffix, tuple(sorted((*pairs, (label, text))))] = number
    return found


def read_back(parsed: object) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): captured.plain(float(sample.value))
        for family in parsed  # type: ignore[attr-defined]
        for sample in family.samples
    }


@given(family_lists())
def test_text_is_read_back_by_prometheus_client(families: Written) -> None:
    text = render(Renderer(), families, openmetrics=False)
    assert read_back(parse_text(text)) == samples_of(families)


@given(family_lists())
def test_openmetrics_is_read_back_by_prometheus_client(families: Written) -> None:
    text = render(Renderer(), families, openmetrics=True)
    parsed = list(parse_openmetrics(text))
    assert read_back(parsed) == samples_of(families)
    shown = {
        family.metric.removesuffix(SUFFIX.get(family.kind, "")): (family.kind, family.unit)
        for family, series in families
        if series
    }
    assert {family.name: (family.type, family.unit) for family in parsed} == shown


@given(family_lists())
def test_help_texts_are_read_back_from_both_formats(families: Written) -> None:
    expected = [family.help for family, series in families if series]
    openmetrics = parse_openmetrics(render(Renderer(), families, openmetrics=True))
    assert [family.documentation for family in openmetrics] == expected
    lines = re.findall(r"^# HELP \S+ (.*)$", render(Renderer(), families, openmetrics=False), re.MULTILINE)
    unescaped = [re.sub(r"\\([\\n])", lambda found: "\n" if found[1] == "n" else "\\", line) for line in lines]
    assert unescaped == expected


@given(family_lists())
def test_both_formats_have_the_same_sample_lines(families: Written) -> None:
    text, openmetrics = (render(Renderer(), families, openmetrics=flag).split("\n") for flag in (False, True))
    samples = [line for line in text if not line.startswith("# ")]
    assert samples == [line for line in openmetrics if not line.startswith("# ")]


@given(family_lists())
def test_our_own_parser_reads_what_our_renderer_writes(families: Written) -> None:
    exposition = DifferentialParser().parse(b"first 1\n" + render(Renderer(), families, openmetrics=True).encode())
    pairs = zip(exposition.layout.series, exposition.values, strict=True)
    found = {series: captured.plain(value) for series, value in pairs}
    assert found == {("first", ()): 1.0} | samples_of(families)
    assert exposition.rejected_count == 0


@st.composite
def polls(draw: st.DrawFn) -> list[Written]:
    """What successive polls give for the same families: series come, go, move and change their values and bounds."""
    kinds = ("gauge", "histogram", "summary")
    # The renderer may show -0.0 as 0.0 or the other way round: they are equal.
    strategies = VALUES | {"gauge": st.floats().map(lambda value: value + 0.0)}
    pool = {kind: draw(st.lists(strategies[kind], min_size=2, max_size=4)) for kind in kinds}
    names = ("a", "b", "%s", 'q"')
    result = []
    for _ in range(draw(st.integers(2, 5))):
        written: Written = []
        for kind in kinds:
            chosen = draw(st.lists(st.sampled_from(names), unique=True))
            series = [((("x", name),), draw(st.sampled_from(pool[kind]))) for name in chosen]
            written.append((Family(f"m_{kind}", kind, "Help."), series))  # type: ignore[arg-type]
        result.append(written)
    return result


@given(polls(), st.booleans())
def test_a_renderer_that_remembers_writes_what_a_new_one_writes(written: list[Written], openmetrics: bool) -> None:
    renderer = Renderer()
    for families in written:
        expected = render(Renderer(), families, openmetrics=openmetrics)
        assert render(renderer, families, openmetrics=openmetrics) == expected


def test_a_renderer_serves_both_formats_in_turn() -> None:
    renderer = Renderer()
    family = Family("a_total", "counter", "Help.")
    for value in (1.0, 2.0):
        text = renderer.render([(family, [("", value)])], openmetrics=False)
        openmetrics = renderer.render([(family, [("", value)])], openmetrics=True)
        assert text == f"# HELP a_total Help.\n# TYPE a_total counter\na_total {value}\n".encode()
        assert openmetrics == f"# HELP a Help.\n# TYPE a counter\na_total {value}\n# EOF\n".encode()


def test_series_that_come_and_go_leave_nothing_behind() -> None:
    renderer = Renderer()
    family = Family("a", "histogram", "Help.")
    value = Histogram((1.0,), (1.0, 2.0), 3.0)
    for number in range(2_000):
        body = renderer.render([(family, [(f'x="{number}"', value)])], openmetrics=False)
        assert body.count(b"_bucket") == 2
    assert len(renderer._texts["a"]) + len(renderer._templates) < 100


HEADERS = {
    "a counter": (("a_total", "counter", ""), "# TYPE a_total counter", "# TYPE a counter"),
    "a counter with a unit": (
        ("a_seconds_total", "counter", "seconds"),
        "# TYPE a_seconds_total counter",
        "# TYPE a_seconds counter\n# UNIT a_seconds seconds",
    ),
    "an info metric, which the text format does not know": (
        ("a_info", "info", ""),
        "# TYPE a_info gauge",
        "# TYPE a info",
    ),
    "a unit that the name does not end in": (("a", "gauge", "seconds"), "# TYPE a gauge", "# TYPE a gauge"),
}


@pytest.mark.parametrize(("family", "text", "openmetrics"), HEADERS.values(), ids=HEADERS)
def test_the_comments_name_the_family_as_the_format_wants_it(
    family: tuple[str, str, str], text: str, openmetrics: str
) -> None:
    metric, kind, unit = family
    written: Written = [(Family(metric, kind, "Help.", unit), [((), 1.0)])]
    name = openmetrics.split()[2]
    assert render(Renderer(), written, openmetrics=False) == f"# HELP {metric} Help.\n{text}\n{metric} 1.0\n"
    assert render(Renderer(), written, openmetrics=True) == (
        f"# HELP {name} Help.\n{openmetrics}\n{metric} 1.0\n# EOF\n"
    )


def test_a_quote_in_a_help_text_is_escaped_in_openmetrics_only() -> None:
    written: Written = [(Family("a", "gauge", 'A "b" \\ \n.'), [((), 1.0)])]
    assert render(Renderer(), written, openmetrics=False).startswith('# HELP a A "b" \\\\ \\n.\n')
    assert render(Renderer(), written, openmetrics=True).startswith(r"# HELP a A \"b\" \\ \n." + "\n")


def test_a_family_without_series_is_not_mentioned() -> None:
    assert Renderer().render([(Family("a", "gauge", "Help."), [])], openmetrics=False) == b""
    assert Renderer().render([(Family("a", "gauge", "Help."), [])], openmetrics=True) == b"# EOF\n"


def test_a_histogram_has_a_line_for_each_bound_and_neither_count_nor_sum_where_its_sum_is_unknown() -> None:
    series: list[tuple[Pairs, Value]] = [((("x", "50%"),), Histogram((0.5, 1.0), (1.0, 1.0, 4.0), None))]
    assert render(Renderer(), [(Family("a", "histogram", "Help."), series)], openmetrics=False) == (
        "# HELP a Help.\n# TYPE a histogram\n"
        'a_bucket{x="50%",le="0.5"} 1.0\na_bucket{x="50%",le="1.0"} 1.0\na_bucket{x="50%",le="+Inf"} 4.0\n'
    )


def test_a_label_with_an_empty_value_is_no_label() -> None:
    assert labels_text((("a", ""), ("b", "1"), ("c", ""))) == 'b="1"'
