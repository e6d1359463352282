"""One request of the canary over real sockets: its phases, its marks, and every way in which it fails."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
from answering import END, HEAD, PARIS, Answering, answering, token
from certificates import Issuer

from vllm_sidecar.canary.client import CanaryClient
from vllm_sidecar.canary.errors import CanaryError
from vllm_sidecar.canary.phases import Moments
from vllm_sidecar.canary.requests import requests_of
from vllm_sidecar.catalog.canary import CanaryReason, Phase
from vllm_sidecar.config import CanarySettings, HttpServer, NamedTarget

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vllm_sidecar.canary.stream import Answer

pytestmark = pytest.mark.io


async def send(
    url: str, moments: Moments | None = None, socket: Path | None = None, server: HttpServer | None = None, **keys: Any
) -> Answer:
    settings = CanarySettings.model_validate({"timeout": "2s", **keys})
    client = CanaryClient(server or HttpServer(url=url), settings, socket)
    return await client.send(next(requests_of(settings)), "m", moments or Moments())


async def failure(server: Answering, **keys: Any) -> CanaryError:
    async with answering(server):
        with pytest.raises(CanaryError) as raised:
            await send(server.url, **keys)
    return raised.value


async def test_a_request_is_short_reproducible_and_marked_and_its_answer_is_read_to_the_end() -> None:
    async with answering(Answering()) as server:
        answer = await send(server.url)

    assert (answer.text, answer.token_ids, answer.finish) == ("Paris.", [10, 11], "stop")
    head, body = server.requests[0].decode().lower(), server.bodies[0]
    assert head.startswith("post /v1/chat/completions http/1.1")
    assert "user-agent: vllm-sidecar-canary/" in head
    assert "x-request-id: vllm-sidecar-canary-" in head
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "What is the capital of France? Answer with one word."}],
        "max_tokens": 16,
        "temperature": 0,
        "seed": 1,
        "stream": True,
        "return_token_ids": True,
        "user": "vllm-sidecar-canary",
    }


async def test_a_completion_has_its_prompt_and_the_priority() -> None:
    prompts = [{"name": "a", "prompt": "import", "endpoint": "completions", "max_tokens": 3}]
    async with answering(Answering()) as server:
        await send(server.url, prompts=prompts, priority=5)

    assert b"POST /v1/completions " in server.requests[0]
    assert (server.bodies[0]["prompt"], server.bodies[0]["priority"]) == ("import", 5)


async def test_phases_and_latencies_are_those_that_a_client_sees() -> None:
    moments = Moments()
    async with answering(Answering(pause=0.05)) as server:
        await send(f"http://localhost:{server.port}", moments)

    phases = dict(moments.phases())
    assert list(phases) == [Phase.RESOLVE, Phase.CONNECT, Phase.PROCESSING, Phase.FIRST_TOKEN, Phase.TRANSFER]
    assert min(phases[Phase.PROCESSING], phases[Phase.FIRST_TOKEN], phases[Phase.TRANSFER]) > 0.04
    assert moments.time_to_first_token is not None
    assert moments.time_to_first_token > 0.09
    assert moments.inter_token_latency == pytest.approx(0.05, abs=0.04)


async def test_tls_is_a_phase_of_its_own_and_an_address_needs_no_lookup(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    pair = issuer.issue("server", "127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    async with answering(Answering(), tls=tls) as server:
        for _ in range(2):  # a connection, and so a handshake, of its own for each request
            moments = Moments()
            await send("", moments, server=HttpServer(url=f"https://127.0.0.1:{server.port}", ca_file=issuer.cert))
            assert [phase for phase, _ in moments.phases()] == [
                Phase.CONNECT, Phase.TLS, Phase.PROCESSING, Phase.FIRST_TOKEN, Phase.TRANSFER
            ]  # fmt: skip
        with pytest.raises(CanaryError) as raised:
            await send(f"https://127.0.0.1:{server.port}")
    assert raised.value.reason is CanaryReason.TLS


async def test_a_unix_socket_is_used(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with answering(Answering(), unix_socket=path):
        assert (await send("http://vllm", socket=path)).text == "Paris."


def status(line: str, body: str = "", *headers: str) -> tuple[bytes]:
    head = [f"HTTP/1.1 {line}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return (("\r\n".join(head) + "\r\n\r\n" + body).encode(),)


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nhello"
PACKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\nx"


@pytest.mark.parametrize(
    ("pieces", "reason", "detail"),
    [
        (status("401 Unauthorized"), CanaryReason.HTTP_401, "status 401"),
        (status("403 Forbidden"), CanaryReason.HTTP_403, "status 403"),
        (status("404 Not Found", '{"error": "no model m"}'), CanaryReason.HTTP_404, "no model m"),
        (status("429 Too Many Requests"), CanaryReason.HTTP_4XX, "status 429"),
        (status("500 Internal Server Error"), CanaryReason.HTTP_5XX, "status 500"),
        (status("502 Bad Gateway", "", "Server: nginx"), CanaryReason.BAD_GATEWAY, "(Server: nginx): status 502"),
        (status("503 Service Unavailable"), CanaryReason.HTTP_5XX, "status 503"),
        (status("504 Gateway Timeout"), CanaryReason.BAD_GATEWAY, "status 504"),
        (status("204 No Content"), CanaryReason.HTTP_OTHER, "status 204"),
        (
            status("307 Temporary Redirect", "", "Location: http://a/b"),
            CanaryReason.REDIRECT,
            "redirects to http://a/b",
        ),
        ((PLAIN,), CanaryReason.BAD_STREAM, "text/plain"),
        ((PACKED,), CanaryReason.BAD_ENCODING, "compressed"),
        ((b"SSH-2.0-OpenSSH\r\n",), CanaryReason.NOT_HTTP, "an SSH server"),
        ((b"",), CanaryReason.DISCONNECTED, "closed without a complete answer"),
        ((HEAD, b"<html>\n"), CanaryReason.BAD_STREAM, "not a server-sent event"),
        ((HEAD, b"data: {]\n\n"), CanaryReason.BAD_STREAM, "not a JSON object"),
        ((HEAD, b"data: " + b"[" * 100_000 + b"\n\n"), CanaryReason.BAD_STREAM, "not a JSON object"),
        ((HEAD, b'data: {"error": {"message": "dead"}}\n\n'), CanaryReason.SERVER_ERROR, "dead"),
        ((HEAD, token("Paris", 10)), CanaryReason.TRUNCATED, "without a finish reason"),
        ((HEAD,), CanaryReason.TRUNCATED, "without a finish reason"),
    ],
    ids=lambda value: value.value if isinstance(value, CanaryReason) else "",
)
async def test_each_failure_has_a_reason_and_says_what_happened(
    pieces: Sequence[bytes], reason: CanaryReason, detail: str
) -> None:
    failed = await failure(Answering(pieces))

    assert failed.reason is reason
    assert detail in failed.detail


async def test_what_cannot_be_reached_has_a_reason(tmp_path: Path) -> None:
    missing = NamedTarget.model_construct(name="a", url="http://127.0.0.1:1", bearer_token_file=tmp_path / "none")
    for server, reason in (
        (HttpServer(url="http://127.0.0.1:1"), CanaryReason.REFUSED),
        (HttpServer(url="http://no-such-host.invalid"), CanaryReason.DNS),
        (missing, CanaryReason.CREDENTIALS),
    ):
        with pytest.raises(CanaryError) as raised:
            await send("", server=server)
        assert raised.value.reason is reason


@pytest.mark.parametrize("pieces", [(HEAD,), (b"",), (HEAD, token("Paris", 10))], ids=["headers", "nothing", "a token"])
async def test_a_server_that_hangs_costs_the_timeout(pieces: Sequence[bytes]) -> None:
    began = time.monotonic()
    failed = await failure(Answering(pieces, hangs=True), timeout="300ms")

    assert failed.reason is CanaryReason.TIMEOUT
    assert 0.25 < time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("piece", "size"),
    [(b"data: " + b"x" * 65536, "64KiB"), (token("a", 1), "64KiB"), (b":\n", "64KiB"), (b"x", "16KiB")],
    ids=["an endless line", "endless tokens", "a million comments", "one byte at a time"],
)
async def test_an_endless_answer_is_cut_and_the_event_loop_stays_free(piece: bytes, size: str) -> None:
    longest, done = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began)

    watching = asyncio.create_task(watch())
    server = Answering((HEAD, piece), endless=True)
    failed = await failure(server, max_body_size=size, timeout="20s", interval="20s")
    done.set()
    await watching

    assert failed.reason is CanaryReason.TOO_LARGE
    assert server.sent < 20_000_000
    assert longest < 0.5


async def test_a_secret_that_the_server_repeats_is_hidden() -> None:
    server = HttpServer.model_validate({"url": "http://127.0.0.1:1", "bearer_token": "s3cret-token-of-the-canary"})
    async with answering(Answering(status("401 Unauthorized", "bad key s3cret-token-of-the-canary"))) as fake:
        with pytest.raises(CanaryError) as raised:
            await send("", server=server.model_copy(update={"url": fake.url}))

    assert "Authorization: Bearer s3cret-token-of-the-canary".lower().encode() in fake.requests[0].lower()
    assert "s3cret" not in raised.value.detail


async def test_the_own_key_replaces_the_credentials_of_the_server(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("key-of-the-canary\n")
    settings = CanarySettings.model_validate({"bearer_token_file": str(key)})
    target = NamedTarget.model_validate({"name": "a", "headers": {"Authorization": "Bearer of-polls", "X-Team": "a"}})
    reached = settings.server(target)

    assert (reached.bearer_token_file, sorted(reached.headers)) == (key, ["X-Team"])
    assert target.headers["Authorization"].get_secret_value() == "Bearer of-polls"


def test_the_fixtures_are_a_whole_answer() -> None:
    assert PARIS[-1] == END
