"""Connections that servers open while no engine makes progress: clients that may wait although the gauges show nothing.

An engine that hangs from its start reports no request, and the front end counts requests only when they end. Then new
connections are the only sign, and no proof: without any request that was answered, their usual rate is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.series.front_end import FEWEST_CONNECTIONS, FEWEST_RISES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vllm_sidecar.serve.snapshot import Snapshot


@dataclass
class _Target:
    age: float
    lowest: float
    files: float
    rises: int = 0

    @property
    def more(self) -> float:
        return self.files - self.lowest


class NewConnections:
    """Follows the open files of servers from poll to poll."""

    def __init__(self) -> None:
        self._targets: dict[str, _Target] = {}

    def follow(self, snapshots: Iterable[Snapshot]) -> None:
        """Take the open files now, and start again where an engine made progress."""
        for snapshot in snapshots:
            files, age = _least(snapshot, "server_open_fds"), _least(snapshot, "progress_age_seconds")
            known = self._targets.get(snapshot.target)
            if files is None or age is None:
                self._targets.pop(snapshot.target, None)
            elif known is None or age < known.age or files < known.lowest:
                self._targets[snapshot.target] = _Target(age, files, files)
            else:
                known.rises += files > known.files
                known.age, known.files = age, files

    def found(self) -> Mapping[str, float]:
        """Return by target how many more files are open, where they are so many, and arrived as those of clients do."""
        return {
            name: each.more
            for name, each in self._targets.items()
            if each.more >= FEWEST_CONNECTIONS and each.rises >= FEWEST_RISES
        }


def _least(snapshot: Snapshot, signal: str) -> float | None:
    values = [value for _, value in snapshot.samples.get(signal, ()) if isinstance(value, float)]
    return min(values, default=None)
