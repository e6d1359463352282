"""Values of the last minutes: collected with each refresh, or read from the history that the sidecar has."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from vllm_sidecar.tools.top.drawing import SPAN
from vllm_sidecar.tools.top.families import FAMILIES, combined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_sidecar.tools.top.drawing import Trail
    from vllm_sidecar.tools.top.families import Values
    from vllm_sidecar.tools.top.servers import Engine, Place, Server


class Trails:
    """The values of each server at the refreshes of the last `SPAN` seconds."""

    def __init__(self) -> None:
        self._points: dict[Place, deque[tuple[float, Values]]] = {}

    def follow(self, servers: Sequence[Server], now: float) -> None:
        """Add the values of these servers at a Unix time."""
        for server in servers:
            points = self._points.setdefault(server.place, deque())
            points.append((now, server.values))
            while points[0][0] < now - SPAN:
                points.popleft()

    def keep(self, places: set[Place]) -> None:
        """Forget all servers but these."""
        self._points = {place: points for place, points in self._points.items() if place in places}

    def all(self) -> Mapping[Place, Trail]:
        """Return the values of each server, oldest first."""
        return {place: tuple(points) for place, points in self._points.items()}


def from_history(engines: Sequence[Mapping[str, Any]], engine: Engine | None) -> Trail:
    """Return the points of /api/v1/history of one target: of one engine, or (None) of all together."""
    rows: dict[float, list[Values]] = {}
    for each in engines:
        if engine is None or (each["model_name"], each["engine"]) == (engine.model, engine.number):
            columns = [each["series"][family.column] for family in FAMILIES]
            for at, *values in zip(each["at"], *columns, strict=True):
                point = {family.key: value for family, value in zip(FAMILIES, values, strict=True)}
                rows.setdefault(at, []).append(point)
    return tuple((at, combined(rows[at])) for at in sorted(rows))
