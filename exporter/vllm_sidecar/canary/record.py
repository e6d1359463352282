"""Results of one prompt and model -> counters, the last result, and their series."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.canary.baseline import Baseline
from vllm_sidecar.catalog.canary import CANARY_HINTS, FAILURES, OUTPUT_HINTS, WRONG_OUTPUT, OutputState
from vllm_sidecar.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.canary.output import Fingerprint
    from vllm_sidecar.canary.phases import Moments
    from vllm_sidecar.catalog.canary import CanaryReason

MISSES = 3
"""Intervals without a request after which the last result is no longer shown."""


class Result(NamedTuple):
    """One request that ended; `state` and `found` are None without a complete answer, `reason` is None with one."""

    at: float
    """Monotonic seconds at its end."""
    moments: Moments
    reason: CanaryReason | None
    state: OutputState | None
    found: Fingerprint | None
    detail: str = ""
    """Of a failure; for log and status only."""


class Row(NamedTuple):
    """One value: the signal without its prefix `canary_`, its own labels, and the value."""

    signal: str
    labels: tuple[str, ...]
    value: float


@dataclass(slots=True)
class Record:
    """Counters of one prompt and model, which start at 0, and its last result."""

    baseline: Baseline = field(default_factory=Baseline)
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    consecutive_failures: int = 0
    consecutive_wrong: int = 0
    last: Result | None = None
    answered: OutputState | None = None
    """State of the last complete answer."""
    last_success: float | None = None
    """Unix time."""

    def add(self, result: Result, wall: float) -> None:
        """Count a request that ended at Unix time `wall`."""
        self.last = result
        self.requests += 1
        if result.state is None:
            self.consecutive_failures += 1
            self.failures[str(result.reason)] += 1
            return
        self.consecutive_failures, self.answered = 0, result.state
        if result.state in WRONG_OUTPUT:
            self.consecutive_wrong += 1
            self.failures[result.state.value] += 1
        else:
            self.consecutive_wrong, self.last_success = 0, wall

    def expire(self, now: float, interval: float) -> bool:
        """Forget the last result if no request ended for MISSES intervals; return whether it was forgotten."""
        if self.last is None or now - self.last.at <= MISSES * interval:
            return False
        self.last, self.answered, self.consecutive_failures, self.consecutive_wrong = None, None, 0, 0
        return True

    def report(self) -> dict[str, object]:
        """Return the last result as plain values; None where there is none."""
        last = self.last
        failed = last.reason if last else None
        hint = CANARY_HINTS[failed] if failed else OUTPUT_HINTS[self.answered] if self.answered else None
        known = self.baseline.known
        return {
            "requests": self.requests,
            "reason": failed.value if failed else None,
            "detail": redact(last.detail) if last and failed else None,
            "output": self.answered.value if self.answered else None,
            "hint": hint,
            "hash": last.found.answer if last and last.found else None,
            "prompt_hash": last.found.prompt if last and last.found else None,
            "baseline": known.answer if known else None,
            "last_success": self.last_success,
            "phases": {phase.value: round(seconds, 6) for phase, seconds in last.moments.phases()} if last else {},
            **_latencies(last.moments if last else None),
        }

    def rows(self) -> Iterator[Row]:
        """Yield all values."""
        yield Row("requests_total", (), float(self.requests))
        for reason in FAILURES:
            yield Row("failures_total", (reason,), float(self.failures[reason]))
        yield Row("baseline_changes_total", (), float(self.baseline.changes))
        if self.last_success is not None:
            yield Row("last_success_timestamp_seconds", (), self.last_success)
        if self.last is None:
            return
        yield Row("success", (), float(self.last.state is not None and self.last.state not in WRONG_OUTPUT))
        yield Row("consecutive_failures", (), float(self.consecutive_failures))
        if self.answered is not None:
            yield Row("consecutive_wrong_outputs", (), float(self.consecutive_wrong))
            for state in OutputState:
                yield Row("output_state", (state.value,), float(state is self.answered))
        yield from _times(self.last)


def _times(last: Result) -> Iterator[Row]:
    for phase, seconds in last.moments.phases():
        yield Row("phase_seconds", (phase.value,), round(seconds, 6))
    for name, latency in _latencies(last.moments).items():
        if latency is not None:
            yield Row(name, (), latency)
    if last.found is not None:
        yield Row("answer_hash", (), float(int(last.found.answer, 16)))


def _latencies(moments: Moments | None) -> dict[str, float | None]:
    """Return the latencies of a request as a client sees them; None where it did not get so far."""
    whole = moments.ended - moments.began if moments and moments.ended is not None else None
    found = {
        "time_to_first_token_seconds": moments.time_to_first_token if moments else None,
        "inter_token_latency_seconds": moments.inter_token_latency if moments else None,
        "duration_seconds": whole,
    }
    return {name: None if seconds is None else round(seconds, 6) for name, seconds in found.items()}
