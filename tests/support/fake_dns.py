"""A name server for A, AAAA and SRV records on the loopback, over UDP."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

A, CNAME, AAAA, SRV = 1, 5, 28, 33
NO_ERROR, FAILED, NO_NAME = 0, 2, 3


class FakeDns(asyncio.DatagramProtocol):
    """Answers from `records`: (name, type) -> texts, as in a zone file.

    A name that has no record of any type does not exist. `code` is the code of every answer, if it is not 0.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], list[str]] = {}
        self.code = NO_ERROR
        self.address = ""
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5
        question = data[12:end]
        name, kind = _name(question), struct.unpack("!H", question[-4:-2])[0]
        found = self.records.get((name, kind), [])
        exists = any(known == name for known, _ in self.records)
        code = self.code or (NO_ERROR if exists else NO_NAME)
        answers = b"".join(_record(kind, text) for text in found) if code == NO_ERROR else b""
        count = len(found) if code == NO_ERROR else 0
        head = struct.pack("!2sHHHHH", data[:2], 0x8180 | code, 1, count, 0, 0)
        assert self._transport
        self._transport.sendto(head + question + answers, address)


def _name(question: bytes) -> str:
    labels, at = [], 0
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    return ".".join(labels)


def _record(kind: int, text: str) -> bytes:
    if kind == SRV:
        priority, weight, port, host = text.split()
        target = b"".join(bytes([len(label)]) + label.encode() for label in host.rstrip(".").split(".")) + b"\0"
        data = struct.pack("!HHH", int(priority), int(weight), int(port)) + target
    else:
        data = socket.inet_pton(socket.AF_INET if kind == A else socket.AF_INET6, text)
    return struct.pack("!HHHIH", 0xC00C, kind, 1, 5, len(data)) + data


@asynccontextmanager
async def name_server() -> AsyncIterator[FakeDns]:
    """Run a name server on a free port; its `address` goes into the configuration."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(FakeDns, local_addr=("127.0.0.1", 0))
    server.address = f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    try:
        yield server
    finally:
        transport.close()
