"""Alerts -> the table of all alerts in the documents, with the summary of each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.alerts import GROUPS
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.templating import JINJA

if TYPE_CHECKING:
    from collections.abc import Iterator

_ACTION = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_LABEL = re.compile(r"(?:with )?\$labels\.(\w+)")
_WORDS = {
    "model_name": "*model*",
    "pod": "*replica*",
    "instance": "*replica*",
    "gpu": "*gpu*",
    "engine": "*engine*",
}
"""Words for labels that identify something; other optional labels only locate it and are left out."""


class AlertRow(NamedTuple):
    """One alert as the cells of a table."""

    name: str
    severity: str
    hold: str
    summary: str


def alerts() -> str:
    """Write the table of the alerts, group by group, with the default thresholds."""
    rules = {
        rule["alert"]: rule
        for group in alert_groups(Thresholds())
        for rule in group["rules"]
        if "alert" in rule
    }  # fmt: skip
    groups = [
        (
            group.name,
            [
                AlertRow(
                    alert.name,
                    alert.severity.value,
                    alert.hold or "at once",
                    without_labels(rules[alert.name]["annotations"]["summary"]),
                )
                for alert in group.alerts
            ],
        )
        for group in GROUPS
        if group.alerts
    ]
    return JINJA.get_template("alerts.md.j2").render(groups=groups)


def without_labels(summary: str) -> str:
    """Write a summary for readers without an alert at hand: words and letters instead of labels and values."""
    text = "".join(_flattened(summary)).replace("|", r"\|")
    return " ".join(re.sub(r" ?\(\*?uuid\*?\)", "", text).split()).replace(" :", ":")


def _flattened(summary: str) -> Iterator[str]:
    """Yield the text outside of `with` blocks, and one word for each block and value."""
    depth = end = 0
    for found in _ACTION.finditer(summary):
        if not depth:
            yield summary[end : found.start()]
        end, action = found.end(), found[1]
        if action.startswith("with "):
            if not depth:
                yield _optional(action)
            depth += 1
        elif action == "end":
            depth -= 1
        elif action != "else" and not depth:
            yield _value(action)
    yield summary[end:]


def _optional(action: str) -> str:
    label = _LABEL.match(action)
    return _WORDS.get(label[1], "") if label else "*n*"


def _value(action: str) -> str:
    label = _LABEL.match(action)
    if label:
        return _WORDS.get(label[1], f"*{label[1]}*")
    return "*n* %" if "humanizePercentage" in action else "*n*"
