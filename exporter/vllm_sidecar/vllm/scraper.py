"""One poll of a target: the body of `/metrics`, parsed.

The path is always `/metrics` without a slash, and never OpenMetrics: `/metrics/` is another handler, which renames
`vllm:` to `vllm_` in OpenMetrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.slices import in_slices

if TYPE_CHECKING:
    from vllm_sidecar.exposition.layout import Exposition
    from vllm_sidecar.vllm.client import Client, Response


@dataclass(frozen=True, slots=True)
class Scrape:
    """One successful poll."""

    exposition: Exposition
    response: Response


class Scraper:
    """Fetches one exposition per call."""

    def __init__(self, client: Client, metrics_path: str) -> None:
        self._client = client
        self._path = metrics_path
        self._parser = DifferentialParser()
        self.last_response: Response | None = None
        """The last body that was complete, whether or not it is an exposition."""

    async def scrape(self) -> Scrape:
        """Fetch one exposition.

        Raises:
            PollError: The body could not be fetched, or is not an exposition.
        """
        response = self.last_response = await self._client.get(self._path)
        return Scrape(await in_slices(self._parser.steps(response.body, response.content_type)), response)
