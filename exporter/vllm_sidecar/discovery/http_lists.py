"""Servers from a web service in the format of Prometheus' http_sd_configs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.discovery.entries import read_groups, read_json
from vllm_sidecar.discovery.errors import SourceError
from vllm_sidecar.discovery.source import Source
from vllm_sidecar.discovery.web import WebClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.config import HttpList


class HttpSource(Source):
    """The servers that a web service lists."""

    def __init__(self, place: str, settings: HttpList, changed: Callable[[], None]) -> None:
        super().__init__(place, settings.target, settings.refresh, changed)
        self._url = settings.url
        self._web = WebClient(settings)

    async def refresh(self) -> float:
        """Request the list."""
        body = await self._web.get(self._url)
        where = self._url.partition("?")[0]
        try:
            entries = read_groups(read_json(body), {"__meta_url": where})
        except SourceError as error:
            raise SourceError(error.reason, f"{where}: {error.detail}") from None
        self.found(entries)
        self.succeeded()
        return self._refresh
