"""The snapshot of one target for a scrape, its charts for the status page, and its explanations."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.derive import latency
from vllm_sidecar.derive.inputs import DeriveSettings
from vllm_sidecar.serve.explanations import explanations
from vllm_sidecar.serve.history import History
from vllm_sidecar.serve.snapshot import Snapshot, Snapshotter
from vllm_sidecar.serve.target_parts import objectives
from vllm_sidecar.slices import at_once

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from vllm_sidecar.canary import Canary
    from vllm_sidecar.config import Config, Target
    from vllm_sidecar.serve.target_log import TargetLog
    from vllm_sidecar.serve.target_state import TargetState
    from vllm_sidecar.slices import EvenSlices


class TargetView:
    """Makes the snapshot, charts and explanations of a target out of its state."""

    def __init__(self, state: TargetState, canary: Canary, log: TargetLog, target: Target, config: Config) -> None:
        self._state, self._canary, self._log = state, canary, log
        self._history = History()
        self._current: Snapshot | None = None
        self._changes = 0
        """How often `_current` became old."""
        self.use(target, config)

    def use(self, target: Target, config: Config) -> None:
        """Take changed settings."""
        labels = (*(((("target", target.name),)) if target.name else ()), *sorted(target.labels.items()))
        settings = DeriveSettings(
            config.windows.min_observations,
            config.progress.stall_after,
            config.limits.adapters,
            objectives(config.slos),
        )
        self._snapshotter = Snapshotter(target.name or "", labels, settings)

    @property
    def labels(self) -> Sequence[tuple[str, str]]:
        """Labels on every series of the target."""
        return self._snapshotter.labels

    def changed(self) -> None:
        """Let the next scrape make a new snapshot."""
        self._current = None
        self._changes += 1

    def snapshot(self) -> Snapshot:
        """Return the data of the last poll; the same object until the next one."""
        if self._current is None:
            try:
                self._current = at_once(self._steps())
            except Exception as error:  # noqa: BLE001 - a bug in a derivation must not blank the other targets
                self._log.bug(error)
                self._state.failed_internally(error)
                self._current = at_once(self._steps())
        return self._current

    async def prepare(self, slices: EvenSlices) -> None:
        """Make the next snapshot engine by engine, so that many engines do not delay other tasks."""
        state = self._state
        if self._current is not None or state.readings is None:
            return
        async with state.windows_lock:
            for window in state.windows.of(Scope.ENGINE).values():
                with contextlib.suppress(Exception):  # the snapshot raises it again and logs the signal
                    latency.prepare(window, self._snapshotter.settings.min_observations)
                await slices.pause()
            changes = self._changes
            with contextlib.suppress(Exception):  # `snapshot` raises it again and handles it
                made = await slices.run(self._steps())
                if changes == self._changes:
                    self._current = made

    async def history(self, since: float, engine: str | None) -> list[dict[str, object]]:
        """Return the charts of the status page for the polls after a Unix time, of one engine or (None) of all."""
        state = self._state
        if not state.health.up:
            return []
        return await self._history.draw(state.windows, state.wall() - state.clock(), since, engine)

    async def explanations(self) -> list[dict[str, object]]:
        """Return how the recent quantiles of each engine came about."""
        return await explanations(self._state.windows) if self._state.health.up else []

    def _steps(self) -> Generator[None, None, Snapshot]:
        state = self._state
        followed = state.slo_counters if not state.windows.several else None
        slos = followed.rows(up=state.readings is not None) if followed else ()
        made = yield from self._snapshotter.steps(
            state.readings,
            state.windows,
            state.identity,
            state.health,
            state.scraped,
            state.gpu_join.view(state.windows),
            chain(slos, self._canary.samples()),
            state.prober.probes if state.prober else {},
            state.startup.seconds,
        )
        return replace(made, canary=self._canary.report())
