"""Points of a push -> streams of OTLP: with the start time of each, as increases if wanted, and with their ends.

A counter starts when its process did. Where no start time is exposed, it starts at the push before for a series that
appears while its target is known, and otherwise at the first push that has it, as the data model of OTLP prescribes
for an unknown start. A value that falls, or a later start of the process, begins a new stream.
"""

from __future__ import annotations

from operator import sub
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.exposition.metric_values import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_sidecar.serve.otlp.narrow import Exponential
    from vllm_sidecar.serve.otlp.points import Key, Point

    Number = float | Histogram | Exponential

FORGET = 600.0
"""Seconds for which a series that left is remembered: its counter continues if it returns."""
LATER = 1.0
"""Seconds by which a start time must be later to be that of another process."""


class Sent(NamedTuple):
    """One data point of a push."""

    point: Point
    value: Number
    """The value of the point, or its increase."""
    start: float
    """Unix time from which a counter or histogram counts."""


class Collected(NamedTuple):
    """All data points of a push."""

    at: float
    """Unix time."""
    sent: list[Sent]
    ended: list[Sent]
    """The last points of series that ended, to be marked as such."""


class _Stream:
    """One series over several pushes."""

    def __init__(self, point: Point, at: float, start: float) -> None:
        self.point, self.at, self.start = point, at, start
        self.base: Number | None = None
        """Value that the receiver has already; None for 0."""
        self.base_at = start
        self.held = False
        """The receiver has a value of it."""

    def begins_again(self, point: Point) -> bool:
        old, new = self.point, point
        later = old.began is not None and new.began is not None and new.began > old.began + LATER
        return later or _fell(old.value, new.value)


class Streams:
    """Follows all series from push to push."""

    def __init__(self, started: float, *, delta: bool) -> None:
        self._started = started
        """Unix time since which everything is known, since the sidecar started."""
        self._delta = delta
        self._streams: dict[Key, _Stream] = {}
        self._sources: dict[str, float] = {}
        """When each target was seen last."""

    def follow(self, points: Iterable[Point], at: float) -> Collected:
        """Return the data points of a push at a Unix time."""
        sent: list[Sent] = []
        known = dict(self._sources)
        for point in points:
            stream = self._follow(point, at, known.get(point.source))
            self._sources[point.source] = at
            if not point.is_counted:
                sent.append(Sent(point, point.value, at))
            elif not self._delta:
                sent.append(Sent(point, point.value, stream.start))
            elif at > stream.base_at:
                sent.append(Sent(point, minus(point.value, stream.base), stream.base_at))
        ended = [
            Sent(stream.point, stream.point.value, stream.start)
            for stream in self._streams.values()
            if stream.held and stream.at < at and not (self._delta and stream.point.is_counted)
        ]
        self._forget(at)
        return Collected(at, sent, ended)

    def accepted(self, collected: Collected) -> None:
        """Note that the receiver has a push."""
        for sent in collected.sent:
            stream = self._streams[sent.point.key]
            stream.held, stream.base, stream.base_at = True, sent.point.value, collected.at
        for sent in collected.ended:
            if (left := self._streams.get(sent.point.key)) is not None:
                left.held = False

    def _follow(self, point: Point, at: float, source_seen: float | None) -> _Stream:
        stream = self._streams.get(point.key)
        if stream is None:
            stream = self._streams[point.key] = self._new(point, at, source_seen)
        elif point.is_counted and stream.begins_again(point):
            began = point.began if point.began is not None else stream.at
            stream.start = stream.base_at = min(at, max(began, stream.at) if self._delta else began)
            stream.base = None
        stream.point, stream.at = point, at
        return stream

    def _new(self, point: Point, at: float, source_seen: float | None) -> _Stream:
        began = point.began
        start = began if began is not None else source_seen if source_seen is not None else at
        stream = _Stream(point, at, min(at, start))
        from_zero = source_seen is not None or (began is not None and began >= self._started)
        if self._delta and not from_zero:  # it counted before anybody looked
            stream.base, stream.base_at = point.value, at
        elif self._delta and source_seen is not None:
            stream.base_at = max(stream.start, source_seen)
        return stream

    def _forget(self, at: float) -> None:
        self._streams = {key: each for key, each in self._streams.items() if each.at >= at - FORGET}
        self._sources = {name: seen for name, seen in self._sources.items() if seen >= at - FORGET}


def _count(value: Number) -> float:
    if isinstance(value, float):
        return value
    return value.cumulative[-1] if isinstance(value, Histogram) else value.observations


def _fell(old: Number, new: Number) -> bool:
    if isinstance(old, Histogram) and isinstance(new, Histogram):
        return old.bounds != new.bounds or any(map(lambda a, b: b < a, old.cumulative, new.cumulative))
    return _count(new) < _count(old)


def minus(new: Number, old: Number | None) -> Number:
    """Return the increase of a counter or histogram from an earlier value; None is 0.

    A sum that is unknown at one of the ends, or that fell (a negative observation), is unknown.
    """
    if old is None:
        return new
    if isinstance(new, float) and isinstance(old, float):
        return new - old
    if isinstance(new, Histogram) and isinstance(old, Histogram):
        return Histogram(new.bounds, tuple(map(sub, new.cumulative, old.cumulative)), _grown(new.total, old.total))
    if isinstance(new, float | Histogram) or isinstance(old, float | Histogram):
        raise TypeError("the kind of a series changed")
    old = old.at_scale(new.scale)
    buckets = {index: grown for index, count in new.buckets.items() if (grown := count - old.buckets.get(index, 0))}
    total = _grown(new.total, old.total)
    return new._replace(
        zeros=new.zeros - old.zeros, buckets=buckets, observations=new.observations - old.observations, total=total
    )


def _grown(new: float | None, old: float | None) -> float | None:
    return new - old if new is not None and old is not None and new >= old else None
