"""The learned answer of one prompt and model, for as long as version, models and flags stay the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.canary.output import Fingerprint

EQUAL_ANSWERS = 3
"""Equal answers in a row that make a baseline."""


@dataclass(slots=True)
class Baseline:
    """Learns the answer of each release: of each set of version, models and flags.

    A new release has no baseline at first. When its answer is learned, it is compared with that of the release before.
    """

    known: Fingerprint | None = None
    """The baseline of the current release; None while it is learned."""
    before: Fingerprint | None = None
    """That of the release before; None without one."""
    changes: int = 0
    """New baselines that differ from the one before."""
    _release: object = None
    _candidate: Fingerprint | None = None
    _equal: int = 0

    def use_release(self, release: object) -> None:
        """Learn again if this is another release."""
        if release == self._release:
            return
        if self._release is not None and self.known is not None:
            self.before = self.known
        self._release, self.known, self._candidate, self._equal = release, None, None, 0

    def learn(self, found: Fingerprint) -> bool:
        """Note an answer that is not wrong; return whether it is the one that makes the baseline."""
        if self.known is not None:
            return False
        self._equal = self._equal + 1 if found == self._candidate else 1
        self._candidate = found
        if self._equal < EQUAL_ANSWERS:
            return False
        self.known = found
        self.changes += self.before is not None and self.before != found
        return True
