"""A source of servers while it runs: its last list, how its refreshes went, and when the next one is due."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.discovery import SOURCE_HINTS, SourceReason
from vllm_sidecar.discovery.entries import check_count
from vllm_sidecar.discovery.errors import SourceError
from vllm_sidecar.discovery.selection import ListedTargets
from vllm_sidecar.discovery.target_rules import Refusal, TargetRules
from vllm_sidecar.logs import event
from vllm_sidecar.vllm.cancellation import is_canceled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.config import DiscoveredTarget, NamedTarget
    from vllm_sidecar.discovery.entries import Entry

FIRST_RETRY = 1.0
LAST_RETRY = 60.0
"""Seconds between retries of a source that fails: doubled from the first to the last, and never above its refresh."""
JITTER = 0.1
"""Share by which a pause varies, so that several gateways do not ask at the same time."""

_log = logging.getLogger("vllm_sidecar.discovery")


class Source(ABC):
    """Keeps one list of servers current until canceled; calls `changed` after each change of it or of its health."""

    def __init__(
        self,
        place: str,
        rules: DiscoveredTarget,
        refresh: float,
        changed: Callable[[], None],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.place = place
        self._rules = TargetRules(rules)
        self._refresh = refresh
        self._changed, self._wall = changed, wall
        self._entries: Sequence[Entry | Refusal] | None = None
        self._results: Sequence[NamedTarget | Refusal] = ()
        """The target or refusal of each entry."""
        self.listed = ListedTargets()
        """The last list."""
        self.is_current = False
        """Whether the last refresh succeeded."""
        self.last_success: float | None = None
        """Unix time at which the list was last known to be current; None before."""
        self.failures: Counter[SourceReason] = Counter()
        self.last_error: SourceError | None = None
        """The error of the last refresh; None if it succeeded."""

    @abstractmethod
    async def refresh(self) -> float:
        """Read the list once, or follow it while it changes, and pass it to `found`; return the pause in seconds.

        Raises:
            SourceError: It cannot be read; the last list remains in use.
        """

    async def run(self) -> None:
        """Keep the list current until canceled."""
        retry = FIRST_RETRY
        while True:
            try:
                pause = await self.refresh()
                retry = FIRST_RETRY
            except SourceError as error:
                pause, retry = self._failed(error, retry)
            except (Exception, asyncio.CancelledError) as error:
                if is_canceled():
                    raise
                event(_log, logging.ERROR, "internal_error", discovery=self.place, exc_info=error)
                internal = SourceError(SourceReason.INTERNAL, f"{type(error).__name__}: {error}")
                pause, retry = self._failed(internal, retry)
            await asyncio.sleep(pause * random.uniform(1.0 - JITTER, 1.0))  # noqa: S311 - spreads requests

    @property
    def has_answered(self) -> bool:
        """Whether the list was read once, if only an old one."""
        return self.last_success is not None

    def take_over(self, before: Source) -> None:
        """Use the list of a source with other settings until this one has its own."""
        self.listed, self.failures, self.last_success = before.listed, before.failures, before.last_success

    def found(self, entries: Sequence[Entry | Refusal]) -> None:
        """Take the entries of the list; those that did not change cost nothing."""
        if entries == self._entries:
            return
        known = dict(zip(self._entries or (), self._results, strict=True))
        self._entries = entries
        self._results = [known.get(entry) or self._result(entry) for entry in entries]
        targets = [one for one in self._results if not isinstance(one, Refusal)]
        self.listed = ListedTargets(targets, [one for one in self._results if isinstance(one, Refusal)])
        self._changed()

    def use(self, entries: Sequence[Entry], error: SourceError | None) -> None:
        """Take the entries of several lists, of which some may be old because of the error.

        Raises:
            SourceError: That error, or there are too many entries.
        """
        check_count(len(entries))
        self.found(entries)
        if error is not None:
            raise error
        self.succeeded()

    def _result(self, entry: Entry | Refusal) -> NamedTarget | Refusal:
        return entry if isinstance(entry, Refusal) else self._rules.apply(entry)

    def succeeded(self) -> None:
        """Note that the list is current."""
        self.last_success = self._wall()
        if not self.is_current:
            event(_log, logging.INFO, "discovery_ok", discovery=self.place, entries=len(self._entries or ()))
        changed, self.is_current, self.last_error = not self.is_current, True, None
        if changed:
            self._changed()

    def _failed(self, error: SourceError, retry: float) -> tuple[float, float]:
        """Note a failure; return the pause before the next try, and the one after it."""
        self.failures[error.reason] += 1
        if self.last_error is None or self.last_error.reason is not error.reason:
            event(_log, logging.WARNING, "discovery_failed", discovery=self.place, reason=error.reason.value,
                  detail=error.detail, hint=SOURCE_HINTS[error.reason],
                  still_used=len(self.listed.targets))  # fmt: skip
        self.is_current, self.last_error = False, error
        self._changed()
        return min(retry, self._refresh), min(2.0 * retry, LAST_RETRY)
