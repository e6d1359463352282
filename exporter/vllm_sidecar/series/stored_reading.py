"""Readings as they are stored in a window: their numbers in one string of bytes, their names once for many polls.

A reading of an engine is some 300 numbers. As Python's objects these are 8 to 13 KiB under load, as bytes 2.5 KiB, and
0.4 KiB compressed. Single values are read without unpacking the others.
"""

from __future__ import annotations

import zlib
from math import isnan, nan
from struct import Struct, unpack_from
from typing import TYPE_CHECKING

from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.readings import Reading

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Key

LEVEL = 1
"""Level of compression; higher ones take longer and save little."""
NUMBER = 8
"""Bytes of a number."""


class Shape:
    """The names of the values of a reading, and where each is among its numbers."""

    __slots__ = ("_counters", "_gauges", "_histograms", "_names", "_numbers")

    def __init__(self, reading: Reading) -> None:
        self._names = _names(reading)
        self._counters = {key: place for place, key in enumerate(reading.counters)}
        self._gauges = {key: place for place, key in enumerate(reading.gauges, len(self._counters))}
        self._histograms: dict[str, tuple[int, tuple[float, ...]]] = {}
        place = len(self._counters) + len(self._gauges)
        for name, histogram in reading.histograms.items():
            self._histograms[name] = place, histogram.bounds
            place += len(histogram.cumulative) + 1
        self._numbers = Struct(f"{place}d")

    def fits(self, reading: Reading) -> bool:
        """Return whether a reading has the same names in the same order, and the same bounds."""
        return self._names == _names(reading)

    def numbers(self, reading: Reading) -> bytes:
        """Return the numbers of a reading that fits; NaN stands for a sum that is unknown."""
        numbers = [*reading.counters.values(), *reading.gauges.values()]
        for _, cumulative, total in reading.histograms.values():
            numbers += cumulative
            numbers.append(nan if total is None else total)
        return self._numbers.pack(*numbers)

    def counter(self, numbers: bytes, key: Key) -> float | None:
        """Return a counter; None without it."""
        return _number(numbers, self._counters.get(key))

    def gauge(self, numbers: bytes, key: Key) -> float | None:
        """Return a gauge; None without it."""
        return _number(numbers, self._gauges.get(key))

    def histogram(self, numbers: bytes, name: str) -> Histogram | None:
        """Return a histogram; None without it."""
        found = self._histograms.get(name)
        if found is None:
            return None
        place, bounds = found
        *cumulative, total = unpack_from(f"{len(bounds) + 2}d", numbers, NUMBER * place)
        return Histogram(bounds, tuple(cumulative), None if isnan(total) else total)

    def reading(self, numbers: bytes) -> Reading:
        """Return all values."""
        scalars = unpack_from(f"{len(self._counters) + len(self._gauges)}d", numbers)
        histograms = {name: found for name in self._histograms if (found := self.histogram(numbers, name))}
        counters = dict(zip(self._counters, scalars, strict=False))
        return Reading(counters, dict(zip(self._gauges, scalars[len(counters) :], strict=True)), histograms)


def _names(reading: Reading) -> tuple[object, ...]:
    counters, gauges, histograms = reading
    return (*counters, None, *gauges, None, *histograms, *[found.bounds for found in histograms.values()])


def _number(numbers: bytes, place: int | None) -> float | None:
    return None if place is None else unpack_from("d", numbers, NUMBER * place)[0]


class StoredReading:
    """One reading of a window."""

    __slots__ = ("_compressed", "_numbers", "_shape")

    def __init__(self, shape: Shape, numbers: bytes, *, compressed: bool = False) -> None:
        self._shape, self._numbers, self._compressed = shape, numbers, compressed

    @classmethod
    def of(cls, reading: Reading) -> StoredReading:
        """Store a reading."""
        shape = Shape(reading)
        return cls(shape, shape.numbers(reading))

    def followed_by(self, reading: Reading) -> StoredReading:
        """Store the reading of the next poll; the same object if nothing changed."""
        if not self._shape.fits(reading):
            return StoredReading.of(reading)
        numbers = self._shape.numbers(reading)
        return self if numbers == self._numbers else StoredReading(self._shape, numbers)

    def compressed(self) -> StoredReading:
        """Return the same reading in less memory, from which values are read more slowly."""
        return (
            self
            if self._compressed
            else StoredReading(self._shape, zlib.compress(self._numbers, LEVEL), compressed=True)
        )

    def counter(self, key: Key) -> float | None:
        """Return a counter; None without it."""
        return self._shape.counter(self._bytes(), key)

    def gauge(self, key: Key) -> float | None:
        """Return a gauge; None without it."""
        return self._shape.gauge(self._bytes(), key)

    def histogram(self, name: str) -> Histogram | None:
        """Return a histogram; None without it."""
        return self._shape.histogram(self._bytes(), name)

    def reading(self) -> Reading:
        """Return all values."""
        return self._shape.reading(self._bytes())

    def _bytes(self) -> bytes:
        return zlib.decompress(self._numbers) if self._compressed else self._numbers
