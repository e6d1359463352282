"""Mistakes of an expression beyond its syntax, such as those because of which a rule never fires, or always."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from promql_parser import BinaryExpr, Call, MatrixSelector, NumberLiteral, VectorSelector

from vllm_sidecar.catalog import signal_of
from vllm_sidecar.catalog.types import PREFIX, RECORD_PREFIX, Kind
from vllm_sidecar.generate import promql

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from vllm_sidecar.generate.promql import Node

RATES = ("rate", "increase", "irate")
LEVELS = ("avg_over_time", "min_over_time", "max_over_time", "sum_over_time", "quantile_over_time", "stddev_over_time")
"""Functions that are meaningless for a counter."""


class LintError(ValueError):
    """An expression of the catalog is wrong."""


def check(name: str, expr: str, *, least_range: float, texts: str = "", known: Collection[str] = ()) -> None:
    """Raise LintError with all that is wrong with the expression of a rule or panel; arguments as of `problems`."""
    found = problems(expr, least_range=least_range, texts=texts, known=known)
    if found:
        raise LintError(f"{name}: {'; '.join(found)}, in {expr}")


def problems(expr: str, *, least_range: float, texts: str = "", known: Collection[str] = ()) -> list[str]:
    """Return what is wrong with an expression, in words; empty if nothing is.

    Args:
        expr: PromQL, without variables of Grafana.
        least_range: Seconds that every range must span: four scrapes, because one may fail and one may be cut off.
        texts: Annotations, whose `$labels.x` must survive.
        known: Names of metrics besides those of the catalog, the recorded ones and Prometheus' own.
    """
    try:
        tree = promql.parse(expr)
    except ValueError as error:
        return [f"cannot be parsed: {error}"]
    return [
        *_unknown(tree, known),
        *_rates(tree),
        *_ranges(tree, least_range),
        *_divisions(tree),
        *_lost_labels(tree, texts),
    ]


def _unknown(tree: Node, known: Collection[str]) -> Iterator[str]:
    for name in sorted(promql.metrics(tree)):
        ours = name.startswith(PREFIX) and _kind(name) is not None
        if not (ours or name.startswith(RECORD_PREFIX) or name in promql.EVERYWHERE or name in known):
            yield f"reads {name}, which nothing exports"


def _kind(metric: str) -> Kind | None:
    """Return the kind of a metric of the sidecar; None for one that the catalog does not have."""
    name = metric.removeprefix(PREFIX)
    signal = signal_of(name)
    if signal is None or signal.name == name:
        return signal.kind if signal else None
    return Kind.COUNTER if signal.kind in (Kind.HISTOGRAM, Kind.SUMMARY) else None


def _rates(tree: Node) -> Iterator[str]:
    for call in promql.walk(tree):
        if not isinstance(call, Call) or call.func.name not in (*RATES, *LEVELS):
            continue
        for selector in (each.vector_selector for each in call.args if isinstance(each, MatrixSelector)):
            name = selector.name or ""
            counts = _kind(name) is Kind.COUNTER
            if counts and call.func.name in LEVELS:
                yield f"takes {call.func.name} of {name}, a counter"
            if not counts and call.func.name in RATES and name.startswith(PREFIX):
                yield f"takes {call.func.name} of {name}, which is not a counter"


def _ranges(tree: Node, least: float) -> Iterator[str]:
    for each in promql.walk(tree):
        # Records have a sample at each evaluation, and are summed up over those.
        recorded = isinstance(each, MatrixSelector) and (each.vector_selector.name or "").startswith(RECORD_PREFIX)
        if isinstance(each, MatrixSelector) and not recorded and each.range.total_seconds() < least:
            seconds = each.range.total_seconds()
            yield f"reads {seconds:g} s of {each.vector_selector.name}; four scrapes take {least:g} s"


def _divisions(tree: Node) -> Iterator[str]:
    if _has_traffic_guard(tree):
        return
    for each in promql.walk(tree):
        if isinstance(each, BinaryExpr) and promql.operator(each) == "/" and not _never_zero(promql.bare(each.rhs)):
            yield "divides by a value that may be 0: compare it with > 0, or require traffic"


def _has_traffic_guard(tree: Node) -> bool:
    """Return whether an expression requires a number of observations: `... and (count >= 30)`."""
    for each in promql.walk(tree):
        if (
            isinstance(each, BinaryExpr)
            and promql.operator(each) == "and"
            and any(map(_asks_for_many, promql.walk(each.rhs)))
        ):
            return True
    return False


def _asks_for_many(node: Node) -> bool:
    return isinstance(node, BinaryExpr) and promql.operator(node) in (">", ">=") and isinstance(node.rhs, NumberLiteral)


def _never_zero(node: Node) -> bool:
    if isinstance(node, NumberLiteral):
        return bool(node.val)
    if not isinstance(node, BinaryExpr):
        return False
    least = node.rhs.val if isinstance(node.rhs, NumberLiteral) else -1
    above_zero = least >= 0 if promql.operator(node) == ">" else least > 0 and promql.operator(node) == ">="
    # An objective is below 1, as its settings are held to.
    budget = (
        promql.operator(node) == "-" and isinstance(node.lhs, NumberLiteral) and isinstance(node.rhs, VectorSelector)
    )
    return above_zero or budget


def _lost_labels(tree: Node, texts: str) -> Iterator[str]:
    used = set(re.findall(r"\$labels\.(\w+)", texts))
    if used and not any(promql.is_unknown_record(name) for name in promql.metrics(tree)):
        lost = used - promql.labels(tree)
        if lost:
            yield f"loses {', '.join(sorted(lost))}, which its texts name"
