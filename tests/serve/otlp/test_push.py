"""Pushes to receivers that misbehave: each failure has its reason, nothing piles up, and nothing known is lost."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import captured
import pytest
from aiohttp import web
from certificates import Issuer
from fake_vllm import FakeVllm
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from vllm_sidecar.catalog.otlp import GEN_AI_METRICS, OTLP_METRICS, PUSH_HINTS, PushReason
from vllm_sidecar.config import Config
from vllm_sidecar.serve.app import Sidecar
from vllm_sidecar.serve.otlp.client import CONTENT_TYPE, retry_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

pytestmark = pytest.mark.io
BODY = captured.text().encode()


class Receiver:
    """A receiver that answers as told, and keeps what it got."""

    def __init__(self) -> None:
        self.requests: list[tuple[Mapping[str, str], ExportMetricsServiceRequest]] = []
        self.answer: Callable[[], web.Response] = lambda: web.Response(content_type=CONTENT_TYPE)
        self.hangs = False
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp has decompressed it
        self.requests.append((request.headers.copy(), ExportMetricsServiceRequest.FromString(body)))
        if self.hangs:
            await asyncio.sleep(60.0)
        return self.answer()

    @property
    def metrics(self) -> dict[str, dict[str, object]]:
        (resource,) = self.requests[-1][1].resource_metrics
        return {each.name: MessageToDict(each) for each in resource.scope_metrics[0].metrics}


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/v1/metrics", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    receiver.url = f"{'https' if tls else 'http'}://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1/metrics"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def pushing(url: str, **settings: object) -> AsyncIterator[Sidecar]:
    """Run a sidecar beside a vLLM server whose pushes the test sends."""
    async with FakeVllm(BODY) as fake:
        otlp = {"enabled": True, "url": url, "interval": "1h", **settings}
        config = Config.model_validate({"vllm": {"url": fake.url}, "gpu": {"devices": "none"}, "otlp": otlp})
        sidecar = Sidecar(config, lambda: config)
        await sidecar.start()
        try:
            await until(lambda: all(source.health.up for source in sidecar.exporter.sources.values()))
            yield sidecar
        finally:
            await sidecar.stop()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0.01)


def failures(sidecar: Sidecar) -> dict[str, float]:
    return {labels: n for labels, n in sidecar.otlp.samples()["otlp_push_failures_total"] if n}  # type: ignore[misc]


async def test_a_push_has_the_metrics_their_resource_and_the_attributes_of_the_conventions() -> None:
    attributes = {"service.name": "chat", "k8s.pod.name": "chat-0", "k8s.namespace.name": "llm"}
    async with receiving() as receiver, pushing(receiver.url, resource_attributes=attributes) as sidecar:
        await sidecar.otlp.push_once()
        headers, request = receiver.requests[-1]
        assert headers["Content-Encoding"] == "gzip"
        resource = {each.key: each.value.string_value for each in request.resource_metrics[0].resource.attributes}
        assert attributes.items() < resource.items()
        assert resource["service.instance.id"] == "llm.chat-0"
        assert receiver.metrics.keys() <= {each.name for each in OTLP_METRICS}
        assert receiver.metrics.keys() > {each.name for each in GEN_AI_METRICS}
        ttft = receiver.metrics["gen_ai.server.time_to_first_token"]
        assert ttft["unit"] == "s"
        (point,) = ttft["histogram"]["dataPoints"]
        assert {each["key"]: each["value"]["stringValue"] for each in point["attributes"]} == {
            "engine": "0",
            "gen_ai.operation.name": "inference",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": "tiny",
        }
        expected = captured.engine(BODY.decode()).histograms["time_to_first_token_seconds"]
        assert point["explicitBounds"] == list(expected.bounds)
        assert sum(map(int, point["bucketCounts"])) == int(point["count"]) == expected.cumulative[-1]
        assert point["sum"] == expected.total


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "refused"), (401, "unauthorized"), (404, "not_found"), (413, "too_large"), (429, "throttled"),
     (500, "refused"), (503, "unavailable"), (301, "refused")],
)  # fmt: skip
async def test_each_status_of_the_receiver_has_a_reason(status: int, reason: str) -> None:
    async with receiving() as receiver, pushing(receiver.url) as sidecar:
        receiver.answer = lambda: web.Response(status=status, text="no\n\tthanks")
        await sidecar.otlp.push_once()
        assert failures(sidecar) == {f'reason="{reason}"': 1.0}
        error = sidecar.otlp.status()["last_error"]
        assert error["reason"] == reason
        assert error["detail"] == f"{receiver.url}: status {status}: no thanks"
        receiver.answer = web.Response


async def test_a_receiver_that_hangs_or_is_not_there_delays_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The log has a line for each change, not for each push."""
    async with receiving() as receiver, pushing(receiver.url, timeout="100ms") as sidecar:
        polls = sidecar.exporter.sources[""].health.polls
        receiver.hangs = True
        for _ in range(12):
            await sidecar.otlp.push_once()
        assert failures(sidecar) == {'reason="timeout"': 12.0}
        assert sidecar.exporter.sources[""].health.polls > polls
        receiver.hangs = False
        await sidecar.otlp.push_once()
        assert sidecar.otlp.status()["last_error"] is None
    events = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert events.count("otlp_push_failed") == 1
    async with pushing("http://127.0.0.1:1/v1/metrics") as sidecar:
        await sidecar.otlp.push_once()
        assert failures(sidecar) == {'reason="unreachable"': 1.0}


