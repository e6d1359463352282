"""The grammar of one line: what is a sample and what is refused."""

from __future__ import annotations

import math

import pytest
from rows import for_each

from vllm_sidecar.exposition.grammar import parse_sample, parse_type

SAMPLES = {
    "a name and a value": ("up 1", "up", {}, 1.0),
    "a name may have colons": ("a:b:c 1", "a:b:c", {}, 1.0),
    "a name may begin with an underscore or a colon": (":_a 1", ":_a", {}, 1.0),
    "braces may be empty": ("up{} 1", "up", {}, 1.0),
    "a label": ('up{job="x"} 1', "up", {"job": "x"}, 1.0),
    "a comma may follow the last label": ('up{job="x",} 1', "up", {"job": "x"}, 1.0),
    "an empty label value stays": ('up{job=""} 1', "up", {"job": ""}, 1.0),
    "blanks and tabs may stand everywhere between tokens": (
        ' \tup \t{ \ta\t= "1" ,\tb ="2"\t, } \t1 \t',
        "up",
        {"a": "1", "b": "2"},
        1.0,
    ),
    "a tab may stand before the value": ("up\t1", "up", {}, 1.0),
    "no blank is needed after a brace": ('up{a="1"}1', "up", {"a": "1"}, 1.0),
    "the three escapes of a label value": (r'up{a="\\ \" \n"} 1', "up", {"a": '\\ " \n'}, 1.0),
    "an escaped backslash before the closing quote": (r'up{a="\\"} 1', "up", {"a": "\\"}, 1.0),
    "an escaped backslash before an n is no line break": (r'up{a="\\n"} 1', "up", {"a": "\\n"}, 1.0),
    "braces, commas, hashes and equals signs in a value": ('up{a="},{=# "} 1', "up", {"a": "},{=# "}, 1.0),
    "UTF-8 in a label value": ('up{a="é 日本 🚀"} 1', "up", {"a": "é 日本 🚀"}, 1.0),
    "a quoted name in the braces": ('{"my.metric"} 1', "my.metric", {}, 1.0),
    "a quoted name before labels": ('{"my.metric",a="1"} 1', "my.metric", {"a": "1"}, 1.0),
    "a quoted name with escapes": (r'{"a\"\\b"} 1', 'a"\\b', {}, 1.0),
    "a quoted label name": ('up{"my.label"="1"} 1', "up", {"my.label": "1"}, 1.0),
    "quoted name and label name": ('{"é","日"="1",b="2"} 1', "é", {"日": "1", "b": "2"}, 1.0),
    "a timestamp is dropped": ("up 1 1700000000000", "up", {}, 1.0),
    "a negative timestamp is dropped": ("up 1 -5", "up", {}, 1.0),
    "an OpenMetrics timestamp with a fraction is dropped": ("up 1 1700000000.123", "up", {}, 1.0),
    "an exemplar is dropped": ('a_bucket{le="1.0"} 3 # {trace_id="x y"} 0.5', "a_bucket", {"le": "1.0"}, 3.0),
    "an exemplar with a timestamp is dropped": ("a_total 3 # {} 0.5 1700000000.1", "a_total", {}, 3.0),
    "an exemplar after a timestamp is dropped": ('a_total 3 17 # {a="}"} 0.5 18', "a_total", {}, 3.0),
    "an exponent": ("a 1.5e+09", "a", {}, 1.5e9),
    "an exponent in capitals": ("a 1E-3", "a", {}, 0.001),
    "a number that begins with its point": ("a .5", "a", {}, 0.5),
    "a number that ends with its point": ("a 5.", "a", {}, 5.0),
    "a signed number": ("a +5", "a", {}, 5.0),
    "a negative number": ("a -0.25", "a", {}, -0.25),
    "leading zeros": ("a 007", "a", {}, 7.0),
    "+Inf": ("a +Inf", "a", {}, math.inf),
    "-Inf": ("a -Inf", "a", {}, -math.inf),
    "infinity without a sign": ("a inf", "a", {}, math.inf),
    "infinity in full": ("a -INFINITY", "a", {}, -math.inf),
    "a number that no float holds": ("a 1e999", "a", {}, math.inf),
}

