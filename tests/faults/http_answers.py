"""HTTP that no server should send, and that which some do: statuses, connections, framing, encodings."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import struct
import zlib
from typing import TYPE_CHECKING

from changes import always
from upstream import BODY, Handler, http
from watched import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator


# HTTP: statuses

STATUSES = {
    100: "not_http", 101: "http_other", 201: "http_other", 202: "http_other", 203: "http_other", 204: "http_other not_http",
    205: "http_other", 206: "http_other", 226: "http_other", 300: "http_other redirect", 301: "redirect http_other",
    302: "redirect http_other", 303: "redirect http_other", 304: "http_other not_http", 307: "redirect http_other",
    308: "redirect http_other", 400: "http_4xx", 401: "http_401", 402: "http_4xx", 403: "http_403", 404: "http_404",
    405: "http_4xx", 406: "http_4xx", 407: "http_4xx", 408: "http_4xx", 410: "http_4xx", 413: "http_4xx", 418: "http_4xx",
    421: "http_4xx", 425: "http_4xx", 426: "http_4xx", 429: "http_429 http_4xx", 431: "http_4xx", 451: "http_4xx",
    500: "http_5xx", 501: "http_5xx", 502: "http_5xx", 503: "http_5xx", 504: "http_5xx", 505: "http_5xx", 507: "http_5xx",
    508: "http_5xx", 511: "http_5xx", 529: "http_5xx", 599: "http_5xx", 600: "http_other", 799: "http_other", 999: "http_other",
}  # fmt: skip


def statuses() -> Iterator[Fault]:
    """Yield an answer with each status."""
    for status, reasons in STATUSES.items():
        yield Fault(f"Status {status}", always(http("sorry", f"{status} Sorry")), reasons)
    other = "http://user:secret@elsewhere.example/?token=secret"
    for name, location in {
        "to itself": "metrics", "to another origin with a password": other, "with 8 kB of control characters": "/\x01" * 4000,
        "to a file": "file:///etc/passwd", "to a cloud's metadata": "http://169.254.169.254/",
    }.items():  # fmt: skip
        yield Fault(f"A redirect {name}", always(http("", "302 Found", f"Location: {location}\r\n")),
                    "redirect http_other not_http")  # fmt: skip
    yield Fault("A redirect without a Location", always(http("", "302 Found", "")), "redirect http_other")


# HTTP: connections and framing


def writes(*pieces: bytes, pause: float = 0.0, hang: bool = False) -> Handler:
    """Return an answer in pieces, which ends or hangs."""

    async def write(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if hang:
            await asyncio.sleep(30.0)

    return write


def endless(piece: bytes, pause: float = 0.01, head: bytes = b"") -> Handler:
    """Return an answer that never ends."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


