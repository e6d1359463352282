"""The known state of one process behind an address, and its comparison with an answer."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import lt
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.readings import drop_absent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vllm_sidecar.series.readings import Group, Key, Reading, Readings

    Values = Mapping[Key, float]

HOLD = 300.0
"""Seconds for which one server must answer alone after several have, before it is followed."""
TOLERANCE = 5.0
"""Tolerance of a start time: the Date header and the boot time have whole seconds, and clocks drift."""
FRESH_PER_SECOND = 10.0
"""Requests per second since the poll before, up to which a series may have appeared with its first request."""
FRESH_TOKENS_PER_SECOND = 1e5
"""The same for counters of tokens and other small units."""
MOST_UNSEEN = 100.0
"""Requests per second that may be open without being in an engine's gauges."""
FORGET = 600.0
"""Seconds after which absent engines (replicas, models) are forgotten."""
MOST_GROUPS = 1000
"""With more groups, those absent longest are forgotten at once."""
REQUESTS = frozenset(
    ("requests_finished_total", "http_requests_total", "requests_rejected_total", "request_seconds",
     "time_to_first_token_seconds")
)  # fmt: skip
"""Counters, and histograms, that every request increases by one."""
DURATION = "request_seconds"


class Change(NamedTuple):
    """Changes of the process and the series at a poll; usually none."""

    restarted: bool = False
    """A later process answered: all its counters began at 0."""
    resumed: bool = False
    """Several servers answered until now; counting resumes with this one."""
    broken: frozenset[Group] = frozenset()
    """Groups with a counter reset, or with a counter that returned: no increase spans this answer."""
    fresh: frozenset[Group] = frozenset()
    """Groups whose counters began at 0 since the poll before."""


NOTHING = Change()


@dataclass(slots=True)
class Process:
    """One process behind the address, according to its last answers."""

    started: float | None
    answered: float = 0.0
    created: dict[Group, float] = field(default_factory=dict)
    cache_config: Mapping[Group, Mapping[str, str]] = field(default_factory=dict)
    values: dict[Group, dict[Key, float]] = field(default_factory=dict)
    """Last values of counters, and of counts of histograms, also of those that the last bodies lacked."""
    left_out: dict[Group, set[Key]] = field(default_factory=dict)
    """Counters that the last body lacked."""
    fallen: dict[Group, tuple[float, dict[Key, float]]] = field(default_factory=dict)
    """When counters of a group fell, and their values before."""
    seen: dict[Group, float] = field(default_factory=dict)
    engines: dict[Group, Reading] = field(default_factory=dict)
    """The last readings of its engines."""

    def copy(self) -> Process:
        """Return a copy of the current state."""
        return replace(self, values={group: dict(values) for group, values in self.values.items()})


class Answer(NamedTuple):
    """One successful poll."""

    at: float
    """Monotonic time."""
    readings: Readings
    values: dict[Group, dict[Key, float]]
    """Counters, and counts of histograms."""
    started: float | None
    clock: float | None
    """Unix time of the server."""
    outage: bool
    """Polls had failed for a while before it."""

    def is_younger(self, made: float, seconds: float) -> bool:
        """Return whether something with this Unix creation time can be at most so many seconds old; True if unknown."""
        return self.clock is None or self.clock - made <= seconds + TOLERANCE


def _values(reading: Reading) -> dict[Key, float]:
    return {**reading.counters, **{name: found.cumulative[-1] for name, found in reading.histograms.items()}}


def answer_of(at: float, readings: Readings, clock: float | None, *, outage: bool) -> Answer:
    """Return the comparable values of a poll."""
    values = {group: _values(reading) for group, reading in readings.groups.items()}
    return Answer(at, readings, values, readings.started, clock, outage)


def note(process: Process, answer: Answer) -> None:
    """Remember an answer of a process."""
    process.answered = answer.at
    process.started = answer.started if answer.started is not None else process.started
    process.engines = {group: found for group, found in answer.readings.groups.items() if group.scope is Scope.ENGINE}
    process.created.update(answer.readings.created)
    process.cache_config = answer.readings.cache_config
    for group, values in answer.values.items():
        known = process.values.setdefault(group, {})
        known.update(values)
        drop_absent(known, values)
        process.left_out[group] = known.keys() - values.keys() if len(known) > len(values) else set()
        process.seen[group] = answer.at
    for group in groups_to_forget(process.seen, answer.at):
        for table in (process.seen, process.values, process.left_out, process.fallen, process.created):
            table.pop(group, None)


def groups_to_forget(seen: Mapping[Group, float], at: float, most: int = MOST_GROUPS) -> list[Group]:
    """Return the groups to forget by the times of their last polls: absent for long, or too many."""
    old = [group for group, when in seen.items() if when < at - FORGET]
    if len(seen) - len(old) > most:
        absent = sorted((when, group) for group, when in seen.items() if when < at)
        old = [group for _, group in absent[: max(len(old), len(seen) - most)]]
    return old


def changes(process: Process, answer: Answer) -> Change:
    """Return the changes of single groups of one process."""
    seconds = answer.at - process.answered
    broken, fresh = set(), set()
    for group, values in answer.values.items():
        known = process.values.get(group)
        if known is None:
            made = answer.readings.created.get(group)
            dated = made is not None and answer.clock is not None
            if answer.is_younger(made, seconds) if dated and made is not None else is_fresh({group: values}, seconds):
                fresh.add(group)
        elif _is_reset(process, answer, group):
            broken.add(group)
            recreated = process.created.get(group, 0.0) < answer.readings.created.get(group, 0.0)
            if recreated or (fell_together(process, {group: values}) and is_fresh({group: values}, seconds)):
                fresh.add(group)
            process.fallen[group] = (answer.at, {k: then for k, then in known.items() if values.get(k, then) < then})
            if group in fresh:
                known.clear()
        elif group in answer.readings.jumped or _reappeared(process, answer, group) or _is_back(process, answer, group):
            broken.add(group)
    return Change(broken=frozenset(broken), fresh=frozenset(fresh)) if broken or fresh else NOTHING


