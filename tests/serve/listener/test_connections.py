"""Connections of clients that do not behave: each state has a limit, and a scraper always gets in."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from web_server import web_server

from vllm_sidecar.serve.listener import server as server_module
from vllm_sidecar.serve.listener.connections import AT_LIMIT, LIMITS, Connections, State
from vllm_sidecar.serve.listener.server import connection_limit

pytestmark = pytest.mark.io


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for state in State:
        monkeypatch.setitem(LIMITS, state, 0.3)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), 5.0) is not None
    except ConnectionResetError:
        return True


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("sent", [b"", b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nHost: a\r\n"])
async def test_a_client_that_does_not_finish_its_request_is_closed(sent: bytes) -> None:
    async with web_server() as serving:
        raw = await serving.connect()
        raw.writer.write(sent)
        assert await is_closed(raw.reader)
        assert serving.server.connections.closed["request_slow"] == 1
        raw.close()


@pytest.mark.usefixtures("short_limits")
async def test_sending_a_byte_now_and_then_does_not_make_the_time_longer() -> None:
    async with web_server() as serving:
        raw = await serving.connect()
        began = asyncio.get_running_loop().time()
        raw.writer.write(b"GET /metrics HTTP/1.1\r\n")
        while not (raw.reader.at_eof() or raw.reader.exception() or raw.writer.is_closing()):
            raw.writer.write(b"A: b\r\n")
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - began < 3.0
        raw.close()


@pytest.mark.usefixtures("short_limits")
async def test_an_idle_connection_is_closed_after_its_time_and_serves_until_then() -> None:
    async with web_server() as serving:
        raw = await serving.connect()
        assert [await raw.status() for _ in range(3)] == [200, 200, 200]
        assert await is_closed(raw.reader)
        assert serving.server.connections.closed["idle"] == 1
        raw.close()


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("path", ["/big", "/metrics"])
async def test_a_client_that_does_not_read_is_closed(path: str) -> None:
    async with web_server() as serving:
        raw = await serving.connect()
        raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.writer.transport.pause_reading()
        await raw.send(path)
        await serving.until(5.0, "reader_slow" if path == "/big" else "idle")
        raw.close()


async def test_at_the_limit_the_connection_that_was_idle_for_longest_makes_room() -> None:
    async with web_server(max_connections=8) as serving:
        raws = [await serving.connect() for _ in range(8)]
        for raw in (*raws[1:], raws[0]):  # the second has been idle for the longest time
            assert await raw.status() == 200
        assert await serving.status() == 200
        assert await is_closed(raws[1].reader)
        assert serving.server.connections.closed[AT_LIMIT] == 1
        assert [await raw.status() for raw in (raws[0], *raws[2:])] == [200] * 7
        for raw in raws:
            raw.close()


async def test_scrapes_are_answered_while_hundreds_of_idle_connections_come_and_stay() -> None:
    async with web_server(max_connections=16) as serving:
        raws = [await serving.connect() for _ in range(100)]
        for _ in range(20):
            assert await asyncio.wait_for(serving.status(), 5.0) == 200
        assert len(serving.server.connections) <= 16
        for raw in raws:
            raw.close()


async def test_clients_that_do_not_read_make_room_too() -> None:
    async with web_server(max_connections=8) as serving:
        raws = [await serving.connect() for _ in range(8)]
        for raw in raws:
            raw.writer.transport.pause_reading()
            await raw.send("/big")
        await asyncio.sleep(1.2)
        assert await asyncio.wait_for(serving.status(), 5.0) == 200
        for raw in raws:
            raw.close()


async def test_half_of_the_connections_are_kept_for_scrapes() -> None:
    async with web_server(max_connections=8) as serving:
        raws = [await serving.connect() for _ in range(4)]
        for raw in raws:
            await raw.send("/slow")
        await asyncio.sleep(0.1)
        assert await serving.status("/page") == 503
        assert await serving.status("/metrics") == 200
        for raw in raws:
            raw.close()


async def test_a_connection_that_is_being_answered_is_never_closed_for_another() -> None:
    connections = Connections(limit=8, clock=lambda: 0.0)
    for _ in range(8):
        connections.add(asyncio.Protocol(), tls=False).enter(State.RESPONSE)

    assert not connections.make_room()


async def test_without_free_files_the_log_stays_quiet_and_scrapes_are_answered_afterwards(
    caplog: pytest.LogCaptureFixture,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with web_server() as serving:
        raw = await serving.connect()
        assert await raw.status() == 200
        with ExitStack() as stack, caplog.at_level(logging.WARNING):
            clients = [socket.socket() for _ in range(8)]
            used = open_files()
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            for client in clients:
                stack.callback(client.close)
                client.setblocking(False)
                with pytest.raises(BlockingIOError):
                    client.connect(("127.0.0.1", serving.port))
            await asyncio.sleep(1.0)
            assert 1 <= serving.server.accept_failures <= 10
        assert await asyncio.wait_for(serving.status(), 5.0) == 200
        assert {record.getMessage() for record in caplog.records} == {"accept_failed"}
        raw.close()


@pytest.mark.parametrize(
    ("soft", "wanted", "targets", "limit"),
    [(1024, 512, 1, 512), (256, 512, 1, 188), (128, 512, 1, 60), (1024, 512, 200, 160), (64, 512, 1, 8)],
)
def test_connections_leave_files_for_the_program_and_its_targets(
    monkeypatch: pytest.MonkeyPatch, soft: int, wanted: int, targets: int, limit: int
) -> None:
    monkeypatch.setattr(server_module.resource, "getrlimit", lambda _: (soft, soft))

    assert connection_limit(wanted, targets) == limit


async def test_a_bug_in_accepting_is_logged_and_connections_are_accepted_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "AGAIN_SECONDS", 0.05)
    async with web_server() as serving:
        room = serving.server.connections.room
        failing = [True]

        async def broken() -> None:
            if failing.pop() if failing else False:
                raise ZeroDivisionError
            await room()

        monkeypatch.setattr(serving.server.connections, "room", broken)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await serving.status()
        assert await asyncio.wait_for(serving.status(), 5.0) == 200
    assert [record.getMessage() for record in caplog.records] == ["internal_error"]


async def test_answers_are_counted_by_handler_and_code() -> None:
    async with web_server() as serving:
        for path in ("/metrics", "/page", "/none", "/broken"):
            await serving.status(path)
        raw = await serving.connect()
        raw.writer.write(b"nonsense\r\n\r\n")
        assert await is_closed(raw.reader)
        raw.close()

    assert {key: count for key, count in serving.server.requests.answered.items() if count} == {
        ("metrics", "200"): 1,
        ("page", "200"): 1,
        ("other", "404"): 1,
        ("broken", "500"): 1,
        ("malformed", "400"): 1,
    }
    assert serving.server.requests.in_flight == 0


async def test_a_bug_of_a_handler_is_logged_with_its_traceback_and_a_mistake_of_a_client_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with web_server() as serving:
        await serving.status("/broken")
        raw = await serving.connect()
        raw.writer.write(b"GET / HTTP/1.1\r\nA B: c\r\n\r\n")
        assert await is_closed(raw.reader)
        raw.close()
    found = {record.getMessage(): record for record in caplog.records if record.name.endswith("requests")}

    assert set(found) == {"request_failed", "malformed_request"}
    assert found["request_failed"].exc_info is not None
    assert found["malformed_request"].exc_info is None
    assert found["malformed_request"].fields["client"] == "127.0.0.1"
