"""One target of the sidecar's status -> its values by signal and engine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')


class Readings:
    """The values of one target, as /api/v1/status lists them; None means unknown."""

    def __init__(self, target: dict[str, Any]) -> None:
        self.target = target
        self._signals: dict[str, Any] = target.get("signals") or {}

    def value(self, name: str, engine: str = "", **labels: str) -> float | None:
        """Return the sum of the series of an engine (all without one) with these labels; None if there is none."""
        found = [
            value
            for series in self._series(name)
            if isinstance(value := series.get("value"), int | float) and _has(series["labels"], engine, labels)
        ]
        return float(sum(found)) if found else None

    def largest(self, name: str, **labels: str) -> float | None:
        """Return the largest value of all series with these labels; None if there is none."""
        found = [each["value"] for each in self._series(name) if _has(each["labels"], "", labels)]
        return max((float(value) for value in found if isinstance(value, int | float)), default=None)

    def quantile(self, name: str, engine: str, quantile: str) -> float | None:
        """Return a quantile of a recent latency; None without enough observations."""
        for series in self._series(name):
            if _has(series["labels"], engine, {}):
                value = {f"{float(q):g}": v for q, v in (series.get("quantiles") or {}).items()}.get(quantile)
                return float(value) if isinstance(value, int | float) else None
        return None

    def has_quantiles(self, name: str) -> bool:
        """Return whether any series of a recent latency has enough observations."""
        return any(each.get("quantiles") for each in self._series(name))

    def mean(self, name: str) -> float | None:
        """Return the mean of a histogram since the server started, over all engines; None without observations."""
        parts = [(each.get("sum"), each.get("count")) for each in self._series(name)]
        known = [(total, count) for total, count in parts if total is not None and count]
        count = sum(count for _, count in known)
        return sum(total for total, _ in known) / count if count else None

    def has(self, name: str) -> bool:
        """Return whether any series of a signal exists."""
        return bool(self._series(name))

    def series(self, name: str) -> Iterator[tuple[dict[str, str], float | None]]:
        """Yield the labels and the value of each series of a signal that is neither a histogram nor a summary."""
        for each in self._series(name):
            yield labels_of(each["labels"]), each.get("value")

    def _series(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (self._signals.get(name) or {}).get("series") or []
        return found


def labels_of(text: str) -> dict[str, str]:
    """Read the text of labels."""
    return dict(_LABEL.findall(text))


def _has(text: str, engine: str, labels: dict[str, str]) -> bool:
    if engine and text != engine and not text.startswith(engine + ","):
        return False
    return not labels or labels.items() <= labels_of(text).items()
