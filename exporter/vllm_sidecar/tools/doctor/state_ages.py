"""For how long each state has been seen: since when a symptom lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.serve.state import engine_states, target_state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_sidecar.serve.snapshot import Snapshot

Ages = dict[tuple[str, str], float]
"""Target and labels of an engine (empty for the target itself) -> seconds for which its state was seen."""


class StateAges:
    """Follows the states of targets and engines."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], tuple[str, float]] = {}

    def follow(self, snapshots: Iterable[Snapshot], now: float) -> None:
        """Take the states at a time in seconds."""
        for snapshot in snapshots:
            states = [("", target_state(snapshot)), *engine_states(snapshot)]
            for labels, state in states:
                key = (snapshot.target, labels)
                if self._since.get(key, ("", 0.0))[0] != state.name:
                    self._since[key] = (state.name, now)

    def at(self, now: float) -> Ages:
        """Return the ages at a time."""
        return {key: now - since for key, (_, since) in self._since.items()}
