"""One push after the other, at its interval: never two at once, and nothing waits for them.

Values are collected as for a scrape; the body is made in a thread. A push that fails is not repeated: the next one has
what it had, and more, so nothing piles up while a receiver is away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import zlib
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.otlp import PUSH_HINTS, PushReason
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.exposition import labels_text
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.logs import event
from vllm_sidecar.serve.otlp.client import OtlpClient, PushError
from vllm_sidecar.serve.otlp.narrow import NarrowHistograms
from vllm_sidecar.serve.otlp.points import Points
from vllm_sidecar.serve.otlp.resource import resource_attributes
from vllm_sidecar.serve.otlp.streams import Streams
from vllm_sidecar.vllm.cancellation import is_canceled
from vllm_sidecar.vllm.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence

    from vllm_sidecar.config import Config
    from vllm_sidecar.exposition.metric_values import Value
    from vllm_sidecar.series.stored_reading import StoredReading
    from vllm_sidecar.serve.metrics import Exporter
    from vllm_sidecar.serve.otlp.client import Answer
    from vllm_sidecar.serve.otlp.encoding import Encoder
    from vllm_sidecar.serve.otlp.points import Point, Samples
    from vllm_sidecar.serve.otlp.streams import Collected

    Histories = Mapping[str, Sequence[tuple[float, StoredReading]]]

GPUS = "gpus"
GZIP_LEVEL = 1
_GZIP_FORMAT = 16 + zlib.MAX_WBITS
LAST_SECONDS = 2.0
"""Most seconds for the last push when the program ends."""

_log = logging.getLogger(__name__)


class Source(NamedTuple):
    """The data of a target, or of the GPUs, for one push."""

    name: str
    samples: Samples
    histories: Histories
    """Labels of an engine, as text -> its polls; empty unless histograms are exponential."""
    polled: float
    """Unix time of the last poll."""


class Body(NamedTuple):
    """A push that is ready to be sent."""

    content: bytes
    collected: Collected
    cpu_seconds: float


class _Maker:
    """Makes the bodies of pushes, in a thread."""

    def __init__(self, config: Config, started: float) -> None:
        self._settings, self._window = config.otlp, config.windows.length
        address = config.web.listen_address[0]
        self._resource = resource_attributes(self._settings.resource_attributes, os.environ, address)
        self._delta = self._settings.temporality == "delta"
        self.streams = Streams(started, delta=self._delta)
        self._points, self._narrow = Points(started), NarrowHistograms()
        self._encoder: Encoder | None = None

    def make(self, sources: Sequence[Source], at: float) -> Body:
        """Return the body of a push with the values at a Unix time."""
        began = time.thread_time()
        if self._encoder is None:
            from vllm_sidecar.serve.otlp.encoding import Encoder  # needs the extra, and is slow to load

            self._encoder = Encoder(self._resource, self._window, delta=self._delta)
        collected = self.streams.follow(self._all(sources), at)
        content = self._encoder.encode(collected)
        if self._settings.compression == "gzip":
            content = zlib.compress(content, GZIP_LEVEL, _GZIP_FORMAT)
        return Body(content, collected, time.thread_time() - began)

    def _all(self, sources: Sequence[Source]) -> Iterator[Point]:
        """Yield the points of all sources, with their histograms in the wanted form."""
        if self._settings.histograms == "explicit":
            for source in sources:
                yield from self._points.of(source.name, source.samples)
            return
        followed: set[object] = set()
        for source in sources:
            for point in self._points.of(source.name, source.samples):
                if not isinstance(point.value, Histogram):
                    yield point
                    continue
                followed.add(point.key)
                history = source.histories.get(point.key.labels, ())
                found = self._narrow.follow(point.key, point.key.metric.signal, history, source.polled)
                if found is not None:
                    yield point._replace(value=found[0], began=found[1])
        self._narrow.keep(followed)


class OtlpPush:
    """Pushes while the configuration enables it."""

    def __init__(
        self,
        exporter: Exporter,
        start: Callable[[Coroutine[object, object, None], str], asyncio.Task[None]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._exporter, self._start, self._wall = exporter, start, wall
        self._started = wall()
        self._config: Config | None = None
        self._task: asyncio.Task[None] | None = None
        self._maker: _Maker | None = None
        self._client: OtlpClient | None = None
        self._wait_until = 0.0
        """Monotonic time before which the receiver wants no push."""
        self._failures: Counter[PushReason] = Counter()
        self._pushes = self._rejected = 0
        self._cpu_seconds = 0.0
        self._last_success: float | None = None
        self._last: tuple[float, int, int] | None = None
        """Seconds, bytes and points of the last push."""
        self._error: PushError | None = None

    def use(self, config: Config) -> None:
        """Push as this configuration says from now on; a changed section starts new streams."""
        before, self._config = self._config, config
        if before is not None and (before.otlp, before.windows.length) == (config.otlp, config.windows.length):
            return
        if self._task is not None:
            self._task.cancel()
        self._task = self._maker = self._client = self._error = None
        if config.otlp.enabled:
            self._maker, self._client = _Maker(config, self._started), OtlpClient(config.otlp)
            self._task = self._start(self._keep_pushing(config.otlp.interval), "otlp")

    async def finish(self) -> None:
        """End the pushes with a last one, so that the receiver has what was counted since the one before."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._error is None:
            try:
                async with asyncio.timeout(LAST_SECONDS):
                    await self.push_once()
            except TimeoutError:
                event(_log, logging.WARNING, "otlp_last_push_given_up", after=f"{LAST_SECONDS:g}s")

    async def _keep_pushing(self, interval: float) -> None:
        due = time.monotonic()
        while True:
            due = max(due + interval, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            if time.monotonic() >= self._wait_until:
                await self.push_once()

    async def push_once(self) -> None:
        """Push once, and note the outcome."""
        maker, client = self._maker, self._client
        if maker is None or client is None:
            return
        began = time.monotonic()
        try:
            body = await self._make(maker)
            answer = await client.send(body.content)
        except PushError as error:
            self._note_failure(error)
        except (Exception, asyncio.CancelledError) as error:
            if is_canceled():
                raise
            event(_log, logging.ERROR, "internal_error", part="otlp", exc_info=error)
            self._note_failure(PushError(PushReason.INTERNAL, f"{type(error).__name__}: {error}"))
        else:
            maker.streams.accepted(body.collected)
            self._note_success(answer)
        self._pushes += 1
        if self._last is not None:
            self._last = (time.monotonic() - began, *self._last[1:])

    async def _make(self, maker: _Maker) -> Body:
        snapshots = await self._exporter.prepare()
        at = self._wall()
        sources = [
            Source(name, snapshot.samples, self._histories(name), snapshot.health.last_success or at)
            for name, snapshot in snapshots.items()
        ]
        if self._exporter.node is not None:
            sources.append(Source(GPUS, self._exporter.node_samples(), {}, at))
        body = await in_daemon_thread("otlp", lambda: maker.make(sources, at))
        self._cpu_seconds += body.cpu_seconds
        self._last = (0.0, len(body.content), len(body.collected.sent) + len(body.collected.ended))
        return body

    def _histories(self, name: str) -> Histories:
        """Return the polls of each engine of a target, by the text of its labels."""
        source = self._exporter.sources.get(name)
        if self._config is None or self._config.otlp.histograms == "explicit" or source is None:
            return {}
        return {
            labels_text((*source.labels, *zip(group.scope.labels, group.labels, strict=True))): list(window.history())
            for group, window in source.windows.of(Scope.ENGINE).items()
        }

    def _note_failure(self, error: PushError) -> None:
        self._failures[error.reason] += 1
        self._wait_until = time.monotonic() + error.wait
        if self._error is None or self._error.reason is not error.reason:
            wait = {"again_in": f"{error.wait:g}s"} if error.wait else {}
            event(_log, logging.WARNING, "otlp_push_failed", reason=error.reason.value, detail=error.detail,
                  hint=PUSH_HINTS[error.reason], **wait)  # fmt: skip
        self._error = error

    def _note_success(self, answer: Answer) -> None:
        from vllm_sidecar.serve.otlp.encoding import rejected

        self._last_success = self._wall()
        if self._error is not None:
            event(_log, logging.INFO, "otlp_push_succeeded", after=self._error.reason.value)
        self._error = None
        left_out, message = rejected(answer.body) if answer.is_protobuf else (0, "")
        if (left_out or message) and not self._rejected:
            event(_log, logging.WARNING, "otlp_points_rejected", points=left_out, message=message[:300])
        self._rejected += left_out

    def samples(self) -> dict[str, list[tuple[str, Value]]]:
        """Return signal -> its series; none while nothing is pushed."""
        if self._task is None:
            return {}
        found: dict[str, list[tuple[str, Value]]] = {
            "otlp_pushes_total": [("", float(self._pushes))],
            "otlp_push_failures_total": [
                (labels_text((("reason", reason.value),)), float(self._failures[reason])) for reason in PushReason
            ],
            "otlp_rejected_points_total": [("", float(self._rejected))],
            "otlp_push_cpu_seconds_total": [("", round(self._cpu_seconds, 6))],
        }
        if self._last_success is not None:
            found["otlp_last_success_timestamp_seconds"] = [("", self._last_success)]
        if self._last is not None:
            seconds, size, points = self._last
            found["otlp_push_duration_seconds"] = [("", round(seconds, 6))]
            found["otlp_push_bytes"] = [("", float(size))]
            found["otlp_push_points"] = [("", float(points))]
        return found

    def status(self) -> dict[str, object] | None:
        """Return the part `otlp` of the status, without secrets; None while nothing is pushed."""
        if self._task is None or self._config is None:
            return None
        error = self._error
        return {
            "url": self._config.otlp.url,
            "last_success": self._last_success,
            "last_error": {"reason": error.reason.value, "detail": error.detail, "hint": PUSH_HINTS[error.reason]}
            if error
            else None,
            "pushes": self._pushes,
            "failures": sum(self._failures.values()),
            "rejected_points": self._rejected,
        }
