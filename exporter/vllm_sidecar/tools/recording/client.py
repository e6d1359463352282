"""The HTTP client of a target, and a copy of every exchange for the recording."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.tools.recording.differences import body_of, lines_of
from vllm_sidecar.tools.recording.events import METRICS, Exchange
from vllm_sidecar.tools.recording.privacy import reduced
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.config import ScrapeSettings, Target
    from vllm_sidecar.tools.recording.hashing import Hasher
    from vllm_sidecar.vllm.client import Response

HASHED_DETAIL = "the detail was left out, because names are hashed"


class RecordingClient(Client):
    """Passes every request on, and every outcome to `record`; no header, and so no credential, is recorded."""

    def __init__(
        self,
        target: Target,
        scrape: ScrapeSettings,
        server: int,
        record: Callable[[Exchange], None],
        clock: Callable[[], float],
        hasher: Hasher | None = None,
    ) -> None:
        super().__init__(target, scrape)
        self._metrics_path = target.metrics_path
        self._server, self._record, self._clock, self._hasher = server, record, clock, hasher

    async def get(self, path: str, **options: Any) -> Response:
        """Fetch `path` as `Client.get` does, and record the outcome; raises the same PollError."""
        began = self._clock()
        try:
            response = await super().get(path, **options)
        except PollError as error:
            detail = HASHED_DETAIL if self._hasher else error.detail
            self._keep(path, began, None, error, detail)
            raise
        self._keep(path, began, response, None, "")
        return response

    def _keep(self, path: str, began: float, response: Response | None, error: PollError | None, detail: str) -> None:
        name = METRICS if path == self._metrics_path else path
        kept = None if response is None else replace(response, body=self._body(name, response.body))
        reason = None if error is None else error.reason
        self._record(Exchange(self._server, began, self._clock() - began, name, kept, reason, detail))

    def _body(self, path: str, body: bytes) -> bytes:
        if path != METRICS:
            return reduced(path, body, self._hasher)
        return body if self._hasher is None else body_of(list(map(self._hasher.line, lines_of(body))))
