"""Diagnoses -> text for a terminal, or Markdown for the channel of an incident."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.serve.state import seconds_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vllm_sidecar.tools.doctor.diagnosis import Diagnosis
    from vllm_sidecar.tools.doctor.findings import Finding
    from vllm_sidecar.tools.doctor.past import Past

_COLORS = {"bad": "\033[31m", "watch": "\033[33m", "fine": "\033[32m", "unknown": "\033[33m"}
_END = "\033[0m"


def lines(found: Diagnosis, *, markdown: bool = False, color: bool = False) -> Iterator[str]:
    """Yield the lines of one diagnosis; colors only for a terminal."""
    head, item = ("### ", "- ") if markdown else ("", "  ")
    word = found.severity.upper()
    shown = f"{_COLORS[found.severity]}{word}{_END}" if color else f"**{word}**" if markdown else word
    name = f"{found.target}: " if found.target else ""
    yield f"{name}{shown}: {found.headline}"
    seen = "" if found.source.seconds is None else f", observed for {found.source.seconds:.0f} s"
    yield f"({found.source.name}{seen})"
    for title, part in (
        ("Server", _pairs(found.identity)),
        ("Symptoms", (f"{symptom}: {answer}" for symptom, answer in found.symptoms.items())),
        ("Request shape and load", _pairs(found.shape)),
        (_past_title(found.past), (f"{each.name}: {each}" for each in found.past.rows)),
    ):
        if not title:
            continue
        yield ""
        yield f"{head}{title}"
        yield from (f"{item}{text}" for text in part)
    for each in found.findings:
        yield ""
        yield from _finding(each, found, head, item)
    yield ""
    yield f"{head}Unknown"
    yield from (f"{item}{text}" for text in found.unknown)


def _finding(each: Finding, found: Diagnosis, head: str, item: str) -> Iterator[str]:
    """Yield a finding; of one that follows from another, the next step is that of the other one."""
    subject = f" ({each.subject})" if each.subject else ""
    yield f"{head}{each.severity.upper()} {each.name}{subject}: {each.meaning.symptom}"
    since = f", seen for {seconds_text(each.since)}" if each.since else ""
    rows = (
        ("evidence", each.evidence + since),
        ("likely", f"follows from {each.follows}" if each.follows else each.cause),
        ("next", "" if each.follows else found.command(each.meaning.next)),
        ("look for", "" if each.follows else found.command(each.meaning.look)),
        ("flag", each.flag),
        ("runbook", f"rules/runbooks/{each.meaning.alert}.md" if each.meaning.alert else ""),
    )
    yield from (f"{item}{name}: {text}" for name, text in rows if text)


def _past_title(past: Past) -> str:
    if not past.rows:
        return ""
    now = seconds_text(past.seconds or 0.0)
    before = "the time" if past.before_seconds is None else seconds_text(past.before_seconds)
    return f"Request shape of the last {now}, and of {before} before that since vLLM started"


def _pairs(values: Mapping[str, object]) -> Iterator[str]:
    if not values:
        yield "nothing is known"
    for name, value in values.items():
        yield f"{name}: {_shown(value)}"


def _shown(value: object) -> str:
    """Write a value as people do; adapters with their base model."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        bases = dict.fromkeys(value.values())
        return "; ".join(f"{', '.join(name for name, of in value.items() if of == base)} (of {base})" for base in bases)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
