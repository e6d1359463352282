"""Which labels an alert may have, whichever part of its expression it comes from."""

from __future__ import annotations

from promql_parser import BinaryExpr

from vllm_sidecar.generate import promql


def either(node: promql.Node) -> frozenset[str]:
    """Return the labels of whatever side of `or` has them: an alert comes from one."""
    node = promql.bare(node)
    if isinstance(node, BinaryExpr) and promql.operator(node) == "or":
        return either(node.lhs) | either(node.rhs)
    return promql.labels(node)
