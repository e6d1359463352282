"""Grammar of one line in the Prometheus text format (0.0.4 and 1.0.0) and in OpenMetrics 1.0.

Strict where a lenient reader would store a wrong number (escapes, numbers, duplicate labels, text after the value),
and tolerant of blanks, as Prometheus is. Both formats share the sample line; OpenMetrics adds exemplars and `# EOF`,
text 1.0.0 adds quoted names.
Sources: prometheus.io/docs/instrumenting/exposition_formats, the OpenMetrics 1.0 specification.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.exposition.layout import Series

TYPES = frozenset(
    ("counter", "gauge", "histogram", "summary", "untyped", "unknown", "info", "stateset", "gaugehistogram")
)

# Blanks and digits are matched possessively (`*+`, `++`): otherwise the time grows with the square of their number.
_NUMBER = (
    r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?(?:[eE][+-]?[0-9]++)?|\.[0-9]++(?:[eE][+-]?[0-9]++)?"
    r"|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?|[nN][aA][nN])"
)
_QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*"'
_NAME = re.compile(r"[ \t]*+([a-zA-Z_:][a-zA-Z0-9_:]*+)?([ \t]*+)")
_LABEL = re.compile(
    rf"[ \t]*+(?:([a-zA-Z_][a-zA-Z0-9_]*+)|({_QUOTED}))[ \t]*+(=[ \t]*+({_QUOTED}))?[ \t]*+(?:,|(?=\}}))"
)
_CLOSE = re.compile(r"[ \t]*+\}[ \t]*+")
_VALUE = re.compile(rf"({_NUMBER})(?:[ \t]++({_NUMBER}))?[ \t]*+")
_EXEMPLAR = re.compile(
    rf"(?<= )# \{{[^\"\\}}]*+(?:{_QUOTED}[^\"\\}}]*+)*\}}[ \t]++{_NUMBER}(?:[ \t]++{_NUMBER})?[ \t]*+"
)
_TYPE = re.compile(rf"[ \t]*+#[ \t]++TYPE[ \t]++(?:({_QUOTED})|([^ \t\"]++))[ \t]++([a-z]++)[ \t\r]*+")
_TYPE_START = re.compile(r"[ \t]*+#[ \t]++TYPE(?![^ \t])")
MAX_NAME = 256
"""Characters of the longest name of a metric or a label."""
MAX_LABELS = 64
"""Most labels of a series."""
MAX_NUMBER = 128
"""Characters of the longest number; a double has at most 17 digits that count."""
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_UNESCAPED = {"\\": "\\", '"': '"', "n": "\n"}


class LimitError(ValueError):
    """A line is refused because it exceeds a limit; `limit` is the name of the limit."""

    def __init__(self, limit: str, text: str) -> None:
        super().__init__(text)
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Sample:
    """A parsed sample line; `head` is the length of its text up to the value (0 where more follows the value)."""

    series: Series
    value: float
    head: int


def parse_sample(line: str) -> Sample:
    """Parse one sample line.

    Timestamps are accepted and dropped, because the sidecar uses the time of its own request. So are exemplars.

    Raises:
        ValueError: the text is the error in the line; LimitError if the line exceeds a limit.
    """
    match = _NAME.match(line)
    name, blank, at = (match[1], match[2], match.end()) if match else (None, "", 0)
    labels: dict[str, str] = {}
    if line.startswith("{", at):
        name, at = _parse_labels(line, at + 1, name, labels)
    elif name and not blank:
        raise ValueError("no blank after the metric name")
    if not name:
        raise ValueError("no metric name")
    if len(name) > MAX_NAME:
        raise LimitError("name_length", f"the metric name is longer than {MAX_NAME} characters")
    value = _VALUE.match(line, at)
    if not value:
        raise ValueError("no valid number after the name and labels")
    if len(value[1]) > MAX_NUMBER:
        raise LimitError("number_length", f"the number is longer than {MAX_NUMBER} characters")
    rest = value.end()
    if rest < len(line) and not _EXEMPLAR.fullmatch(line, rest):
        raise ValueError("unexpected text after the value")
    plain = value[2] is None and rest == len(line)
    return Sample((name, tuple(sorted(labels.items()))), float(value[1]), at if plain else 0)


def _parse_labels(line: str, at: int, name: str | None, labels: dict[str, str]) -> tuple[str | None, int]:
    """Read `a="b",c="d"}` from `at` into `labels`; return the metric name, which may be quoted among them."""
    while not (close := _CLOSE.match(line, at)):
        match = _LABEL.match(line, at)
        if not match:
            raise ValueError('label pairs are not of the form name="value"')
        bare, quoted, _, text = match.groups()
        if text is None:
            if name or not quoted:
                raise ValueError("a label has no value")
            name = _unquote(quoted)
        else:
            label = bare or _unquote(quoted)
            if not label:
                raise ValueError("a label has no name")
            if label in labels:
                raise ValueError(f"label {label} occurs twice")
            if len(label) > MAX_NAME:
                raise LimitError("name_length", f"a label name is longer than {MAX_NAME} characters")
            if len(labels) == MAX_LABELS:
                raise LimitError("labels", f"the series has more than {MAX_LABELS} labels")
            labels[label] = _unquote(text)
        at = match.end()
    return name, close.end()


def _unquote(text: str) -> str:
    inner = text[1:-1]
    return _ESCAPE.sub(_unescape, inner) if "\\" in inner else inner


def _unescape(match: re.Match[str]) -> str:
    try:
        return _UNESCAPED[match[1]]
    except KeyError:
        raise ValueError(f"\\{match[1]} is not an escape sequence") from None


def parse_type(line: str) -> tuple[str, str] | None:
    """Return family name and type of a `# TYPE` line, None for any other comment.

    Raises:
        ValueError: the line is a malformed `# TYPE`.
    """
    if not _TYPE_START.match(line):
        return None
    match = _TYPE.fullmatch(line)
    if not match or match[3] not in TYPES:
        raise ValueError("# TYPE needs a name and a known type")
    name = _unquote(match[1]) if match[1] else match[2]
    if len(name) > MAX_NAME:
        raise LimitError("name_length", f"the metric name is longer than {MAX_NAME} characters")
    return name, match[3]
