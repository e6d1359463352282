"""Metrics that an expression reads and labels of its result, from its syntax tree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import promql_parser
from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    MatrixSelector,
    ParenExpr,
    SubqueryExpr,
    UnaryExpr,
    VectorMatchCardinality,
    VectorSelector,
)

from vllm_sidecar.catalog.alerts import RECORDS
from vllm_sidecar.catalog.types import PREFIX, RECORD_PREFIX
from vllm_sidecar.generate.settings.thresholds import labels_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

Node = Any
"""A node of promql_parser's tree."""

DISCOVERED = frozenset(
    ("cluster", "namespace", "job", "instance", "target", "pod", "container", "node", "service", "endpoint")
)
"""Labels that a series has from Prometheus, or from a sidecar that watches several servers."""
SET_OPERATORS = ("and", "or", "unless")
EVERYWHERE = {
    "up": DISCOVERED,
    "ALERTS": DISCOVERED | {"alertname", "alertstate", "severity", "model_name", "engine", "slo"},
    "kube_pod_container_status_restarts_total": DISCOVERED,
    "kube_pod_container_status_waiting_reason": DISCOVERED | {"reason"},
    "container_memory_working_set_bytes": DISCOVERED,
    "container_spec_memory_limit_bytes": DISCOVERED,
    "prometheus_rule_group_iterations_missed_total": DISCOVERED | {"rule_group"},
}
"""Metrics of Prometheus, of every process, of kube-state-metrics and of cAdvisor that are read, with their labels."""


def parse(expr: str) -> Node:
    """Return the tree of an expression.

    Raises:
        ValueError: It cannot be parsed.
    """
    return promql_parser.parse(expr)


def without_texts(expr: str, cluster_label: str = "cluster") -> str:
    """Return an expression without the user's texts: strings emptied, and the label of clusters as in the catalog.

    Strings were checked when the thresholds were read, by the rules of Prometheus and not of a library.
    """
    emptied = re.sub(r'"(?:[^"\\]|\\.)*"', '"x"', expr)
    return re.sub(rf"\b{cluster_label}\b", "cluster", emptied)


def children(node: Node) -> list[Node]:
    """Return the nodes right below a node."""
    if isinstance(node, BinaryExpr):
        return [node.lhs, node.rhs]
    if isinstance(node, AggregateExpr):
        return [node.expr] if node.param is None else [node.param, node.expr]
    if isinstance(node, Call):
        return list(node.args)
    if isinstance(node, MatrixSelector):
        return [node.vector_selector]
    return [node.expr] if isinstance(node, ParenExpr | SubqueryExpr | UnaryExpr) else []


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all below it."""
    yield node
    for child in children(node):
        yield from walk(child)


def operator(node: Node) -> str:
    """Return the operator of a binary expression or of an aggregation, as it is written."""
    return str(node.op)


def bare(node: Node) -> Node:
    """Return a node without the parentheses around it."""
    while isinstance(node, ParenExpr):
        node = node.expr
    return node


def is_unknown_record(name: str) -> bool:
    """Return whether a series is recorded by rules whose labels are unknown here, such as those of the objectives."""
    return name.startswith(RECORD_PREFIX) and name.removeprefix(RECORD_PREFIX) not in RECORDS


def metrics(node: Node) -> frozenset[str]:
    """Return the names of all metrics that are read."""
    return frozenset(each.name for each in walk(node) if isinstance(each, VectorSelector) and each.name)


def answerable(node: Node, known: Collection[str]) -> bool:
    """Return whether an expression can have a result if only some metrics exist.

    The right side of `unless`, and one side of `or`, need not exist.
    """
    if isinstance(node, VectorSelector):
        return node.name in known
    if isinstance(node, BinaryExpr) and operator(node) == "unless":
        return answerable(node.lhs, known)
    if isinstance(node, BinaryExpr) and operator(node) == "or":
        return answerable(node.lhs, known) or answerable(node.rhs, known)
    if isinstance(node, Call) and node.func.name == "absent":
        return True
    return all(answerable(child, known) for child in children(node))


def labels(node: Node) -> frozenset[str]:
    """Return the labels that a series of the result may have."""
    if isinstance(node, VectorSelector):
        return _labels_of(node.name or "")
    if isinstance(node, AggregateExpr):
        return _aggregated(node)
    if isinstance(node, BinaryExpr):
        return _combined(node)
    if isinstance(node, Call) and node.func.name in ("absent", "vector", "time"):
        return frozenset()
    inner = frozenset().union(*(labels(child) for child in children(node)))
    return inner | {node.args[1].val} if isinstance(node, Call) and node.func.name == "label_replace" else inner


def _labels_of(metric: str) -> frozenset[str]:
    if metric in EVERYWHERE:
        return EVERYWHERE[metric]
    record = RECORDS.get(metric.removeprefix(RECORD_PREFIX))
    if record is not None:
        return record.labels
    try:
        own = labels_of(metric.removeprefix(PREFIX))
    except KeyError:
        return DISCOVERED
    return DISCOVERED | set(own) | ({"le"} if metric.endswith("_bucket") else {"quantile"})


def _aggregated(node: Node) -> frozenset[str]:
    inner = labels(node.expr)
    if operator(node) in ("topk", "bottomk"):
        return inner
    if node.modifier is None:
        return frozenset()
    named = frozenset(node.modifier.labels)
    return inner & named if node.modifier.type == AggModifierType.By else inner - named


def _combined(node: Node) -> frozenset[str]:
    left, right = labels(node.lhs), labels(node.rhs)
    if operator(node) == "or":
        return left & right if metrics(node.rhs) else left
    if operator(node) in SET_OPERATORS:
        return left
    if not metrics(node.lhs):
        return right
    matching = str(node.modifier.matching) if node.modifier else ""
    grouped = node.modifier is not None and node.modifier.group_labels is not None
    if metrics(node.rhs) and matching.startswith("on") and not grouped:
        return left & frozenset(name.strip() for name in matching[matching.index("(") + 1 : -1].split(","))
    if not grouped:
        return left
    many = right if node.modifier.card == VectorMatchCardinality.OneToMany else left
    return many | frozenset(node.modifier.group_labels)
