"""A comparison -> text for a terminal, or Markdown for the channel of an incident."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.tools.compare.differences import FAMILY_ERROR, POWER
from vllm_sidecar.tools.compare.measures import MEASURES, Form, Part
from vllm_sidecar.tools.compare.report import Result
from vllm_sidecar.tools.compare.sums import is_ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.tools.compare.differences import Difference
    from vllm_sidecar.tools.compare.observation import Observation
    from vllm_sidecar.tools.compare.report import Histogram, Report

_COLORS = {Result.DIFFERENT: "\033[31m", Result.FACTS: "\033[33m", Result.UNKNOWN: "\033[33m", Result.SAME: "\033[32m"}
_END = "\033[0m"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TITLES = {each.of: each.title.removeprefix("mean ") for each in MEASURES if each.form is Form.MEAN}
FACTORS = 3.0
"""Ratio from which changes are written as factors, not as percentages."""
Table = list[tuple[str, ...]]


def lines(report: Report, *, markdown: bool = False, color: bool = False) -> Iterator[str]:
    """Yield the lines of a report; colors only for a terminal."""
    yield _headline(report, markdown=markdown, color=color)
    for letter, side in zip(_letters(report), report.sides, strict=True):
        yield f"{'- ' if markdown else ''}{letter}: {side.source}, {_observed(side)}"
    for title, part in _parts(report):
        yield ""
        yield f"### {title}" if markdown else title
        if isinstance(part, list):
            yield from _table(part, markdown=markdown)
        else:
            yield from (f"{'- ' if markdown else '  '}{text}" for text in part)


def _observed(side: Observation) -> str:
    count = len(side.intervals)
    if not count:
        return "not observed"
    if side.seconds is None:
        return "since the start of its server"
    return f"observed for {side.seconds:.0f} s, {count + side.servers} polls"


def _headline(report: Report, *, markdown: bool, color: bool) -> str:
    result = report.result
    word = result.upper()
    shown = f"{_COLORS[result]}{word}{_END}" if color else f"**{word}**" if markdown else word
    others = "each of the others" if len(report.sides) > 2 else "B"
    text = {
        Result.DIFFERENT: f"A and {others} differ in {'; '.join(map(_title, report.different))}",
        Result.FACTS: f"{', '.join(each.name for each in report.facts)}; in what was measured, "
        "there is no difference that this much data can show",
        Result.UNKNOWN: f"{_also(report)}nothing that was measured could be judged; see the end of the report",
        Result.SAME: "there is no difference that this much data can show",
    }[result]
    return f"{shown}: {text}"


def _also(report: Report) -> str:
    return f"{', '.join(each.name for each in report.facts)} differ, and " if report.facts else ""


def _parts(report: Report) -> Iterator[tuple[str, Table | tuple[str, ...]]]:
    letters = _letters(report)
    if report.facts:
        rows = [(each.name, *(value or "unknown" for value in each.values)) for each in report.facts]
        yield "Version, models, adapters, flags", [("", *letters), *rows]
    else:
        yield "Version, models, adapters, flags", ("no difference among those that are known",)
    for part in Part:
        rows = [_row(row) for row in report.measures if row.measure.part is part]
        if rows:
            judged = "" if part is not Part.LOAD else " (not judged)"
            against = "others against A" if len(letters) > 2 else "B against A"
            yield part.capitalize() + judged, [("", *letters, against, "interval", "would show", ""), *rows]
    for histogram in report.histograms:
        yield f"Histogram: {TITLES[histogram.name]}", _buckets(histogram, letters)
    if report.explanations:
        yield (
            "Does request shape or load alone explain it?",
            tuple(f"{each.title}: {each.answer}: {each.why}" for each in report.explanations),
        )
    yield "Limits", (*report.notes, *_unknown_facts(report), *_method(report))


def _row(row: Difference) -> tuple[str, ...]:
    values = [_value(side.value, row) for side in (row.a, *row.others)]
    return (_title(row), *values, _shown(row), _interval(row), _smallest(row), _mark(row))


def _mark(row: Difference) -> str:
    if row.is_different:
        return "DIFFERENT"
    if not row.measure.judged:
        return ""
    if row.is_drifting:
        return "drifts"
    some = [_LETTERS[index + 1] for index, each in enumerate(row.changes[:25]) if each is not None and each.is_certain]
    return f"only {', '.join(some)} differs" if some else "" if row.is_judged else "not judged"


def _title(row: Difference) -> str:
    return row.measure.title.format(bound="" if row.bound is None else _amount(row.bound, row.measure.unit))


def _value(value: float | None, row: Difference) -> str:
    if value is None:
        return "unknown"
    if row.measure.form in (Form.TAIL, Form.SHARE):
        return f"{value:.1%}"
    return _amount(value, "" if row.measure.form is Form.RATE else row.measure.unit)


def _amount(value: float, unit: str) -> str:
    if unit == "seconds":
        return f"{value:.3g} s" if value >= 1.0 else f"{value * 1000:.3g} ms"
    return f"{value:.0f}" if value >= 100.0 else f"{value:.3g}"


def _shown(row: Difference) -> str:
    return "" if row.shown is None else _range(row.shown, row)


def _interval(row: Difference) -> str:
    return "" if row.interval is None else _range(row.interval, row)


def _range(ends: tuple[float, float], row: Difference) -> str:
    """Write two changes, as one if they are the same; a row has one form."""
    if not is_ratio(row.measure):
        texts, unit = [f"{100.0 * end:+.1f}" for end in ends], " points"
    elif max((row.interval or ends)[1], ends[1]) > FACTORS:
        texts, unit = [f"x{end:.3g}" for end in ends], ""
    else:
        texts, unit = [f"{100.0 * (end - 1.0):+.1f}" for end in ends], " %"
    return " to ".join(dict.fromkeys(texts)) + unit


def _smallest(row: Difference) -> str:
    if row.smallest is None or not row.measure.judged:
        return ""
    if not is_ratio(row.measure):
        return f"{row.smallest * 100:.1f} points"
    return f"{row.smallest:.0%}" if row.smallest < FACTORS else f"x{row.smallest + 1.0:.3g}"


def _buckets(histogram: Histogram, letters: Sequence[str]) -> Table:
    unit = SIGNALS[histogram.name].unit.suffix
    rows = []
    for bound, shares in histogram.rows:
        text = "more" if bound == inf else f"up to {_amount(bound, unit)}"
        rows.append((text, *(f"{share:.1%}" for share in shares), *("#" * round(30 * share) for share in shares)))
    return [("", *letters, *("" for _ in letters)), *rows]


def _unknown_facts(report: Report) -> Iterator[str]:
    missing: dict[str, list[str]] = {}
    for each in report.partly_known:
        for letter, value in zip(_letters(report), each.values, strict=True):
            if value is None:
                missing.setdefault(letter, []).append(each.name)
    for letter, names in missing.items():
        yield f"{letter} does not expose {', '.join(names)}, so these were not compared with it"
    if not any("chat_template" in side.facts for side in report.sides):
        yield "no side exposes the chat template (see /server_info, or vllm.args of the sidecar)"


def _method(report: Report) -> Iterator[str]:
    if any(row.interval for row in report.measures):
        yield (
            f"intervals: bootstrap over blocks of polls; all judged ones hold together with {1 - FAMILY_ERROR:.0%}, so "
            f"{FAMILY_ERROR:.0%} of comparisons of equal servers show any difference"
        )
        yield f"would show: a difference of this size would have been shown with {POWER:.0%}"
    if report.explanations:
        yield (
            "request shape: histograms of lengths and latencies have no common requests; it is assumed that a step "
            "costs at most in proportion to its tokens, and that requests are alike in everything that is not counted"
        )


def _letters(report: Report) -> list[str]:
    return [_LETTERS[index] if index < len(_LETTERS) else str(index) for index in range(len(report.sides))]


def _table(rows: Table, *, markdown: bool) -> Iterator[str]:
    if markdown:
        head, *body = rows
        yield f"| {' | '.join(head)} |"
        yield f"|{' --- |' * len(head)}"
        yield from (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in body)
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()
