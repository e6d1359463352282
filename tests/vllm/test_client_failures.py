"""Every way in which a request fails before its body has its reason; real sockets on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import pytest
from fake_vllm import FakeVllm
from loopback import BODY, Scrape, Target, failure, raw_server, says, silent
from ports import free_port

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.vllm.client import Client
from vllm_sidecar.vllm.errors import check_status, classify

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

# No connection


async def test_a_closed_port_is_refused() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    error = await failure(url)
    assert error.reason is Reason.REFUSED
    assert error.detail == f"{url}/metrics: Connection refused"


async def test_a_name_with_two_addresses_that_refuse_is_refused() -> None:
    assert (await failure(f"http://localhost:{free_port()}")).reason is Reason.REFUSED


async def test_a_missing_unix_socket_is_refused_and_named(tmp_path: Path) -> None:
    error = await failure(Target("http://localhost", unix_socket=tmp_path / "none.sock"))
    assert error.reason is Reason.REFUSED
    assert error.detail == f"http://localhost/metrics on {tmp_path}/none.sock: No such file or directory"


async def test_an_address_without_a_route_is_unreachable() -> None:
    # The kernel refuses TCP to a multicast address itself: nothing leaves the machine.
    error = await failure("http://224.0.0.1:9")
    assert error.reason is Reason.UNREACHABLE
    assert error.detail == "http://224.0.0.1:9/metrics: Network is unreachable"


@pytest.mark.parametrize("host", ["vllm.invalid", f"{'x' * 64}.invalid", "a..b"])
async def test_a_name_that_does_not_resolve_is_a_dns_failure(host: str) -> None:
    error = await failure(f"http://{host}:8000", timeout=10, connect_timeout=10)
    assert error.reason is Reason.DNS
    assert host in error.detail


async def test_a_connection_that_is_not_taken_is_a_timeout_while_connecting() -> None:
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # fill the queue of the listener, which then drops what comes
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        error = await failure(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout=0.2)
    assert error.reason is Reason.TIMEOUT
    assert error.detail.endswith(": gave up after 0.2 s while connecting")


async def test_a_tls_handshake_that_is_not_answered_is_a_timeout_while_connecting() -> None:
    async with raw_server(silent) as url:
        error = await failure(url.replace("http", "https"), connect_timeout=0.2)
    assert error.reason is Reason.TIMEOUT
    assert error.detail.endswith(": gave up after 0.2 s while connecting")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EHOSTUNREACH, "x"), Reason.UNREACHABLE),
        (OSError(errno.EACCES, "x"), Reason.UNREACHABLE),
        (OSError(errno.ETIMEDOUT, "x"), Reason.TIMEOUT),
        (OSError("Multiple exceptions: [Errno 99] cannot assign, [Errno 111] refused"), Reason.REFUSED),
        (OSError(errno.EMFILE, "x"), Reason.INTERNAL),
        (aiohttp.ClientOSError(errno.ECONNRESET, "x"), Reason.DISCONNECTED),
        (aiohttp.ClientConnectionError("x"), Reason.DISCONNECTED),
        (aiohttp.InvalidURL("x"), Reason.INTERNAL),
        (aiohttp.ClientError("x"), Reason.INTERNAL),
    ],
)
def test_errors_that_are_hard_to_provoke_map_to_the_nearest_reason(error: Exception, reason: Reason) -> None:
    assert classify(error, "http://h").reason is reason


def test_what_an_unknown_error_says_is_not_told() -> None:
    assert "secret" not in classify(ValueError("bad header: secret"), "http://h").detail


# No answer


async def test_a_server_that_never_answers_is_a_timeout() -> None:
    async with raw_server(silent) as url:
        begin = time.monotonic()
        error = await failure(url, timeout=0.3)
        assert 0.25 < time.monotonic() - begin < 1
    assert error.reason is Reason.TIMEOUT
    assert error.detail == f"{url}/metrics: gave up after 0.3 s while waiting for the answer"


async def test_a_server_that_drips_is_a_timeout_when_the_deadline_passes() -> None:
    async with FakeVllm(BODY) as fake:
        fake.drip = 0.02
        begin = time.monotonic()
        error = await failure(fake.url, timeout=0.3)
        assert 0.25 < time.monotonic() - begin < 1
    assert error.reason is Reason.TIMEOUT
    assert error.detail.endswith(": gave up after 0.3 s while reading the answer")


async def test_one_request_may_have_its_own_deadline() -> None:
    async with raw_server(silent) as url, Client(Target(url), Scrape()) as client:
        with pytest.raises(PollError, match=r"gave up after 0.1 s"):
            await client.get("/metrics", timeout=0.1)


async def test_deadlines_above_five_seconds_are_not_rounded() -> None:
    async with Client(Target(), Scrape(timeout=9.0, connect_timeout=8.0)) as client:
        assert client._session.timeout.ceil_threshold > 1e6


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_a_close_without_an_answer_is_a_disconnect(head: bytes) -> None:
    async with raw_server(says(head)) as url:
        assert (await failure(url)).reason is Reason.DISCONNECTED


async def test_a_reset_is_a_disconnect() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        # to close with l_linger 0 sends a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with raw_server(handler) as url:
        assert (await failure(url)).reason is Reason.DISCONNECTED


@pytest.mark.parametrize(
    ("banner", "hint"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "an SSH server"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "use https://"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "not an HTTP answer"),
        (b"-ERR unknown command\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n", "not an HTTP answer"),
    ],
)
async def test_what_is_no_http_is_named_as_far_as_known(banner: bytes, hint: str) -> None:
    async with raw_server(says(banner, reads=False, then_wait=True)) as url:
        error = await failure(url)
    assert error.reason is Reason.NOT_HTTP
    assert hint in error.detail


# Statuses


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, Reason.HTTP_401),
        (403, Reason.HTTP_403),
        (404, Reason.HTTP_404),
        (405, Reason.HTTP_4XX),
        (429, Reason.HTTP_4XX),
        (500, Reason.HTTP_5XX),
        (503, Reason.HTTP_5XX),
        (204, Reason.HTTP_OTHER),
        (304, Reason.HTTP_OTHER),
        (600, Reason.HTTP_OTHER),
    ],
)
async def test_every_status_but_200_is_a_failure(status: int, reason: Reason) -> None:
    async with FakeVllm(BODY) as fake:
        fake.status = status
        error = await failure(fake.url)
    assert error.reason is reason
    assert error.detail == f"{fake.url}/metrics: status {status}"


async def test_a_redirect_is_not_followed_and_told_without_secrets() -> None:
    async with FakeVllm(BODY) as fake:
        fake.status = 307
        fake.headers = {"Location": "http://user:word@other:bad/metrics/?token=abc#d"}
        error = await failure(fake.url)
        assert len(fake.requests) == 1
    assert error.reason is Reason.REDIRECT
    assert error.detail == f"{fake.url}/metrics: status 307 redirects to http://other:bad/metrics/"


@pytest.mark.parametrize(("location", "told"), [("/metrics/?a=b", "/metrics/"), (None, "nowhere")])
def test_a_redirect_may_be_relative_or_lead_nowhere(location: str | None, told: str) -> None:
    with pytest.raises(PollError, match=f"redirects to {told}$"):
        check_status(308, location, "http://h")


async def test_a_name_server_that_does_not_answer_holds_up_neither_the_deadline_nor_the_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(aiohttp, "AsyncResolver", partial(aiohttp.AsyncResolver, nameservers=[server]))
        error = await failure("http://vllm.example:8000", timeout=0.2, connect_timeout=0.2)
        assert silent.recv(512)
    assert error.reason is Reason.TIMEOUT
    async with asyncio.timeout(1.0):
        await asyncio.get_running_loop().shutdown_default_executor()
