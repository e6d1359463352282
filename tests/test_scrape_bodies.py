"""Stage 1 with bodies that are cut, too large, compressed or a bomb."""

from __future__ import annotations

import asyncio
import gzip
import socket
import tracemalloc
import zlib

import pytest

from fake_vllm import FakeVllm
from loopback import BODY, answer, failure, fetch, raw_server, says
from vllm_sidecar.model import Reason

pytestmark = pytest.mark.io


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nvllm:x 1\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nvllm:x 1\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nvllm:",
    ],
    ids=["half of its length", "no last chunk", "half a chunk"],
)
async def test_an_incomplete_body_is_truncated(data: bytes) -> None:
    async with raw_server(says(data)) as url:
        assert (await failure(url)).reason is Reason.TRUNCATED


async def test_garbage_for_a_chunk_ends_the_request_by_its_deadline() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nvllm:x 1\n\r\n"
        await says(head)(reader, writer)
        await asyncio.sleep(0.05)
        await says(b"nonsense\r\n", reads=False, then_wait=True)(reader, writer)

    async with raw_server(handler) as url:
        error = await failure(url, timeout=0.3)
    # aiohttp 3.14 closes the connection and forgets to wake the reader, other versions raise.
    assert error.reason in (Reason.TRUNCATED, Reason.TIMEOUT)


async def test_a_reset_in_the_body_is_truncated() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nvllm:x 1\n")(reader, writer)
        await asyncio.sleep(0.05)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with raw_server(handler) as url:
        assert (await failure(url)).reason is Reason.TRUNCATED


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async with raw_server(says(b"HTTP/1.0 200 OK\r\n\r\nvllm:x 1\n")) as url:
        got = await fetch(url)
    assert (got.body, got.content_type) == (b"vllm:x 1\n", "")


async def test_a_body_of_just_the_cap_is_taken() -> None:
    async with FakeVllm(b"#" * 5000) as fake:
        assert len((await fetch(fake.url, max_body_size=5000)).body) == 5000
        assert (await failure(fake.url, max_body_size=4999)).reason is Reason.TOO_LARGE


async def test_an_announced_body_above_the_cap_is_not_read() -> None:
    async with raw_server(says(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", then_wait=True)) as url:
        error = await failure(url, max_body_size=1000)
    assert error.reason is Reason.TOO_LARGE
    assert error.detail == f"{url}/metrics: the body is larger than 1000 bytes (max_body_size)"


async def test_an_endless_body_is_left_at_the_cap() -> None:
    sent = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"#" * 65536)
            sent += 65536
            await writer.drain()

    async with raw_server(handler) as url:
        assert (await failure(url, max_body_size=1_000_000)).reason is Reason.TOO_LARGE
    assert sent < 30_000_000  # what fits into the buffers of the sockets


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


@pytest.mark.parametrize(
    ("encoding", "wire"),
    [
        ("gzip", gzip.compress(BODY)),
        ("X-GZIP", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:50]) + b"\0\0" + gzip.compress(BODY[50:]) + b"\0" * 9),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("identity", BODY),
    ],
    ids=["gzip", "gzip by its old name", "gzip of several members", "deflate", "raw deflate", "identity"],
)
async def test_compressed_bodies_are_inflated(encoding: str, wire: bytes) -> None:
    async with raw_server(says(answer(wire, f"Content-Encoding: {encoding}"))) as url:
        got = await fetch(url)
    assert got.body == BODY
    assert got.wire_bytes == len(wire)


@pytest.mark.parametrize(
    ("encoding", "wire"),
    [
        ("gzip", BODY),
        ("gzip", gzip.compress(BODY)[:-9]),
        ("gzip", b""),
        ("gzip", gzip.compress(BODY) + b"more"),
        ("gzip", gzip.compress(b"") * 1000),
        ("deflate", b"\xff" + BODY),
        ("br", BODY),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
    ],
    ids=["plain", "cut", "empty", "garbage behind", "a thousand members", "no deflate", "brotli", "twice"],
)
async def test_what_cannot_be_inflated_is_a_bad_encoding(encoding: str, wire: bytes) -> None:
    async with raw_server(says(answer(wire, f"Content-Encoding: {encoding}"))) as url:
        assert (await failure(url)).reason is Reason.BAD_ENCODING


@pytest.mark.parametrize("members", [1, 8])
async def test_a_bomb_never_takes_more_memory_than_the_cap(members: int) -> None:
    bomb = gzip.compress(bytes(64_000_000 // members), compresslevel=1) * members
    async with raw_server(says(answer(bomb, "Content-Encoding: gzip"))) as url:
        tracemalloc.start()
        try:
            error = await failure(url, max_body_size=10_000_000 if members > 1 else 1_000_000)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert error.reason is Reason.TOO_LARGE
    assert "inflates" in error.detail
    assert peak < (25_000_000 if members > 1 else 5_000_000)
