"""The KV cache of one engine: blocks that requests hold, and blocks that are cached for their content.

The key of a block represents the hash of its tokens and all before them. A free block keeps its content until another
request needs the space; the least recently used block is overwritten first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

BlockKey = tuple[int, int]
"""The writer of the block (a prefix below 0, or a request), and its position."""


class BlockPool:
    """A fixed number of KV blocks with prefix caching."""

    def __init__(self, size: int, *, caching: bool) -> None:
        self.size = size
        self._caching = caching
        self._unused = size
        self._held: dict[BlockKey, int] = {}
        self._kept: OrderedDict[BlockKey, None] = OrderedDict()

    @property
    def used_ratio(self) -> float:
        """Share of the blocks that requests hold, 0 to 1."""
        return len(self._held) / self.size

    @property
    def free(self) -> int:
        """Blocks that are available."""
        return self._unused + len(self._kept)

    def cached(self, keys: Iterable[BlockKey]) -> list[BlockKey]:
        """Return the leading keys whose content is cached."""
        found: list[BlockKey] = []
        for key in keys if self._caching else ():
            if key not in self._held and key not in self._kept:
                break
            found.append(key)
        return found

    def cost(self, hits: Iterable[BlockKey]) -> int:
        """Return how many free blocks it takes to hold these cached ones: blocks that are already held cost nothing."""
        return sum(key in self._kept for key in hits)

    def take(self, key: BlockKey) -> bool:
        """Hold a block; return False if none is left."""
        count = self._held.get(key)
        if count is not None:
            self._held[key] = count + 1
            return True
        if key in self._kept:
            del self._kept[key]
        elif self._unused:
            self._unused -= 1
        elif self._kept:
            self._kept.popitem(last=False)
        else:
            return False
        self._held[key] = 1
        return True

    def release(self, keys: list[BlockKey]) -> None:
        """Release a request's blocks; the last ones are overwritten first, so that prefixes remain the longest."""
        for key in reversed(keys):
            count = self._held[key] - 1
            if count:
                self._held[key] = count
                continue
            del self._held[key]
            if self._caching:
                self._kept[key] = None
            else:
                self._unused += 1
