"""States of the servers and alerts of the rules over a recording, as text or as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.alerts import Severity
from vllm_sidecar.config import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from vllm_sidecar.serve.state import State
    from vllm_sidecar.tools.recording.playback import Outline
    from vllm_sidecar.tools.replay.alert_times import Fired

SHOWN = (Severity.PAGE.value, Severity.TICKET.value)
"""Severities that reach somebody."""
_LABELS = ("target", "model_name", "engine", "gpu", "slo", "long_window")
"""Labels that name the subject of an alert."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """The state of a server from a time of the recording on."""

    at: float
    server: str
    state: State


@dataclass
class Timeline:
    """All that a replay found."""

    path: Path
    outline: Outline
    thresholds: str
    severities: Mapping[str, str]
    states: list[StateChange] = field(default_factory=list)
    alerts: list[Fired] = field(default_factory=list)
    need_history: Mapping[str, float] = field(default_factory=dict)
    interrupted: float | None = None
    """Seconds that were played before Ctrl-C; None if all were."""

    def add_state(self, at: float, server: str, state: State) -> None:
        """Note a state, if it is another one than before."""
        before = next((each for each in reversed(self.states) if each.server == server), None)
        if before is None or before.state.name != state.name or before.state.severity != state.severity:
            self.states.append(StateChange(at, server, state))

    def severity(self, fired: Fired) -> str:
        """Return an alert's severity in the words of the catalog."""
        return self.severities.get(fired.severity, fired.severity)

    def fired(self, severity: str) -> list[Fired]:
        """Return the alerts of a severity that fired."""
        return [each for each in self.alerts if each.firing is not None and self.severity(each) == severity]

    def as_json(self) -> dict[str, Any]:
        """Return plain values; times are seconds of the recording."""
        head = self.outline.head
        return {
            "recording": str(self.path),
            "started": head.started,
            "seconds": round(self.outline.seconds, 3),
            "polls": self.outline.polls,
            "failed_polls": self.outline.failed,
            "cut_off": self.outline.cut_off or None,
            "interrupted_seconds": self.interrupted,
            "thresholds": self.thresholds,
            "states": [{"at": each.at, "server": each.server or None, **each.state.as_json()} for each in self.states],
            "alerts": [
                {
                    "alert": each.alert,
                    "severity": self.severity(each),
                    "labels": dict(each.labels),
                    "pending": each.pending,
                    "firing": each.firing,
                    "end": each.end,
                    "summary": each.summary or None,
                }
                for each in self.alerts
                if self.severity(each) in SHOWN
            ],
            "need_more_history": dict(self.need_history),
        }

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report for people."""
        yield from self._about()
        yield ""
        rows = [(each.at, 0, self._state(each)) for each in self.states]
        for fired in self.alerts:
            if fired.firing is not None and self.severity(fired) in SHOWN:
                rows.append((fired.firing, 1, self._firing(fired, fired.firing)))
                if fired.end is not None:
                    over = format_duration(fired.end - fired.firing)
                    rows.append((fired.end, 2, f"resolved {fired.alert}{_subject(fired)} after {over}"))
        for at, _, text in sorted(rows, key=lambda row: row[:2]):
            yield f"{_clock(at)}  {text}"
        yield ""
        yield from self._conclusion()

    def _about(self) -> Iterator[str]:
        head, found = self.outline.head, self.outline
        began = datetime.fromtimestamp(head.started, UTC)
        yield f"{self.path}: {_clock(found.seconds)} from {began:%Y-%m-%d %H:%M:%S} UTC, recorded by {head.program}"
        failed = f", {found.failed} of them failed" if found.failed else ""
        names = ", ".join(each.name or each.url or "one server" for each in head.servers)
        yield f"{found.polls} polls{failed} of {names}; rules: {self.thresholds}"
        if found.cut_off:
            yield f"The recording is not complete: {found.cut_off}."
        if self.interrupted is not None:
            yield f"Interrupted: only {_clock(self.interrupted)} were played, and what follows is about them."

    def _state(self, change: StateChange) -> str:
        return f"state    {f'{change.server}: ' if change.server else ''}{change.state.text}"

    def _firing(self, fired: Fired, at: float) -> str:
        severity = self.severity(fired)
        held = f" (true since {_clock(fired.pending)})" if fired.pending < at else ""
        return f"{severity:8} {fired.alert}{_subject(fired)}{held}: {fired.summary}"

    def _conclusion(self) -> Iterator[str]:
        pages, tickets = self.fired(Severity.PAGE.value), self.fired(Severity.TICKET.value)
        if pages:
            first = min(pages, key=lambda each: each.firing or 0.0)
            yield f"It would have paged: {_count(pages, 'page')}, first {first.alert} at {_clock(first.firing or 0.0)}."
        else:
            yield "It would not have paged" + ("." if self.interrupted is None else " until then.")
        if tickets:
            yield f"{_count(tickets, 'ticket')}: {', '.join(sorted({each.alert for each in tickets}))}."
        nearly = {each.alert for each in self.alerts if each.firing is None and each.end is None}
        nearly &= {each.alert for each in self.alerts if self.severity(each) in SHOWN}
        if nearly:
            yield f"Pending at the end, so a longer recording might show more: {', '.join(sorted(nearly))}."
        if self.need_history:
            names = ", ".join(f"{name} ({format_duration(far)})" for name, far in sorted(self.need_history.items()))
            yield f"Not fully evaluated, because they look back further than the recording: {names}."


def _count(alerts: list[Fired], word: str) -> str:
    return f"{len(alerts)} {word}" if len(alerts) == 1 else f"{len(alerts)} {word}s"


def _subject(fired: Fired) -> str:
    found = [f"{name}={fired.labels[name]}" for name in _LABELS if fired.labels.get(name)]
    return f" ({', '.join(found)})" if found else ""


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
