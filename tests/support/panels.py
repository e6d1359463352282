"""Which panels of the dashboards have data: asked again and again until they have, in place of a fixed wait."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import dashboards_on_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from dashboards_on_disk import Asked
    from prometheus_process import Prometheus

    Panel = tuple[str, str]
    """Uid of its dashboard, and its title."""

PAUSE = 2.0


def empty(
    queries: Iterable[Asked], has_data: Callable[[str], bool], allowed: Container[Panel], seconds: float = 0.0
) -> set[Panel]:
    """Send every query; return the panels of which no query has data.

    Panels that are empty and are not allowed to be are asked again, for so many seconds.
    """
    pending: dict[Panel, list[str]] = {}
    for each in queries:
        pending.setdefault((each.dashboard, each.panel), []).append(each.expr)
    end = time.monotonic() + seconds
    while True:
        # All of them: one that Prometheus refuses must not hide behind one that has data.
        pending = {panel: exprs for panel, exprs in pending.items() if not sum(map(has_data, exprs))}
        if all(panel in allowed for panel in pending) or time.monotonic() > end:
            return set(pending)
        time.sleep(PAUSE)


def without_data(
    running: Prometheus, chosen: dict[str, str], time_range: float, allowed: Container[Panel], seconds: float = 0.0
) -> set[Panel]:
    """Return the panels that show nothing over a time range, with values chosen for the variables."""

    def has_data(expr: str) -> bool:
        end = time.time()
        series = running.query_range(expr, end - time_range, end, 5)
        return any(value != "NaN" for one in series for _, value in one["values"])

    queries = dashboards_on_disk.asked(
        {**dashboards_on_disk.ANYTHING, **chosen}, interval="10s", time_range=f"{time_range:g}s"
    )
    return empty(queries, has_data, allowed, seconds)
