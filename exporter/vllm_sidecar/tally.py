"""Stage 5: counts for each objective what was observed and what of it was good, from poll to poll.

These counters are the sidecar's own: they begin at 0 when it starts, and go on over restarts of the server and over
polls that failed, for a server's counters tell afterwards what was missed. What a new life of the server has counted
by its first poll is counted; what the old one counted after its last poll nobody knows. What the server had counted
before the sidecar came is not.
"""

from __future__ import annotations

from operator import sub
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.derive.requests import ABORTED, FAILED
from vllm_sidecar.derive.slo import AVAILABILITY, good_of, is_certain, is_exact, objectives_of, split
from vllm_sidecar.lives import is_made_anew
from vllm_sidecar.model import Group, Histogram, Observed, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.derive.slo import Objective
    from vllm_sidecar.model import Key, Reading, Readings
    from vllm_sidecar.window import Window, Windows

FINISHED = "requests_finished_total"
REJECTED = "requests_rejected_total"
HTTP = "http_requests_total"
SERVER_ERROR = "5xx"
TARGET = Group(Scope.TARGET, ())
SPLIT_SECONDS = 5.0
"""For how long the split of a bucket is used: worked out at each poll it costs four times as much and gains nothing."""
MOST_COUNTS = 1000
"""With more, those of engines that a new life of the server does not have are dropped."""

Row = tuple[str, tuple[str, ...], float]
"""Signal, label values (model_name first), value."""


class Count(NamedTuple):
    """What was counted for one objective."""

    requests: float = 0.0
    good: float = 0.0


