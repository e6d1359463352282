"""The memory limit of this process -> the largest body, and the most engines, that are safe to read.

A body is stored more than once while it is read: its bytes, its lines, and what was found in them, next to those of the
body before. One made to be costly, with other series at each poll, takes 24 times its size. An engine costs memory
whatever the size of the body is: windows, counters and texts.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN_BYTES = 52 * 2**20
"""Memory of the program next to one server, without GPUs."""
RESERVE_BYTES = 8 * 2**20
"""Memory that a costly body takes whatever its size."""
COST = 24
"""Bytes of memory for each byte of a body."""
LEAST_BYTES = 128 * 2**10
"""A body of this size is read whatever the limit is: one engine has 70 kB."""
ENGINE_BYTES = 768 * 2**10
"""Memory for each engine."""
LEAST_ENGINES = 8
_MOUNT = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60
"""cgroup v1 writes a number near 2^63 for no limit."""


def most_body_bytes(limit: int | None) -> int | None:
    """Return the largest body that fits into a memory limit; None without a limit."""
    return None if limit is None else max(LEAST_BYTES, (limit - OWN_BYTES - RESERVE_BYTES) // COST)


def most_engines(limit: int | None, most: int) -> int:
    """Return how many engines fit into a memory limit (None: no limit), at most `most`."""
    return most if limit is None else min(most, max(LEAST_ENGINES, (limit - OWN_BYTES) // ENGINE_BYTES))


@cache
def memory_limit() -> int | None:
    """Return the memory limit of this process's cgroup in bytes, as it was at the first call; None without one."""
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return None
    return limit_of(groups, _MOUNT)


def limit_of(groups: str, mount: Path) -> int | None:
    """Return the lowest memory limit of a process's cgroup and those above it.

    Args:
        groups: The content of /proc/PID/cgroup.
        mount: Where cgroups are mounted. In a container with a cgroup namespace its own group is the root there.
    """
    found = [limit for file in _files(groups, mount) if (limit := _read(file)) is not None]
    return min(found, default=None)


def _files(groups: str, mount: Path) -> Iterator[Path]:
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.strip("/")
        yield from (folder / name for folder in (group, *group.parents) if folder.is_relative_to(root))


def _read(file: Path) -> int | None:
    try:
        number = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # `max`: unlimited
        return None
    return number if number < _UNLIMITED else None
