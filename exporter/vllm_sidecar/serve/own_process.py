"""CPU, memory and open files of this process, under the names and with the texts that every exporter has."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.exposition import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.exposition.metric_values import Value

_VIRTUAL = Family("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.")
_RESIDENT = Family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.")
_START = Family("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.")
_CPU = Family("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.")
_OPEN_FILES = Family("process_open_fds", "gauge", "Number of open file descriptors.")
_MOST_FILES = Family("process_max_fds", "gauge", "Maximum number of open file descriptors.")
_PROC = Path("/proc")
_PAGE = resource.getpagesize()


class OwnProcess:
    """Reads the figures of this process from /proc; there are none without it."""

    def __init__(self) -> None:
        self._started = _started()

    def families(self) -> Iterator[tuple[Family, list[tuple[str, Value]]]]:
        """Yield each family with its one series; CPU and times are seconds."""
        if self._started is None:
            return
        try:
            virtual, resident, *_ = (_PROC / "self/statm").read_bytes().split()
            open_files = len(os.listdir(_PROC / "self/fd"))  # noqa: PTH208 - only how many
        except OSError:  # no file is free
            return
        yield _VIRTUAL, [("", float(virtual) * _PAGE)]
        yield _RESIDENT, [("", float(resident) * _PAGE)]
        yield _START, [("", self._started)]
        yield _CPU, [("", round(time.process_time(), 2))]
        yield _OPEN_FILES, [("", float(open_files))]
        yield _MOST_FILES, [("", float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))]


def _started() -> float | None:
    """Return the Unix time at which this process started; None without /proc."""
    try:
        lines = (_PROC / "stat").read_bytes().splitlines()
        boot = next(float(line.split()[1]) for line in lines if line.startswith(b"btime "))
        ticks = float((_PROC / "self/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, StopIteration):
        return None
    return boot + ticks / os.sysconf("SC_CLK_TCK")
