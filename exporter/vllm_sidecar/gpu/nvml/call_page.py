"""A page of memory that the child shares with its parent: which call it is in, readable when it answers no more."""

from __future__ import annotations

import mmap

SIZE = 256
_COUNT = 8
"""Bytes of the counter, before the text."""


class CallPage:
    """The last call and how many there were; the child writes, the parent reads."""

    def __init__(self, file: int) -> None:
        self._map = mmap.mmap(file, SIZE)
        self._written = 0

    def write(self, call: str) -> None:
        """Note the call that comes next."""
        self._written += 1
        text = call.encode("utf-8", "replace")[: SIZE - _COUNT - 1]
        self._map[_COUNT : _COUNT + len(text) + 1] = text + b"\0"
        self._map[:_COUNT] = self._written.to_bytes(_COUNT, "little")

    @property
    def count(self) -> int:
        """How often anything was noted: it grows as long as the child is alive and not in a call that hangs."""
        return int.from_bytes(self._map[:_COUNT], "little")

    @property
    def call(self) -> str:
        """The call that the child is in, or was in last."""
        return self._map[_COUNT:].partition(b"\0")[0].decode("utf-8", "replace")

    def close(self) -> None:
        """Give the memory back."""
        self._map.close()
