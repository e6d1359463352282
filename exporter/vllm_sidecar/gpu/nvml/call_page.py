"""A page of memory that the child shares with its parent: its current call, readable even if it no longer answers."""

from __future__ import annotations

import mmap

SIZE = 256
_COUNT = 8
"""Bytes of the counter, which precedes the text."""


class CallPage:
    """The last call and the number of calls; the child writes, the parent reads."""

    def __init__(self, file: int) -> None:
        self._map = mmap.mmap(file, SIZE)
        self._written = 0

    def write(self, call: str) -> None:
        """Note the next call."""
        self._written += 1
        text = call.encode("utf-8", "replace")[: SIZE - _COUNT - 1]
        self._map[_COUNT : _COUNT + len(text) + 1] = text + b"\0"
        self._map[:_COUNT] = self._written.to_bytes(_COUNT, "little")

    @property
    def count(self) -> int:
        """Number of notes: it grows while the child is alive and not in a call that hangs."""
        return int.from_bytes(self._map[:_COUNT], "little")

    @property
    def call(self) -> str:
        """The child's current or last call."""
        return self._map[_COUNT:].partition(b"\0")[0].decode("utf-8", "replace")

    def close(self) -> None:
        """Release the memory."""
        self._map.close()
