"""Processes in /proc: their environment and their descendants."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Final

PROC: Final = "/proc"
_MOST_ENVIRONMENT = 1 << 20
WANTED: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
"""The only variables that are read: an environment contains secrets."""


def environment(pid: int, root: str = PROC) -> dict[str, str] | None:
    """Return a process's GPU variables; None if they may not be read (another user's process)."""
    try:
        with open(f"{root}/{pid}/environ", "rb") as file:
            data = file.read(_MOST_ENVIRONMENT)
    except OSError:
        return None
    pairs = (entry.partition("=") for entry in data.decode("utf-8", "replace").split("\0"))
    return {name: value for name, _, value in pairs if name in WANTED}


def family(pid: int, root: str = PROC) -> frozenset[int]:
    """Return a process and all its descendants: vLLM computes in children of its API server."""
    children = defaultdict(list)
    try:
        entries = [int(name) for name in os.listdir(root) if name.isdecimal()]
    except OSError:
        return frozenset((pid,))
    for each in entries:
        parent = _parent(f"{root}/{each}")
        if parent is not None:
            children[parent].append(each)
    found, new = {pid}, [pid]
    while new:
        new = [child for each in new for child in children[each] if child not in found]
        found.update(new)
    return frozenset(found)


def _parent(process: str) -> int | None:
    try:
        with open(f"{process}/stat", encoding="utf-8", errors="replace") as file:
            # The name in brackets may contain blanks and brackets.
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
