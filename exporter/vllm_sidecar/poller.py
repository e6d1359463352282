"""Stages 1 and 2 of one target: which body to ask for, and what it says.

Always `/metrics` without a slash, never OpenMetrics: `/metrics/` is another handler, which renames `vllm:` to `vllm_`
when it may answer in OpenMetrics. With filtered polling that other handler is used on purpose, in the text format,
for it renders only the names that are asked for, at half the cost. It answers an unknown name with an empty 200, so
what it says must be what discovery saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.model import PollError
from vllm_sidecar.plan import wanted_names

if TYPE_CHECKING:
    from vllm_sidecar.model import Exposition, Layout, Response
    from vllm_sidecar.scrape import Client

BACK_OFF = 10
"""Discovery intervals for which the full body is polled after a filtered one was not what discovery saw."""


@dataclass(frozen=True, slots=True)
class Polled:
    """One successful poll."""

    exposition: Exposition
    response: Response
    filtered: bool


class Poller:
    """Gets one exposition a call; falls back to the full body by itself."""

    def __init__(self, client: Client, metrics_path: str, *, filtered: bool, discovery_interval: float) -> None:
        self._client = client
        self._path = metrics_path
        self._filtered = filtered
        self._interval = discovery_interval
        self._full_parser = DifferentialParser()
        self._filtered_parser = DifferentialParser()
        self._wanted: frozenset[str] = frozenset()
        """Names that discovery saw and the catalog uses; empty: the full body must be asked for."""
        self._discover_at = 0.0
        """Monotonic time of the next discovery."""

    def rediscover(self) -> None:
        """Ask for the full body next time: another process answers."""
        self._discover_at = 0.0

    async def poll(self, now: float) -> Polled:
        """Get one exposition.

        Raises:
            PollError: neither body could be had.
        """
        discover = now >= self._discover_at
        if self._wanted and not discover:
            polled = await self._poll_filtered()
            if polled is not None:
                return polled
            self._wanted, self._discover_at = frozenset(), now + BACK_OFF * self._interval
        response = await self._client.get(self._path)
        exposition = self._full_parser.parse(response.body, response.content_type)
        if self._filtered and discover:
            self._wanted, self._discover_at = wanted_names(exposition.layout), now + self._interval
        return Polled(exposition, response, filtered=False)

    async def _poll_filtered(self) -> Polled | None:
        query = [("name[]", name) for name in sorted(self._wanted)]
        try:
            response = await self._client.get(self._path.rstrip("/") + "/", query=query)
            exposition = self._filtered_parser.parse(response.body, response.content_type)
        except PollError:
            return None
        return Polled(exposition, response, filtered=True) if _names(exposition.layout) == self._wanted else None


def _names(layout: Layout) -> frozenset[str]:
    return frozenset(series.name for series in layout.series)
