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
    text, _ = _written(iter(_ACTION.split(summary)), "*n*")
    text = text.replace("|", r"\|")
    return " ".join(re.sub(r" ?\(\*?uuid\*?\)", "", text).split()).replace(" :", ":")


def _written(parts: Iterator[str], dot: str) -> tuple[str, str]:
    """Write texts and actions in turn up to the end of a block, or its `else`; return also which of them it was."""
    text = next(parts)
    for action in parts:
        if action in ("else", "end"):
            return text, action
        text += _block(action, parts) if action.startswith(("with ", "if ")) else _value(action, dot)
        text += next(parts)
    return text, ""


def _block(action: str, parts: Iterator[str]) -> str:
    """Write one word for a block, both of its sides, or nothing if it only locates something."""
    label = _LABEL.match(action)
    then, ended = _written(parts, _word(label[1]) if label else "*n*")
    other = _written(parts, "")[0] if ended == "else" else ""
    if action.startswith("with ") and (label is None or label[1] in _WORDS):
        return _word(label[1]) if label else "*n*"
    return f"{then} or {other}" if other else ""


def _value(action: str, dot: str) -> str:
    label = _LABEL.match(action)
    if label or action == ".":
        return _word(label[1]) if label else dot
    return "*n* %" if "humanizePercentage" in action else "*n*"


def _word(label: str) -> str:
    return _WORDS.get(label, f"*{label.replace('_', ' ')}*")
