"""The share of streamed answers, from the sizes of HTTP answers.

The front end's instrumentation counts the Content-Length of answers, which streamed ones do not have: they count as 0
bytes. So a poll whose answers have 0 bytes together saw streamed ones only, and one answer with bytes was not streamed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.upstream import GENERATING_ROUTES, HTTP_ANSWER_BYTES

if TYPE_CHECKING:
    from vllm_sidecar.exposition.layout import Exposition, Layout


class AnswerSizes:
    """Follows the sizes of one server's answers."""

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._slots: list[tuple[str, bool, int]] = []
        """Route, whether it is the sum, and place of the value."""
        self._before: dict[tuple[str, bool], float] | None = None
        self.polls: list[tuple[float, float]] = []
        """Number and bytes of the answers of one route between two polls."""

    def take(self, exposition: Exposition, *, used: bool) -> None:
        """Take one poll; the answers before it are counted only if `used`."""
        if exposition.layout is not self._layout:
            self._layout = exposition.layout
            self._slots = list(_slots(exposition.layout))
        now = {(route, is_sum): exposition.values[slot] for route, is_sum, slot in self._slots}
        before, self._before = self._before, now
        if not used or before is None:
            return
        for route in {route for route, _ in now}:
            count, size = (now.get((route, part), 0.0) - before.get((route, part), 0.0) for part in (False, True))
            if count > 0.0 and size >= 0.0:
                self.polls.append((count, size))


def _slots(layout: Layout) -> list[tuple[str, bool, int]]:
    names = {f"{HTTP_ANSWER_BYTES}_count": False, f"{HTTP_ANSWER_BYTES}_sum": True}
    found = []
    for slot, (name, labels) in enumerate(layout.series):
        route = dict(labels).get("handler", "")
        if name in names and route in GENERATING_ROUTES:
            found.append((route, names[name], slot))
    return found


def streaming_ratio(polls: list[tuple[float, float]]) -> float | None:
    """Return the share of streamed answers; None without any, or if no poll shows the size of a single one.

    Where streamed and other answers ended in one poll, the number of the others is their bytes over the mean size of
    those that ended alone.
    """
    whole = sum(count for count, _ in polls)
    mixed = [(count, size) for count, size in polls if size > 0.0]
    if not whole:
        return None
    alone = [size for count, size in mixed if count == 1.0]
    if mixed and not alone:
        return None
    mean = sum(alone) / len(alone) if alone else 1.0
    others = sum(min(count, max(1.0, round(size / mean))) for count, size in mixed)
    return 1.0 - others / whole