async def test_points_that_the_receiver_left_out_are_counted() -> None:
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points, answer.partial_success.error_message = 3, "too old"
    async with receiving() as receiver, pushing(receiver.url) as sidecar:
        receiver.answer = lambda: web.Response(body=answer.SerializeToString(), content_type=CONTENT_TYPE)
        await sidecar.otlp.push_once()
        assert failures(sidecar) == {}
        assert sidecar.otlp.status()["rejected_points"] == 3


async def test_the_receiver_is_left_alone_for_as_long_as_it_demands() -> None:
    async with receiving() as receiver, pushing(receiver.url, interval="1s"):
        receiver.answer = lambda: web.Response(status=429, headers={"Retry-After": "3600"})
        await until(lambda: receiver.requests)
        await asyncio.sleep(1.2)
        assert len(receiver.requests) == 1


def test_a_demanded_pause_is_a_number_or_a_date_and_at_most_an_hour() -> None:
    assert retry_after({"Retry-After": "120"}, 0.0) == 120.0
    assert retry_after({"Retry-After": "Thu, 01 Jan 1970 00:02:00 GMT"}, 60.0) == 60.0
    assert retry_after({"Retry-After": "9" * 30}, 0.0) == 3600.0
    assert [retry_after({"Retry-After": text}, 0.0) for text in ("", "soon", "-5", "1.5")] == [0.0] * 4


async def test_secrets_are_sent_and_shown_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that repeats them in its message does not make them public; a file is read at each push."""
    file = tmp_path / "key"
    file.write_text("first-s3cret\n")
    settings = {"headers": {"X-Tenant": "s3cret-of-the-tenant-search"}, "header_files": {"api-key": str(file)}}
    async with receiving() as receiver, pushing(receiver.url, **settings) as sidecar:
        await sidecar.otlp.push_once()
        file.write_text("second-s3cret\n")
        receiver.answer = lambda: web.Response(status=400, text="bad key second-s3cret of s3cret-of-the-tenant-search")
        await sidecar.otlp.push_once()
        sent = [(headers["X-Tenant"], headers["Api-Key"]) for headers, _ in receiver.requests]
        assert sent == [
            ("s3cret-of-the-tenant-search", "first-s3cret"),
            ("s3cret-of-the-tenant-search", "second-s3cret"),
        ]
        file.unlink()
        shown = str(sidecar.otlp.status()) + caplog.text + str([vars(record) for record in caplog.records])
        assert "s3cret" not in shown
        await sidecar.otlp.push_once()
        assert sidecar.otlp.status()["last_error"]["reason"] == "credentials"


async def test_tls_is_verified(tmp_path: Path) -> None:
    """With the right CA, and without it."""
    issuer = Issuer(tmp_path)
    pair = issuer.issue("receiver", "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    async with receiving(context) as receiver:
        async with pushing(receiver.url) as sidecar:
            await sidecar.otlp.push_once()
            assert failures(sidecar) == {'reason="tls"': 1.0}
        async with pushing(receiver.url, ca_file=str(issuer.cert)) as sidecar:
            await sidecar.otlp.push_once()
            assert failures(sidecar) == {}


async def test_a_last_push_has_what_was_counted_when_the_program_ends() -> None:
    async with receiving() as receiver:
        async with pushing(receiver.url, temporality="delta", compression="none"):
            pass
        assert len(receiver.requests) == 1
        assert "Content-Encoding" not in receiver.requests[0][0]


async def test_a_reload_turns_pushes_on_and_off() -> None:
    async with receiving() as receiver, pushing(receiver.url) as sidecar:
        on = sidecar.config
        sidecar._load = lambda: on.model_copy(update={"otlp": Config().otlp})
        assert await sidecar.reload() is None
        assert sidecar.otlp.samples() == {}
        assert sidecar.otlp.status() is None
        sidecar._load = lambda: on
        assert await sidecar.reload() is None
        await sidecar.otlp.push_once()
        assert len(receiver.requests) == 1


def test_every_reason_has_a_hint() -> None:
    assert PUSH_HINTS.keys() == set(PushReason)