class Tally:
    """The counters of one target, for the life of the sidecar."""

    def __init__(self, objectives: Sequence[Objective], *, availability: bool) -> None:
        self._objectives = objectives
        self._by_model: dict[str, list[Objective]] = {}
        self._availability = availability
        self._before: Readings | None = None
        self._last: dict[Group, dict[Key, float | Histogram]] = {}
        """What each group of this life of the server said last, also where the last poll left it out."""
        self._counts: dict[tuple[str, str, str], Count] = {}
        """By model, engine (none where an objective is told by model) and name of the objective."""
        self._exact: dict[tuple[str, str, str], bool] = {}
        self._shares: dict[tuple[str, str, str], tuple[float, float | None]] = {}
        """When it was worked out, and which share of the bucket that holds the threshold is good."""
        self._unanswered: dict[str, float] = {}
        """Failures that an engine told at the last poll and the front end has not answered yet, by model."""

    def use(self, objectives: Sequence[Objective], *, availability: bool) -> None:
        """Take changed objectives: those that stay as they are go on, and one that changed begins at 0."""
        before, self._objectives, self._availability = self._objectives, objectives, availability
        for model, engine, name in list(self._counts):
            old, new = (
                availability if name == AVAILABILITY else _of_name(objectives_of(each, model), name)
                for each in (before, objectives)
            )
            if not new or old != new:
                for kept in (self._counts, self._exact, self._shares):
                    kept.pop((model, engine, name), None)
        self._by_model.clear()

    def follow(self, readings: Readings, windows: Windows) -> None:
        """Count what came since the poll before; `windows` already have this one."""
        if self._before is not None:
            self._forget_lives(self._before, readings)
        self._exact.clear()
        for group, reading in readings.groups.items():
            if group.scope is Scope.ENGINE:
                self._latencies(group, reading, windows)
        if self._availability:
            self._outcomes(readings)
        for group, reading in readings.groups.items():
            self._last.setdefault(group, {}).update(_watched(reading, self._objectives))
        self._before = readings

    def rows(self, *, up: bool) -> Iterator[Row]:
        """Yield the series: counts always, for they are the sidecar's own, and what is true only now while `up`."""
        for labels, count in self._counts.items():
            yield "slo_requests_total", labels, count.requests
            yield "slo_good_requests_total", labels, count.good
        for labels, exact in self._exact.items() if up else ():
            yield "slo_exact", labels, float(exact)
        for model in dict.fromkeys(model for model, _, _ in self._exact) if up else ():
            for objective in self._of(model):
                yield "slo_threshold_seconds", (model, objective.name), objective.threshold

    def _forget_lives(self, before: Readings, after: Readings) -> None:
        """Forget what groups said that were made anew: theirs begins at 0.

        Where a fall alone tells of a new life, it is left to each counter to tell by its own: one that did not fall
        then either went on, or lost less than it has now.
        """
        if not is_made_anew(before, after):
            return
        for group in list(self._last):
            made = after.created.get(group)
            same = made is not None and made == before.created.get(group) and before.started == after.started
            if not same:
                self._last[group] = {}
        if len(self._counts) > MOST_COUNTS:
            for labels in [labels for labels in self._counts if not _is_there(labels, after)]:
                del self._counts[labels]

    def _of(self, model: str) -> list[Objective]:
        if model not in self._by_model:
            self._by_model[model] = objectives_of(self._objectives, model)
        return self._by_model[model]

    def _latencies(self, group: Group, reading: Reading, windows: Windows) -> None:
        model, engine = group.labels
        for objective in self._of(model):
            histogram = reading.histograms.get(objective.histogram)
            if histogram is None:
                continue
            labels = (model, engine, objective.name)
            self._exact[labels] = is_exact(histogram.bounds, objective.threshold)
            count = self._counts.setdefault(labels, Count())
            poll = self._observed(group, objective.histogram, histogram)
            if poll.bins:
                certain = is_certain(histogram.bounds, poll, objective.threshold)
                share = None if certain else self._share(labels, windows.get(group), objective, histogram.bounds)
                good = good_of(histogram.bounds, poll, objective.threshold, share)
                whole = sum([number for _, number in poll.bins])
                self._counts[labels] = Count(count.requests + whole, count.good + good)

    def _share(
        self, labels: tuple[str, str, str], window: Window | None, objective: Objective, bounds: tuple[float, ...]
    ) -> float | None:
        """Return how to split the bucket that holds a threshold; worked out anew each few seconds, for it is work."""
        if window is None:
            return None
        known = self._shares.get(labels)
        if known is None or known[1] is None or not 0.0 <= window.now - known[0] < SPLIT_SECONDS:
            share = split(bounds, window.observed_by_poll(objective.histogram), objective.threshold)
            known = self._shares[labels] = (window.now, share)
        return known[1]

    def _observed(self, group: Group, name: str, new: Histogram) -> Observed:
        """Return what a histogram observed since it was seen last; nothing where that cannot be said."""
        nothing = Observed((), None)
        old = self._base(group, name)
        if old is None or old is new:
            return nothing
        if not isinstance(old, Histogram) or new.cumulative[-1] < old.cumulative[-1]:
            old = Histogram(new.bounds, (0.0,) * len(new.cumulative), 0.0)
        if old.bounds != new.bounds:
            return nothing
        grown = list(map(sub, new.cumulative, old.cumulative))
        counts = [grown[0], *map(sub, grown[1:], grown)]
        if min(counts) < 0.0:
            return nothing
        total = new.total - old.total if new.total is not None and old.total is not None else None
        bins = tuple([(bucket, count) for bucket, count in enumerate(counts) if count > 0.0])
        return Observed(bins, total if total is not None and total >= 0.0 else None)

    def _base(self, group: Group, key: Key) -> float | Histogram | None:
        """Return what a counter said last, 0 where it began since the last poll, None where it is not known."""
        known = self._last.get(group)
        if known is not None and key in known:
            return known[key]
        if self._before is None:
            return None
        # A group that comes up, or is of a new life, began at 0. In one that was there only labelled counters come
        # up, at their first use; a histogram was left out of the bodies.
        return 0.0 if not known or isinstance(key, tuple) else None

    def _grown(self, group: Group, reading: Reading | None, signal: str) -> dict[tuple[str, ...], float]:
        """Return what the series of a labelled counter grew by since the poll before, by label values."""
        found = {}
        for key, value in reading.counters.items() if reading else ():
            if isinstance(key, tuple) and key[0] == signal:
                old = self._base(group, key)
                if isinstance(old, float):
                    found[key[1:]] = value - old if value >= old else value
        return found

    def _outcomes(self, readings: Readings) -> None:
        models: dict[str, list[Group]] = {}
        for group, reading in readings.groups.items():
            if group.scope is Scope.ENGINE and any(key[0] == FINISHED for key in reading.counters):
                models.setdefault(group.labels[0], []).append(group)
        for model, groups in models.items():
            good = failed = 0.0
            for group in groups:
                for (reason, *_), count in self._grown(group, readings.groups[group], FINISHED).items():
                    failed += count if reason in FAILED else 0.0
                    good += count if reason not in FAILED | ABORTED else 0.0
            own = Group(Scope.MODEL, (model,))
            failed += sum(self._grown(own, readings.groups.get(own), REJECTED).values())
            # Of several models nobody knows whose an answer was.
            failed += self._unseen_failures(model, readings, failed) if len(models) == 1 else 0.0
            before = self._counts.get((model, "", AVAILABILITY), Count())
            counted = Count(before.requests + good + failed, before.good + good)
            self._counts[model, "", AVAILABILITY] = counted

    def _unseen_failures(self, model: str, readings: Readings, failed: float) -> float:
        """Return how many requests the front end failed that no engine told of: 5xx when an engine is dead, say.

        An engine's failure, or a rejection, is answered with 5xx at the same poll or the next; or not at all, where
        the answer was being streamed.
        """
        grown = self._grown(TARGET, readings.groups.get(TARGET), HTTP)
        answered = sum(
            count
            for (handler, method, status), count in grown.items()
            if status == SERVER_ERROR and method == "POST" and handler != "none"
        )
        open_before = self._unanswered.get(model, 0.0)
        matched = min(answered, open_before + failed)
        self._unanswered[model] = failed - max(0.0, matched - open_before)
        return answered - matched


def _watched(reading: Reading, objectives: Sequence[Objective]) -> dict[Key, float | Histogram]:
    found: dict[Key, float | Histogram] = {
        key: value
        for key, value in reading.counters.items()
        if isinstance(key, tuple) and key[0] in (FINISHED, REJECTED, HTTP)
    }
    for objective in objectives:
        histogram = reading.histograms.get(objective.histogram)
        if histogram is not None:
            found[objective.histogram] = histogram
    return found


def _of_name(objectives: Sequence[Objective], name: str) -> Objective | None:
    return next((objective for objective in objectives if objective.name == name), None)


def _is_there(labels: tuple[str, str, str], readings: Readings) -> bool:
    model, engine, _ = labels
    return any(
        group.scope is Scope.ENGINE and group.labels[0] == model and engine in ("", group.labels[1])
        for group in readings.groups
    )