def _is_reset(process: Process, answer: Answer, group: Group) -> bool:
    if process.created.get(group, made := answer.readings.created.get(group)) != made and made is not None:
        return True
    if group.scope is Scope.ENGINE:
        old, new = process.cache_config.get(group), answer.readings.cache_config.get(group)
        if old is not new and old is not None and new is not None and old != new:
            return True
    known = process.values[group]
    values = answer.values[group]
    return any(map(lt, values.values(), map(known.get, values, values.values())))


def _reappeared(process: Process, answer: Answer, group: Group) -> bool:
    """Return whether a counter returned that bodies had left out: as a new one it would be a huge increase."""
    missing, known = process.left_out[group], process.values[group]
    return bool(missing) and any(known[key] > 0.0 for key in missing & answer.readings.groups[group].counters.keys())


def _is_back(process: Process, answer: Answer, group: Group) -> bool:
    """Return whether all fallen counters of a group returned to their old values at once."""
    if group not in process.fallen:
        return False
    when, fallen = process.fallen[group]
    back = [value >= fallen[key] for key, value in answer.values[group].items() if key in fallen]
    if any(back) or when < answer.at - HOLD:  # counters that only grow again reach them one by one
        del process.fallen[group]
    return bool(back) and all(back)


def created_next_to(process: Process, answer: Answer) -> bool:
    """Return whether counters were created before the process answered last, and are not its own."""
    seconds = answer.at - process.answered
    pairs = [
        (process.created[group], made) for group, made in answer.readings.created.items() if group in process.created
    ]
    return any(made < old or (made > old and not answer.is_younger(made, seconds)) for old, made in pairs)


def is_one_process(process: Process, answer: Answer) -> bool:
    """Return whether an answer is that of a process whatever start time it exposes.

    Counters that were created at the same moment, and continue, are in the memory of one process; its start time may be
    derived from a clock that was set, or from a boot time that has jitter.
    """
    created = answer.readings.created
    common = created.keys() & process.created.keys()
    return (
        bool(common)
        and all(created[group] == process.created[group] for group in common)
        and not fell(process, answer.values)
        and not had_not_begun(process, answer)
    )


def all_made_later(process: Process, answer: Answer) -> bool:
    """Return whether all counters with a creation time were created again."""
    created = answer.readings.created
    common = created.keys() & process.created.keys()
    return bool(common) and all(created[group] > process.created[group] for group in common)


def had_not_begun(process: Process, answer: Answer) -> bool:
    """Return whether more long requests, running since before the last answer, finished than were open at that time."""
    seconds = answer.at - process.answered
    for group, old in process.engines.items():
        new = answer.readings.groups.get(group)
        before, now = old.histograms.get(DURATION), new.histograms.get(DURATION) if new else None
        if before is None or now is None or before is now or before.bounds != now.bounds:
            continue
        bucket = bisect_left(now.bounds, seconds + 1.0)
        grown = [after - then for after, then in zip(now.cumulative, before.cumulative, strict=True)]
        inside = old.gauges.get("requests_running", 0.0) + old.gauges.get("requests_waiting", 0.0)
        if min(grown) >= 0.0 and grown[-1] - grown[bucket] > inside + MOST_UNSEEN * max(1.0, seconds):
            return True
    return False


def _pairs(process: Process, values: Mapping[Group, Values]) -> Iterator[list[tuple[float, float]]]:
    """Yield, for each group, the counters that were above 0: their old and new values."""
    for group, new in values.items():
        old = process.values.get(group, {})
        pairs = [(then, new[key]) for key, then in old.items() if then > 0.0 and key in new]
        if pairs:
            yield pairs


def fell_together(process: Process, values: Mapping[Group, Values]) -> bool:
    """Return whether counters fell in every group, and more than half of all counters."""
    found = [[now < then for then, now in pairs] for pairs in _pairs(process, values)]
    fell = list(chain.from_iterable(found))
    return bool(fell) and 2 * sum(fell) > len(fell) and all(map(any, found))


def fell(process: Process, values: Mapping[Group, Values]) -> bool:
    """Return whether any counter fell."""
    return any(now < then for pairs in _pairs(process, values) for then, now in pairs)


def goes_on(process: Process, values: Mapping[Group, Values]) -> bool:
    """Return whether counters can be those of a process some time later."""
    pairs = list(chain.from_iterable(_pairs(process, values)))
    return bool(pairs) and all(now >= then for then, now in pairs)


def is_above(process: Process, other: Process) -> bool:
    """Return whether a process had counted more than another; it is then the closer match for even higher counters."""
    pairs = [
        (value, others[key])
        for group, values in process.values.items()
        if (others := other.values.get(group))
        for key, value in values.items()
        if key in others
    ]
    return all(its >= others for its, others in pairs) and any(its > others for its, others in pairs)


def is_fresh(values: Mapping[Group, Values], seconds: float) -> bool:
    """Return whether counters may have begun at 0 so many seconds ago."""
    for found in values.values():
        totals: Counter[str] = Counter()
        for key, value in found.items():
            totals[key if isinstance(key, str) else key[0]] += value  # type: ignore[assignment]
        for name, total in totals.items():
            limit = FRESH_PER_SECOND if name in REQUESTS else FRESH_TOKENS_PER_SECOND
            if total > limit * max(1.0, seconds):
                return False
    return True
