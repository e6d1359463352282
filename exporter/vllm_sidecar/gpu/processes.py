"""Processes in /proc: their names, their environment, and who descends from whom."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

PROC: Final = Path("/proc")
UNKNOWN: Final = "unknown"
_MOST_ENVIRONMENT = 1 << 20
WANTED: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""The only variables that are kept: an environment holds secrets."""


def names_of(pids: Iterable[int], root: Path = PROC) -> dict[int, str]:
    """Return the name of each process; `unknown` where the PID namespace does not show it."""
    return {pid: _name(root / str(pid)) for pid in pids}


def _name(process: Path) -> str:
    try:
        name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return UNKNOWN
    return "".join(c for c in name if c.isprintable()) or UNKNOWN


def environment(pid: int, root: Path = PROC) -> dict[str, str] | None:
    """Return what a process was told about GPUs; None where it may not be read (another user's process)."""
    try:
        with (root / str(pid) / "environ").open("rb") as file:
            data = file.read(_MOST_ENVIRONMENT)
    except OSError:
        return None
    pairs = (entry.partition("=") for entry in data.decode("utf-8", "replace").split("\0"))
    return {name: value for name, _, value in pairs if name in WANTED}


def family(pid: int, root: Path = PROC) -> frozenset[int]:
    """Return a process and all that descend from it: vLLM computes in children of its API server."""
    children = defaultdict(list)
    try:
        entries = [int(entry.name) for entry in root.iterdir() if entry.name.isdecimal()]
    except OSError:
        return frozenset((pid,))
    for each in entries:
        parent = _parent(root / str(each))
        if parent is not None:
            children[parent].append(each)
    found, new = {pid}, [pid]
    while new:
        new = [child for each in new for child in children[each] if child not in found]
        found.update(new)
    return frozenset(found)


def _parent(process: Path) -> int | None:
    try:
        # The name in brackets may hold blanks and brackets of its own.
        return int((process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
