"""States of an alert, from what its expression has at each evaluation: pending for the time of `for`, then firing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Key = tuple[tuple[str, str], ...]
"""Labels of an alert, sorted."""


@dataclass
class Spell:
    """One alert from when it begins to fire until it is resolved; seconds."""

    labels: Mapping[str, str]
    begin: float
    end: float


@dataclass
class States:
    """The alerts of one rule; Prometheus keeps them over a restart, so evaluations may be missing."""

    hold: float
    keep: float
    spells: list[Spell] = field(default_factory=list)
    _since: dict[Key, float] = field(default_factory=dict)
    """When it became active."""
    _kept: dict[Key, float] = field(default_factory=dict)
    """When it fired and its expression had it no longer."""
    _firing: dict[Key, Spell] = field(default_factory=dict)

    def evaluate(self, now: float, active: Iterable[Key]) -> None:
        """Take the series that the expression has now."""
        there = set(active)
        for key in there:
            self._kept.pop(key, None)
            if now - self._since.setdefault(key, now) >= self.hold and key not in self._firing:
                self._firing[key] = Spell(dict(key), now, now)
                self.spells.append(self._firing[key])
        for key in self._since.keys() - there:
            if key not in self._firing or now - self._kept.setdefault(key, now) >= self.keep:
                for each in (self._since, self._kept, self._firing):
                    each.pop(key, None)
        for spell in self._firing.values():
            spell.end = now
