"""Counters that are sums over several series, kept monotone while their members change.

Members are copies of several API servers, or series that a proxy adds to a counter without an engine label. A member
that leaves must not look like a counter reset, and the past of a member that joins must not look like an increase. The
increases of members are added; the sum resets only if all members reset.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from vllm_sidecar.exposition.layout import Labels

MAX_SUMS = 5000
MAX_MEMBERS = 1000

Values = tuple[float, ...]


class Sum:
    """One sum: the last values of its members, and an offset for those that left, joined or were reset."""

    def __init__(self, first: Mapping[Labels, Values], width: int) -> None:
        self._last: OrderedDict[Labels, Values] = OrderedDict(first)
        self._present = set(first)
        self._offset = (0.0,) * width
        self.width = width

    def follow(self, now: Mapping[Labels, Values]) -> Values:
        """Take the current values of the members; return the sum."""
        stayed = [member for member in now if member in self._present]
        fell = {member for member in stayed if self._fell(member, now[member])}
        if stayed and len(fell) == len(stayed):
            self._last.clear()
            self._offset = (0.0,) * self.width
        else:
            for member in (self._present - now.keys()) | fell:
                self._shift(self._last[member], 1.0)
            for member in now.keys() - self._present:
                # A member that returns and did not fall has grown in its absence; for others the growth is unknown.
                known = member in self._last and not self._fell(member, now[member])
                self._shift(self._last[member] if known else now[member], -1.0)
        for member, values in now.items():
            self._last[member] = values
            self._last.move_to_end(member)
        self._present = set(now)
        while len(self._last) > max(MAX_MEMBERS, len(now)):
            self._last.popitem(last=False)
        return tuple(map(sum, zip(self._offset, *now.values(), strict=True)))

    def _fell(self, member: Labels, values: Values) -> bool:
        return any(new < old for new, old in zip(values, self._last[member], strict=True))

    def _shift(self, values: Values, sign: float) -> None:
        self._offset = tuple(offset + sign * value for offset, value in zip(self._offset, values, strict=True))


class Sums:
    """All sums of one target."""

    def __init__(self) -> None:
        self._sums: OrderedDict[Hashable, Sum] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._sums

    def __bool__(self) -> bool:
        return bool(self._sums)

    def forget(self) -> None:
        """Start over: the server was restarted."""
        self._sums.clear()

    def follow(self, key: Hashable, now: Mapping[Labels, Values], before: Values | None = None) -> Values:
        """Return the sum of the members of a counter; `before` is its value while it had only one member."""
        width = len(next(iter(now.values())))
        known = self._sums.get(key)
        if known is None or known.width != width:
            first: Mapping[Labels, Values] = {(): before} if before is not None and () in now else now
            known = self._sums[key] = Sum(first, width)
        self._sums.move_to_end(key)
        while len(self._sums) > MAX_SUMS:
            self._sums.popitem(last=False)
        return known.follow(now)
