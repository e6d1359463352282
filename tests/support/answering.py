"""A server on the loopback that answers each connection with chosen bytes, well-behaved or not."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
END = b"data: [DONE]\n\n"


def token(text: str, number: int, finish: str | None = None) -> bytes:
    """Return the event of one token of a chat."""
    choice = {"index": 0, "delta": {"content": text}, "token_ids": [number], "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


PARIS = (HEAD, token("Paris", 10), token(".", 11, "stop"), END)


@dataclass
class Answering:
    """Pieces of the answer, with the pause before each; `endless` repeats the last piece until the client leaves."""

    pieces: Iterable[bytes] = PARIS
    pause: float = 0.0
    endless: bool = False
    hangs: bool = False
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    open: int = 0
    most_open: int = 0
    sent: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
            )
            self.requests.append(head + await reader.readexactly(length))
            piece = b""
            for piece in self.pieces:
                await asyncio.sleep(self.pause)
                await self._write(writer, piece)
            while self.endless:
                await asyncio.sleep(self.pause)
                await self._write(writer, piece)
            if self.hangs:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            self.open -= 1
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        writer.write(piece)
        await writer.drain()
        self.sent += len(piece)

    @property
    def bodies(self) -> list[dict[str, object]]:
        """The JSON of the requests so far."""
        return [json.loads(each.partition(b"\r\n\r\n")[2]) for each in self.requests]


@asynccontextmanager
async def answering(
    server: Answering, *, tls: ssl.SSLContext | None = None, unix_socket: Path | None = None
) -> AsyncIterator[Answering]:
    """Run it."""
    if unix_socket is not None:
        listening = await asyncio.start_unix_server(server.answer, unix_socket)
    else:
        listening = await asyncio.start_server(server.answer, "127.0.0.1", 0, ssl=tls)
        server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