async def reset(writer: asyncio.StreamWriter) -> None:
    """Write half an answer, and reset the connection."""
    writer.write(http(BODY.text())[:2000])
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _plain(headers: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{headers}\r\n".encode("latin1") + body


def _chunks(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return _plain("Transfer-Encoding: chunked\r\n", body + end)


def framing() -> Iterator[Fault]:
    """Yield connections that break, and messages that are not HTTP, or not quite."""
    text = BODY.text().encode()
    head, size = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n", len(text)
    slow = "timeout"
    cut = "disconnected truncated not_http timeout"
    bad = "not_http disconnected truncated unreadable http_other internal timeout"
    fine = "up"
    known = {
        "A reset in the middle of the body": (reset, cut),
        "The connection ends in the middle of the body": (writes(http(text)[: size // 2]), cut),
        "The connection ends in the headers": (writes(head), cut),
        "The connection ends at once": (writes(), cut),
        "No answer": (writes(hang=True), slow),
        "Half of the headers, then nothing": (writes(head, hang=True), slow),
        "All but the last byte, then nothing": (writes(http(text)[:-1], hang=True), slow),
        "One byte of the body each 20 ms": (endless(b"#", 0.02, head + b"Content-Length: 100000\r\n\r\n"), slow),
        "One header each 20 ms": (endless(b"X: 1\r\n", 0.02, head), "timeout not_http"),
        "An endless 100 Continue": (endless(b"HTTP/1.1 100 Continue\r\n\r\n", 0.001), "timeout not_http"),
        "An endless body": (endless(b"# a\n" * 5000, 0.001, head + b"\r\n"), "timeout too_large"),
        "Endless chunks": (endless(b"4\r\n# a\n\r\n" * 999, 0.001, head + b"Transfer-Encoding: chunked\r\n\r\n"), "timeout too_large"),
        "Content-Length of 100 GB": (writes(_plain("Content-Length: 100000000000\r\n", text)), "too_large"),
        "Content-Length of 30 digits": (writes(_plain("Content-Length: " + "9" * 30 + "\r\n", text)), "too_large not_http"),
        "Content-Length of 5,000 digits": (writes(_plain("Content-Length: " + "9" * 5000 + "\r\n", text)), "too_large not_http"),
        "Content-Length of -5": (writes(_plain("Content-Length: -5\r\n", text)), bad),
        "Content-Length of x": (writes(_plain("Content-Length: x\r\n", text)), bad),
        "Content-Length of +5": (writes(_plain("Content-Length: +5\r\n", text)), bad),
        "Two different lengths": (writes(_plain(f"Content-Length: {size}\r\nContent-Length: 5\r\n", text)), bad),
        "A length and chunks": (writes(_plain(f"Content-Length: {size}\r\nTransfer-Encoding: chunked\r\n", text)), bad),
        "A length that is too large": (writes(_plain(f"Content-Length: {size + 999}\r\n", text)), cut),
        "A length that is too small": (writes(_plain(f"Content-Length: {size - 30}\r\n", text)), bad),
        "Chunk of size zz": (writes(_plain("Transfer-Encoding: chunked\r\n", b"zz\r\n" + text)), bad),
        "Chunk of size -5": (writes(_plain("Transfer-Encoding: chunked\r\n", b"-5\r\n" + text)), bad),
        "Chunk of size 2^64": (writes(_plain("Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n" + text)), bad),
        "Chunk of a size of 60 kB": (writes(_plain("Transfer-Encoding: chunked\r\n", b"0" * 60_000 + b"\r\n")), bad),
        "No last chunk": (writes(_chunks(text, end=b"")), cut),
        "Chunks of one byte": (writes(_chunks(*(bytes([each]) for each in text[:3000]), text[3000:])), fine),
        "Chunk extensions": (writes(_plain("Transfer-Encoding: chunked\r\n", b"%x;a=b;c\r\n%s\r\n0\r\n\r\n" % (size, text))), fine),
        "A thousand trailers": (writes(_chunks(text, end=b"0\r\n" + b"X: 1\r\n" * 1000 + b"\r\n")), f"up|{bad}"),
        "HTTP/1.0 without a length": (writes(b"HTTP/1.0 200 OK\r\n\r\n" + text), fine),
        "HTTP/0.9": (writes(text), bad),
        "HTTP/2 frames": (writes(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" * 9), bad),
        "HTTP/9.9": (writes(b"HTTP/9.9 200 OK\r\n\r\n" + text), f"up|{bad}"),
        "The banner of an SSH server": (writes(b"SSH-2.0-OpenSSH_9.6\r\n"), bad),
        "The greeting of a mail server": (writes(b"220 mail ESMTP\r\n"), bad),
        "An alert of TLS": (writes(b"\x15\x03\x03\x00\x02\x02\x28"), bad),
        "Random bytes": (writes(os.urandom(4096)), bad),
        "Status line without a number": (writes(b"HTTP/1.1 two hundred\r\n\r\n" + text), bad),
        "Status of five digits": (writes(b"HTTP/1.1 20000 OK\r\n\r\n" + text), bad),
        "Status of -200": (writes(b"HTTP/1.1 -200 OK\r\n\r\n" + text), bad),
        "A reason of 100 kB": (writes(b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n\r\n" + text), bad),
        "A header of 1 MB": (writes(_plain(f"X: {'a' * 1_000_000}\r\n", text)), bad),
        "100,000 headers": (writes(_plain("X: 1\r\n" * 100_000, text)), bad),
        "1,000 cookies": (writes(_plain("Set-Cookie: a=b\r\n" * 1000, text)), f"up|{bad}"),
        "A header without a colon": (writes(_plain("nonsense\r\n", text)), f"up|{bad}"),
        "A folded header": (writes(_plain("X: a\r\n b\r\n", text)), f"up|{bad}"),
        "A header with NUL": (writes(_plain("X: a\x00b\r\n", text)), f"up|{bad}"),
        "Bare line feeds": (writes(b"HTTP/1.1 200 OK\nContent-Type: text/plain\n\n" + text), f"up|{bad}"),
        "Keep-alive is promised, and the connection ends": (writes(http(text, headers="Connection: keep-alive\r\n")), fine),
        "Garbage after the body": (writes(http(text) + b"garbage\r\n\r\n"), f"up|{bad}"),
        "Two answers to one request": (writes(http(text) * 2), fine),
    }  # fmt: skip
    for name, (answer, expected) in known.items():
        yield Fault(name, always(answer), expected)


# Encodings and types


def encodings() -> Iterator[Fault]:
    """Yield bodies in encodings and types that were not asked for."""
    text = BODY.text().encode()
    packed = gzip.compress(text)
    bomb = gzip.compress(bytes(200_000_000), 9)
    refused = "bad_encoding"
    for name, encoding, body in (
        ("gzip", "gzip", packed), ("gzip that is cut", "gzip", packed[:500]), ("gzip with flipped bytes", "gzip", packed[:99] + b"xx" + packed[101:]),
        ("gzip and garbage", "gzip", packed + b"xx"), ("gzip of 10,000 members", "gzip", gzip.compress(b"") * 10_000),
        ("gzip that inflates to 200 MB", "gzip", bomb), ("gzip twice", "gzip, gzip", gzip.compress(packed)),
        ("raw deflate", "deflate", zlib.compress(text)[2:-4]), ("zstd", "zstd", text), ("br", "br", text), ("compress", "compress", text),
        ("an encoding that nobody knows", "x-secret", text), ("an encoding of 8,000 characters", "a" * 8000, text),
    ):  # fmt: skip
        yield Fault(f"Content-Encoding: {name}", always(http(body, headers=f"Content-Encoding: {encoding}\r\n")),
                    f"{refused} not_http")  # fmt: skip
    yield Fault("Content-Encoding: identity", always(http(text, headers="Content-Encoding: identity\r\n")), "up")
    for name, kind in {
        "application/octet-stream": "application/octet-stream", "protobuf": "application/vnd.google.protobuf",
        "control characters and Latin-1": "text/\x7fé", "a charset that nobody knows": "text/plain; charset=klingon",
        "20,000 characters": "text/plain;" + "a" * 7000, "nothing": "",
    }.items():  # fmt: skip
        header = f"Content-Type: {kind}\r\n" if kind else ""
        yield Fault(f"A good body as {name}", always(http(text, headers=header)), "up|not_http unreadable bad_encoding")
    yield Fault("A good body without a type", always(http(text, headers="")), "up")
    yield Fault(
        "A login page",
        always(http("<html><form>Log in</form></html>", headers="Content-Type: text/html\r\n")),
        "not_prometheus unreadable",
    )
    yield Fault(
        "JSON", always(http('{"a": 1}', headers="Content-Type: application/json\r\n")), "not_prometheus unreadable"
    )
    yield Fault(
        "JSON of 2 MB", always(http('{"a": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}")), "not_prometheus unreadable"
    )
