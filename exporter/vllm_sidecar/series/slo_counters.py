"""Counts of all and of good observations for each objective, from poll to poll.

These counters are the sidecar's own: they begin at 0 when it starts, and continue across restarts of the server and
across failed polls, because a server's counters later show what was missed. Counts of a later process before its first
poll are included; counts of the process before after its last poll are unknown. Counts of a server, or of an engine
that joins it, from before it was followed are not included.

Increases are computed per series and then added. A series that falls adds nothing, and neither does its return to its
old value, or an increase that is impossible between two polls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.routes import reaches_an_engine
from vllm_sidecar.catalog.slo_signals import AVAILABILITY
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.catalog.upstream import ABORTED, FAILED
from vllm_sidecar.series.good_observations import good_of, is_certain, is_exact, objectives_of, split
from vllm_sidecar.series.increases import CounterSeries, HistogramSeries, zero
from vllm_sidecar.series.readings import MOST_ABSENT, TARGET, Group, drop_absent
from vllm_sidecar.series.server_process import groups_to_forget
from vllm_sidecar.slices import at_once

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from vllm_sidecar.exposition.metric_values import Histogram
    from vllm_sidecar.quantiles.buckets import Observed
    from vllm_sidecar.series.good_observations import Objective
    from vllm_sidecar.series.readings import Key, Reading, Readings
    from vllm_sidecar.series.store import WindowStore
    from vllm_sidecar.series.window import Window

FINISHED = "requests_finished_total"
REJECTED = "requests_rejected_total"
HTTP = "http_requests_total"
SERVER_ERROR = "5xx"
SPLIT_SECONDS = 5.0
"""Time for which the split of a bucket is used: computing it at each poll costs four times as much for no benefit."""
MOST_COUNTS = 1000
"""With more, those of engines absent longest are dropped at once, otherwise all after `server_process.FORGET`."""

COUNTED = frozenset((FINISHED, REJECTED, HTTP))

Grown = dict[str, dict[tuple[str, ...], float]]
"""Signal -> increases by label values."""
SloSample = tuple[str, tuple[str, ...], float]
"""Signal, label values (model_name first), value."""


class Count(NamedTuple):
    """The counts of one objective."""

    requests: float = 0.0
    good: float = 0.0


class SloCounters:
    """The counters of one target, as long as the sidecar runs."""

    def __init__(self, objectives: Sequence[Objective], *, availability: bool) -> None:
        self._objectives = objectives
        self._by_model: dict[str, list[Objective]] = {}
        self._availability = availability
        self._series: dict[Group, dict[Key, CounterSeries | HistogramSeries]] = {}
        """Last values of each group, also of those that the last poll left out."""
        self._seen: dict[Group, float] = {}
        """Time of each group's last poll."""
        self._counts: dict[tuple[str, str, str], Count] = {}
        """By model, engine (empty for an objective per model) and name of the objective."""
        self._exact: dict[tuple[str, str, str], bool] = {}
        self._shares: dict[tuple[str, str, str], tuple[float, float | None]] = {}
        """When it was computed, and the good share of the bucket of the threshold."""
        self._gave_up = 0
        """Requests, up to the last poll, that no engine answered until their clients gave up."""
        self._unanswered: dict[str, float] = {}
        """Failures in an engine's counters at the last poll that the front end has not answered yet, by model."""
        self._at = self._seconds = 0.0
        self._fresh: frozenset[Group] = frozenset()
        """Groups whose counters began at 0 since the poll before."""
        self._new: set[Group] = set()
        """Groups that appear for the first time at this poll."""

    def use(self, objectives: Sequence[Objective], *, availability: bool) -> None:
        """Take other objectives; the counts of unchanged objectives remain."""
        before = {labels: self._objective(*labels) for labels in self._counts}
        self._objectives, self._availability = objectives, availability
        self._by_model.clear()
        for labels, objective in before.items():
            model, engine, name = labels
            stays = availability if engine == "" else objective == self._objective(model, engine, name)
            if not stays:
                for table in (self._counts, self._exact, self._shares):
                    table.pop(labels, None)
        watched = {objective.histogram for objective in objectives}
        for known in self._series.values():
            for key in [key for key in known if isinstance(key, str) and key not in watched]:
                del known[key]

    def _objective(self, model: str, engine: str, name: str) -> Objective | None:
        return next((each for each in self._of(model) if engine and each.name == name), None)

    def follow(self, readings: Readings, windows: WindowStore) -> None:
        """Count the increases since the poll before without a pause; see `steps`."""
        at_once(self.steps(readings, windows))

    def steps(self, readings: Readings, windows: WindowStore) -> Generator[None, None, None]:
        """Count the increases since the poll before; `windows` already contain this one. Pauses after each group."""
        change = windows.change
        self._seconds, self._at = windows.now - self._at, windows.now
        if change.restarted or change.resumed:
            self._unanswered.clear()
            self._series.clear()
        for group in change.fresh:
            for series in self._series.setdefault(group, {}).values():
                series.reset(self._at)
        self._fresh, self._new = change.fresh, readings.groups.keys() - self._series.keys()
        self._series.update((group, {}) for group in self._new)
        exact: dict[tuple[str, str, str], bool] = {}
        for group, reading in readings.groups.items():
            if group.scope is Scope.ENGINE:
                exact.update(self._latencies(group, reading, windows))
                yield
        self._exact = exact
        grown = {}
        for group, reading in readings.groups.items():
            grown[group] = self._grown(group, reading)
            yield
        if self._availability:
            self._outcomes(readings, grown, windows)
        self._forget(readings)

    def rows(self, *, up: bool) -> Iterator[SloSample]:
        """Yield the series: counts always, because they are the sidecar's own, and current values only while `up`."""
        for labels, count in self._counts.items():
            yield "slo_requests_total", labels, count.requests
            yield "slo_good_requests_total", labels, count.good
        for labels, exact in self._exact.items() if up else ():
            yield "slo_exact", labels, float(exact)
        for model in dict.fromkeys(model for model, _, _ in self._exact) if up else ():
            for objective in self._of(model):
                yield "slo_threshold_seconds", (model, objective.name), objective.threshold

    def _forget(self, readings: Readings) -> None:
        """Drop the counts of engines and models that have been absent for long, or are too many."""
        self._seen.update(dict.fromkeys(readings.groups, self._at))
        forgotten = groups_to_forget(self._seen, self._at, most=MOST_COUNTS // (len(self._objectives) + 1))
        for group in forgotten:
            del self._seen[group]
            self._series.pop(group, None)
        if forgotten:
            engines = {group.labels for group in self._seen if group.scope is Scope.ENGINE}
            models = {model for model, _ in engines}
            for model, engine, name in list(self._counts):
                if (model, engine) not in engines and not (engine == "" and model in models):
                    self._shares.pop((model, engine, name), None)
                    del self._counts[model, engine, name]
            for model in self._by_model.keys() - models:
                del self._by_model[model]
                self._unanswered.pop(model, None)

    def _of(self, model: str) -> list[Objective]:
        if model not in self._by_model:
            self._by_model[model] = objectives_of(self._objectives, model)
        return self._by_model[model]

    def _latencies(
        self, group: Group, reading: Reading, windows: WindowStore
    ) -> Iterator[tuple[tuple[str, str, str], bool]]:
        """Count the latencies of an engine; yield for each objective whether its threshold is a bucket bound."""
        model, engine = group.labels
        polls: dict[str, Observed] = {}  # several objectives may use one histogram
        for objective in self._of(model):
            histogram = reading.histograms.get(objective.histogram)
            if histogram is None:
                continue
            labels = (model, engine, objective.name)
            yield labels, is_exact(histogram.bounds, objective.threshold)
            count = self._counts.setdefault(labels, Count())
            poll = polls.get(objective.histogram)
            if poll is None:
                poll = polls[objective.histogram] = self._observed(group, objective.histogram, histogram)
            if poll.bins:
                certain = is_certain(histogram.bounds, poll, objective.threshold)
                share = None if certain else self._share(labels, windows.get(group), objective, histogram.bounds)
                good = good_of(histogram.bounds, poll, objective.threshold, share)
                whole = sum([number for _, number in poll.bins])
                self._counts[labels] = Count(count.requests + whole, count.good + good)

    def _share(
        self, labels: tuple[str, str, str], window: Window | None, objective: Objective, bounds: tuple[float, ...]
    ) -> float | None:
        """Return the share for the bucket of a threshold; computed every few seconds, because it is expensive."""
        if window is None:
            return None
        known = self._shares.get(labels)
        if known is None or known[1] is None or not 0.0 <= window.now - known[0] < SPLIT_SECONDS:
            share = split(bounds, window.observed_by_poll(objective.histogram), objective.threshold)
            known = self._shares[labels] = (window.now, share)
        return known[1]

    def _observed(self, group: Group, name: str, new: Histogram) -> Observed:
        """Return the observations of a histogram since its last poll; none where they are unknown."""
        known = self._series[group]
        series = known.get(name)
        if not isinstance(series, HistogramSeries):
            # In a known group only labeled counters can be new, at their first use; a new histogram had been left out.
            series = known[name] = HistogramSeries(zero(new) if group in self._fresh else new)
        return series.grow(new, self._at, self._seconds)

    def _grown(self, group: Group, reading: Reading) -> Grown:
        """Return the increases of the relevant labeled counters since their last poll."""
        found: Grown = {}
        known = self._series[group]
        if len(known) > MOST_ABSENT:
            drop_absent(known, (*reading.counters, *reading.histograms))
        for key, value in reading.counters.items():
            if isinstance(key, tuple) and key[0] in COUNTED:
                series = known.get(key)
                if not isinstance(series, CounterSeries):
                    series = known[key] = CounterSeries((value if group in self._new else 0.0,))
                grown = series.grow((value,), self._at, self._seconds)
                if grown is not None:
                    found.setdefault(key[0], {})[key[1:]] = grown[0]
        return found

    def _outcomes(self, readings: Readings, grown: Mapping[Group, Grown], windows: WindowStore) -> None:
        known, self._gave_up = self._gave_up, windows.front_end.gave_up
        gave_up = self._gave_up - known if self._gave_up >= known else self._gave_up
        models: dict[str, list[Group]] = {}
        for group, reading in readings.groups.items():
            if group.scope is Scope.ENGINE and any(key[0] == FINISHED for key in reading.counters):
                models.setdefault(group.labels[0], []).append(group)
        for model, groups in models.items():
            good = failed = 0.0
            for group in groups:
                for (reason, *_), count in grown[group].get(FINISHED, {}).items():
                    failed += count if reason in FAILED else 0.0
                    good += count if reason not in FAILED | ABORTED else 0.0
            own = Group(Scope.MODEL, (model,))
            failed += sum(grown.get(own, {}).get(REJECTED, {}).values())
            # With several models the model of an HTTP answer is unknown.
            failed += self._unseen_failures(model, grown, failed) + gave_up if len(models) == 1 else 0.0
            before = self._counts.get((model, "", AVAILABILITY), Count())
            counted = Count(before.requests + good + failed, before.good + good)
            self._counts[model, "", AVAILABILITY] = counted

    def _unseen_failures(self, model: str, grown: Mapping[Group, Grown], failed: float) -> float:
        """Return how many requests the front end failed without a failure in an engine, such as 5xx after its death.

        A failure of an engine, or a rejection, is answered with 5xx at the same poll or the next; or not at all, if the
        answer was being streamed.
        """
        answers = grown.get(TARGET, {}).get(HTTP, {})
        answered = sum(
            count
            for (handler, method, status), count in answers.items()
            if status == SERVER_ERROR and reaches_an_engine(handler, method)
        )
        open_before = self._unanswered.get(model, 0.0)
        matched = min(answered, open_before + failed)
        self._unanswered[model] = failed - max(0.0, matched - open_before)
        return answered - matched
