"""Bytes -> a descriptor whose reader may be stuck: a write never waits, and what does not fit is dropped and counted.

A program that waits for the reader of its log stops when that reader does. The descriptor itself is not switched to
non-blocking mode, because other processes, such as the shell of a terminal, share its mode.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import socket
import stat
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_WAITING = 256 * 1024
"""Bytes that wait for a slow reader; more are dropped."""
_CLOSING_SECONDS = 0.5
"""How long the last lines wait for a slow reader at the end of the program."""


class Output(Protocol):
    """Where lines go."""

    dropped: int
    """Lines that were dropped since the start."""

    def write(self, line: str) -> None:
        """Write a line, or drop it."""

    def flush(self) -> bool:
        """Write what waits; return whether all is written."""

    def close(self) -> None:
        """Give the reader a last short time."""


def output_of(stream: TextIO) -> Output:
    """Return the output of a stream; one without a descriptor is in memory, and its writes do not wait."""
    try:
        return DescriptorOutput(stream.fileno())
    except (AttributeError, OSError, ValueError, io.UnsupportedOperation):
        return StreamOutput(stream)


class StreamOutput:
    """Lines to a stream in memory."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.dropped = 0

    def write(self, line: str) -> None:
        """Write a line; a stream that fails drops it."""
        try:
            self._stream.write(line)
        except (OSError, ValueError):
            self.dropped += 1

    def flush(self) -> bool:
        """Return that nothing waits."""
        return True

    def close(self) -> None:
        """Leave the stream open: it belongs to the caller."""


class DescriptorOutput:
    """Lines to a file, pipe, socket or terminal."""

    def __init__(self, descriptor: int, most_waiting: int = MOST_WAITING) -> None:
        self.dropped = 0
        self._most_waiting = most_waiting
        self._waiting: deque[bytes] = deque()
        self._bytes_waiting = 0
        self._send, self._release = _sender(descriptor)

    def write(self, line: str) -> None:
        """Write a line behind those that wait; drop it where too much waits."""
        data = line.encode("utf-8", "backslashreplace")
        if self._bytes_waiting + len(data) > self._most_waiting and not self.flush():
            self.dropped += 1
            return
        self._waiting.append(data)
        self._bytes_waiting += len(data)
        self.flush()

    def flush(self) -> bool:
        """Write what waits as far as the reader takes it; return whether all is written."""
        while self._waiting:
            data = self._waiting.popleft()
            try:
                taken = self._send(data)
            except BlockingIOError:
                taken = 0
            except OSError:  # the reader is gone, or the disk is full: nobody can be told
                self.dropped += 1
                taken = len(data)
            self._bytes_waiting -= taken
            if taken < len(data):
                self._waiting.appendleft(data[taken:])
                if not taken:
                    return False
        return True

    def close(self) -> None:
        """Wait a short time for a slow reader; later lines are dropped."""
        end = time.monotonic() + _CLOSING_SECONDS
        while not self.flush() and time.monotonic() < end:
            time.sleep(0.02)
        self._release()
        self._send = _closed


def _closed(_: bytes) -> int:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _sender(descriptor: int) -> tuple[Callable[[bytes], int], Callable[[], object]]:
    """Return a function that writes bytes without waiting, and one that releases what it uses.

    The first one returns how many bytes were taken, or raises an OSError.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):  # systemd's journal
        connection = socket.socket(fileno=os.dup(descriptor))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT), connection.close
    if stat.S_ISREG(mode):
        return lambda data: os.write(descriptor, data), lambda: None
    with contextlib.suppress(OSError):  # without /proc, or a terminal of another user
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        return lambda data: os.write(own, data), lambda: os.close(own)
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)

    def write_if_ready(data: bytes) -> int:
        if not ready.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(descriptor, data[: select.PIPE_BUF])  # what is ready takes so much without waiting

    return write_if_ready, lambda: None
