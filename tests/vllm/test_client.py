"""Real sockets on the loopback: what is sent, what comes back, and what no Client fails on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from fake_vllm import FakeVllm
from loopback import BODY, Scrape, Target, answer, failure, fetch, raw_server, silent
from ports import free_port
from pydantic import SecretStr
from yarl import URL

from vllm_sidecar import __version__
from vllm_sidecar.catalog.reasons import GPU_HINTS, GPU_REASONS, HINTS, VLLM_REASONS, PollError, Reason
from vllm_sidecar.serve.event_loop import LoopTime, loop_factory
from vllm_sidecar.vllm.client import Client, join

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io


async def test_a_body_comes_with_its_type_size_and_time() -> None:
    async with FakeVllm(BODY) as fake:
        got = await fetch(fake.url)
    assert got.body == BODY
    assert got.content_type == "text/plain; version=1.0.0; charset=utf-8"
    assert 0 < got.seconds < 1


async def test_the_request_asks_for_plain_uncompressed_text_and_names_the_sidecar() -> None:
    async with FakeVllm(BODY) as fake:
        await fetch(Target(fake.url, headers={"X-Team": SecretStr("blue")}))
        sent = fake.requests[0].headers
    assert sent["accept"] == "text/plain;version=0.0.4"
    assert sent["accept-encoding"] == "identity"
    assert sent["user-agent"] == f"vllm-sidecar/{__version__}"
    assert sent["x-team"] == "blue"
    assert "authorization" not in sent


@pytest.mark.parametrize(
    ("sent", "date"),
    [
        ("Fri, 27 Nov 2026 10:05:00 GMT", 1795773900.0),
        ("Fri, 27 Nov 2026 10:05:00 +0100", 1795770300.0),
        ("yesterday", None),
        ("", None),
        ("Fri, 99 Nov 99999999999 10:05:00 GMT", None),
    ],
)
async def test_the_servers_clock_is_that_of_its_date_header(sent: str, date: float | None) -> None:
    async with FakeVllm(BODY) as fake:
        fake.headers["Date"] = sent
        assert (await fetch(fake.url)).date == date


async def test_the_time_does_not_include_connecting() -> None:
    async with FakeVllm(BODY) as fake, Client(Target(fake.url), Scrape()) as client:
        resolve = client._session.connector._resolve_host

        async def resolve_slowly(*args: object, **kwargs: object) -> object:
            await asyncio.sleep(0.3)
            return await resolve(*args, **kwargs)

        client._session.connector._resolve_host = resolve_slowly
        assert (await client.get("/metrics")).seconds < 0.2


async def test_connections_are_kept_alive() -> None:
    opened = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(BODY))

    async with raw_server(handler) as url, Client(Target(url), Scrape()) as client:
        for _ in range(5):
            await client.get("/metrics")
    assert opened == 1


@pytest.mark.parametrize("closing", ["closed between two requests", "closed as the next request comes", "reset"])
async def test_a_kept_connection_that_the_server_gave_up_is_no_failure(closing: str) -> None:
    opened = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(BODY))
        if closing != "closed between two requests":
            await reader.read(1)  # the next request is on its way when the connection ends
        if closing == "reset":
            writer.transport.abort()

    async with raw_server(handler) as url, Client(Target(url), Scrape()) as client:
        for _ in range(3):
            assert (await client.get("/metrics")).body == BODY
            await asyncio.sleep(0.02)
    assert opened == 3


async def test_a_failed_request_does_not_spoil_the_next() -> None:
    async with FakeVllm(BODY) as fake, Client(Target(fake.url), Scrape(timeout=0.2)) as client:
        for status, delay in ((500, 0.0), (200, 0.4), (404, 0.0)):
            fake.status, fake.delay = status, delay
            with pytest.raises(PollError):
                await client.get("/metrics")
            fake.status, fake.delay = 200, 0.0
            assert (await client.get("/metrics")).body == BODY


async def test_ipv6_literals_are_reachable() -> None:
    try:
        async with FakeVllm(BODY, host="::1") as fake:
            assert (await fetch(fake.url)).body == BODY
    except OSError as error:
        pytest.skip(f"no IPv6 on this host: {error}")


async def test_a_unix_socket_is_reachable_below_a_path_prefix(tmp_path: Path) -> None:
    path = tmp_path / "vllm.sock"
    async with FakeVllm(unix_socket=path) as fake:
        fake.endpoints["/models/a/metrics"] = (200, {"found": True})
        got = await fetch(Target("http://vllm/models/a/", unix_socket=path))
        assert fake.requests[0].headers["host"] == "vllm"
    assert got.body == b'{"found":true}'


@pytest.mark.parametrize(
    ("url", "path", "expected"),
    [
        ("http://h:1", "/metrics", "http://h:1/metrics"),
        ("http://h:1/", "/metrics/", "http://h:1/metrics/"),
        ("http://h:1/a/b", "metrics", "http://h:1/a/b/metrics"),
        ("http://h:1/a//b//", "//metrics", "http://h:1/a/b/metrics"),
        ("http://[::1]:8000/a%2Fb", "/metrics", "http://[::1]:8000/a%2Fb/metrics"),
        ("http://h:1", "/server_info?config_format=json", "http://h:1/server_info?config_format=json"),
        ("http://h:1", "/a b\r\nX: y", "http://h:1/a%20b%0D%0AX:%20y"),
    ],
)
def test_paths_are_joined_below_the_prefix(url: str, path: str, expected: str) -> None:
    assert str(join(URL(url), path)) == expected


def test_a_query_is_added_to_the_one_of_the_path() -> None:
    url = join(URL("http://h"), "/metrics?a=1", (("name[]", "vllm:x"), ("name[]", "b&c")))
    assert list(url.query.items()) == [("a", "1"), ("name[]", "vllm:x"), ("name[]", "b&c")]


async def test_nothing_but_a_request_needs_an_event_loop() -> None:
    client = await asyncio.to_thread(Client, Target(ca_file="/does/not/exist"), Scrape())
    with pytest.raises(RuntimeError, match="async with"):
        await client.get("/metrics")


async def test_a_cancelled_request_is_cancelled_and_no_poll_error() -> None:
    async with raw_server(silent) as url, Client(Target(url), Scrape()) as client:
        task = asyncio.create_task(client.get("/metrics"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    async with FakeVllm(BODY) as fake:
        assert (await fetch(fake.url)).body == BODY


def test_every_reason_has_a_hint_in_whole_sentences() -> None:
    assert set(HINTS) == set(VLLM_REASONS)
    assert set(GPU_HINTS) == set(GPU_REASONS)
    assert set(VLLM_REASONS) | set(GPU_REASONS) == set(Reason)
    for reason, text in (*HINTS.items(), *GPU_HINTS.items()):
        assert text.strip() == text, reason
        assert text.endswith("."), reason


async def test_the_fake_answers_like_vllm() -> None:
    async with FakeVllm(BODY, version="0.9.2", models=("a", {"id": "b", "parent": "a"})) as fake:
        assert (await fetch(fake.url, "/health")).body == b""
        assert (await fetch(fake.url, "/version")).body == b'{"version":"0.9.2"}'
        assert b'"id":"b"' in (await fetch(fake.url, "/v1/models")).body
        assert (await failure(fake.url, "/server_info")).reason is Reason.HTTP_404
        fake.endpoints["/server_info"] = (200, {"a": 1})
        assert (await fetch(fake.url, "/server_info")).body == b'{"a":1}'


def test_the_time_in_which_the_event_loop_is_busy_is_not_a_cost_of_the_server() -> None:
    async def seconds() -> float:
        async with FakeVllm(BODY) as fake:
            fake.delay = 0.05
            request = asyncio.create_task(fetch(fake.url))
            await asyncio.sleep(0.02)
            time.sleep(0.5)  # noqa: ASYNC251 - other targets are read, or a scrape is made
            return (await request).cost

    with asyncio.Runner(loop_factory=loop_factory(LoopTime())) as runner:
        assert runner.run(seconds()) < 0.3