MALFORMED = {
    "nothing": ("", "no metric name"),
    "no name": ('{a="1"} 1', "no metric name"),
    "a name that begins with a digit": ("1up 1", "no metric name"),
    "a quoted name that is empty": ('{""} 1', "no metric name"),
    "a name with a dash": ("my-metric 1", "no blank after the metric name"),
    "a name that runs into its value": ("up+1", "no blank after the metric name"),
    "a name with a letter beyond ASCII": ("é 1", "no metric name"),
    "no value": ("up", "no blank after the metric name"),
    "no value after a blank": ("up ", "no valid number"),
    "no value after labels": ('up{a="1"}', "no valid number"),
    "two names": ('up{"other"} 1', "a label has no value"),
    "two quoted names": ('{"a","b"} 1', "a label has no value"),
    "a label without value": ("up{a} 1", "a label has no value"),
    "a label with an empty name": ('up{""="1"} 1', "a label has no name"),
    "the same label twice": ('up{a="1",a="2"} 1', "label a occurs twice"),
    "the same label twice, once quoted": ('up{a="1","a"="1"} 1', "label a occurs twice"),
    "a colon in a label name": ('up{a:b="1"} 1', "label pairs"),
    "a label name that begins with a digit": ('up{1a="1"} 1', "label pairs"),
    "a label value in single quotes": ("up{a='1'} 1", "label pairs"),
    "a label value without quotes": ("up{a=1} 1", "a label has no value|label pairs"),
    "no comma between labels": ('up{a="1" b="2"} 1', "label pairs"),
    "two commas": ('up{a="1",,b="2"} 1', "label pairs"),
    "a comma alone": ("up{,} 1", "label pairs"),
    "an open brace": ('up{a="1" 1', "label pairs"),
    "an open quote": ('up{a="1} 1', "label pairs"),
    "an open quote after an escape": (r'up{a="1\"} 1', "label pairs"),
    "an escape that does not exist": (r'up{a="\t"} 1', r"\\t is not an escape"),
    "a backslash before a letter of a path": (r'up{a="C:\dir"} 1', r"\\d is not an escape"),
    "a bad escape in a quoted name": (r'{"a\q"} 1', r"\\q is not an escape"),
    "an underscore in a number": ("up 1_000", "unexpected text"),
    "a hexadecimal number": ("up 0x1", "unexpected text"),
    "a decimal comma": ("up 1,5", "unexpected text"),
    "an open exponent": ("up 1e", "unexpected text"),
    "two points": ("up 1.2.3", "unexpected text"),
    "a point alone": ("up .", "no valid number"),
    "a sign alone": ("up -", "no valid number"),
    "two signs": ("up --1", "no valid number"),
    "digits that are not ASCII": ("up ١٢", "no valid number"),
    "a word": ("up true", "no valid number"),
    "a letter that follows NaN": ("up NaNs", "unexpected text"),
    "rubbish after the value": ("up 1 x", "unexpected text"),
    "rubbish after the timestamp": ("up 1 2 3", "unexpected text"),
    "a carriage return": ("up 1\r", "unexpected text"),
    "a form feed": ("up 1\f", "unexpected text"),
    "a no-break space": ("up\u00a01", "no blank after"),
    "a null byte": ("up 1\0", "unexpected text"),
    "an exemplar without value": ("a_total 1 # {}", "unexpected text"),
    "an exemplar that is not closed": ('a_total 1 # {a="} 1', "unexpected text"),
    "an exemplar without a blank in it": ('a_total 1 #{a="b"} 1', "unexpected text"),
    "an exemplar without a blank before it": ('a_total 1# {a="b"} 1', "no valid number|unexpected text"),
    "rubbish after an exemplar": ("a_total 1 # {} 1 2 3", "unexpected text"),
    "a comment after the value": ("up 1 # why", "unexpected text"),
}


@for_each(("line", "name", "labels", "value"), SAMPLES.values(), ids=SAMPLES)
def test_a_valid_line_is_read(line: str, name: str, labels: dict[str, str], value: float) -> None:
    sample = parse_sample(line)
    assert sample.series == (name, tuple(sorted(labels.items())))
    assert sample.value == value


@for_each("number", ["NaN", "nan", "NAN"])
def test_nan_is_a_number_in_any_case(number: str) -> None:
    assert math.isnan(parse_sample(f"a {number}").value)


@for_each(("line", "why"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_line_is_refused_with_the_reason(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_sample(line)


def test_labels_are_sorted_whatever_their_order_in_the_text() -> None:
    first, second = parse_sample('a{b="2",a="1"} 1'), parse_sample('a{a="1",b="2"} 1')
    assert first.series == second.series
    assert first.series[1] == (("a", "1"), ("b", "2"))


@for_each(("line", "head"), [("up 1", 3), ('up{a="1"} 1', 10), ('up{a="1"}1', 9), ("up 1 2", 0), ("up 1 # {} 1", 0)])
def test_the_head_is_the_text_before_the_value_of_a_line_with_nothing_after_it(line: str, head: int) -> None:
    assert parse_sample(line).head == head


TYPES = {
    "a counter": ("# TYPE a_total counter", ("a_total", "counter")),
    "blanks and tabs between the words": (" #\tTYPE  a \t gauge ", ("a", "gauge")),
    "a quoted name": ('# TYPE "my.metric" histogram', ("my.metric", "histogram")),
    "a quoted name with a blank and escapes": (r'# TYPE "a \"b" gauge', ('a "b', "gauge")),
    "a type of OpenMetrics": ("# TYPE a stateset", ("a", "stateset")),
    "an unknown type": ("# TYPE a unknown", ("a", "unknown")),
    "help": ("# HELP a TYPE a gauge", None),
    "a unit": ("# UNIT a_seconds seconds", None),
    "a comment": ("# TYPED by hand", None),
    "a comment without a blank": ("#TYPE a gauge", None),
    "nothing but a hash": ("#", None),
}


@for_each(("line", "expected"), TYPES.values(), ids=TYPES)
def test_a_comment_is_a_type_or_nothing(line: str, expected: tuple[str, str] | None) -> None:
    assert parse_type(line) == expected


@for_each(
    "line",
    [
        "# TYPE",
        "# TYPE ",
        "# TYPE a",
        "# TYPE a dial",
        "# TYPE a Gauge",
        "# TYPE a gauge x",
        '# TYPE "a gauge',
        r'# TYPE "\q" gauge',
    ],
)
def test_a_malformed_type_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"TYPE|escape"):
        parse_type(line)


@for_each(
    "line",
    [
        "a 1" + " " * 1_000_000 + "x",
        "a{b" + " " * 1_000_000,
        'a{b="' + "x" * 1_000_000,
        'a{b="' + r"\n" * 500_000,
        "a " + "1" * 1_000_000 + "x",
        "a 1 # {} " + "1" * 1_000_000 + "x",
        "a 1 # {" + '"b"' * 300_000,
    ],
    ids=["blanks", "blanks in braces", "open quote", "escapes", "digits", "digits of an exemplar", "quotes"],
)
def test_a_megabyte_of_anything_is_refused_without_trying_every_way_to_split_it(line: str) -> None:
    with pytest.raises(ValueError):
        parse_sample(line)
