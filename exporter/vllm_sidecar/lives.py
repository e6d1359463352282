"""Stage 4: whether two polls saw the same life of the server.

Within one life counters only grow; what is computed from several polls relies on it.
"""

from __future__ import annotations

from operator import lt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.model import Group, Key, Reading, Readings


def is_new_life(before: Readings, after: Readings) -> bool:
    """Tell whether the server, or its set of counters, was made anew between two polls.

    Looked at: the process start, the creation time of counters (elastic expert parallelism makes new ones in the same
    process), the KV-cache configuration, and any counter that fell. One that went away counts only where the server
    does not tell when it was made: it may have been left out for a value that cannot be. A `_sum` does not count at
    all: negative observations make it fall.
    """
    told = _tells_the_same_age(before, after)
    return is_made_anew(before, after) or any(
        _fell(old, new) or (not told and _went_away(old, new)) for old, new in _pairs(before, after)
    )


def left_out(before: Readings, after: Readings) -> dict[tuple[Group, Key], float]:
    """Return the counters that went away with their last values, where nothing else tells of a new life.

    They may be of a new life, which makes them at their first use, or left out of one body: one that is back with its
    old value or more did not begin at 0.
    """
    pairs = _pairs(before, after)
    if not any(_went_away(old, new) for old, new in pairs):
        return {}
    if is_made_anew(before, after) or any(_fell(old, new) for old, new in pairs):
        return {}
    return {
        (group, key): value
        for group, old in before.groups.items()
        if (new := after.groups.get(group)) is not None
        for key, value in old.counters.items()
        if key not in new.counters
    }


def _pairs(before: Readings, after: Readings) -> list[tuple[Reading, Reading]]:
    return [(old, new) for group, old in before.groups.items() if (new := after.groups.get(group)) is not None]


def is_made_anew(before: Readings, after: Readings) -> bool:
    """Tell whether the server itself says that it, or its counters, were made anew; a counter that fell may not."""
    if before.started is not None and after.started is not None and before.started != after.started:
        return True
    if any(after.created.get(group, made) != made for group, made in before.created.items()):
        return True
    return before.cache_config is not after.cache_config and _changed(before.cache_config, after.cache_config)


def _tells_the_same_age(before: Readings, after: Readings) -> bool:
    if before.started is not None and before.started == after.started:
        return True
    return bool(before.created) and before.created == after.created


def _changed(before: Mapping[Group, Mapping[str, str]], after: Mapping[Group, Mapping[str, str]]) -> bool:
    return any(after.get(engine, labels) != labels for engine, labels in before.items())


def _went_away(old: Reading, new: Reading) -> bool:
    return not old.counters.keys() <= new.counters.keys()


def _fell(old: Reading, new: Reading) -> bool:
    counters = old.counters
    if any(map(lt, map(new.counters.get, counters, counters.values()), counters.values())):
        return True
    histograms = new.histograms
    return any(
        (now := histograms.get(name, histogram)) is not histogram and now.cumulative[-1] < histogram.cumulative[-1]
        for name, histogram in old.histograms.items()
    )
