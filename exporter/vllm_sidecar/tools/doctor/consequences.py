"""Findings -> the same with what each follows from: a queue is not repaired where its cause is a throttled GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_sidecar.tools.doctor.causes import FOLLOWS, RATHER
from vllm_sidecar.tools.doctor.findings import BAD, OUTSIDE, QUEUED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.tools.doctor.findings import Finding


def related(found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with causes and flags: causes before consequences, and the worst first among both."""
    linked = [_with_flag(replace(each, follows=_cause_of(each, found)), found) for each in found]
    return sorted(linked, key=lambda each: (bool(each.follows), each.severity != BAD))


def _cause_of(finding: Finding, found: Sequence[Finding]) -> str:
    """Return the name of the finding that this one likely follows from; empty for none."""
    if finding.name == "slow_first_token" and finding.hint not in (QUEUED, ""):
        return ""
    if finding.name == "down" and not any(each.name == "restarting" and each.severity == BAD for each in found):
        return ""
    near = {each.name for each in found if not each.subject or not finding.subject or each.subject == finding.subject}
    return next((name for name in FOLLOWS.get(finding.name, ()) if name in near), "")


def _with_flag(finding: Finding, found: Sequence[Finding]) -> Finding:
    """Add the flag to turn: none of a consequence, nor where it would not help."""
    if finding.follows or finding.hint in (QUEUED, OUTSIDE):
        return finding
    names = {each.name for each in found if each.subject == finding.subject}
    other = next((text for (name, also), text in RATHER.items() if name == finding.name and also in names), "")
    return replace(finding, flag=other or finding.meaning.flag)
