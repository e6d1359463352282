"""The lists of all sources -> the targets that this process watches, and why the other entries are not."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from vllm_sidecar.catalog.discovery import EntryState
from vllm_sidecar.discovery.target_rules import Refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from vllm_sidecar.config import NamedTarget, Target

MOST_EXPLAINED = 20
"""Entries of one source whose refusal is explained in the status."""
_PORTS = {"http": 80, "https": 443}


class ListedTargets(NamedTuple):
    """The last list of one source, after its rules."""

    targets: Sequence[NamedTarget] = ()
    refused: Sequence[Refusal] = ()


class SourceOutcome(NamedTuple):
    """How many entries of one source are watched, and why the others are not."""

    counts: Mapping[EntryState, int]
    refused: Sequence[Refusal]
    """The first ones that somebody may miss: not those that are filtered or belong to another shard."""


class Selection(NamedTuple):
    """The targets of this process."""

    targets: tuple[Target, ...]
    outcomes: Mapping[str, SourceOutcome]


def server_key(target: Target) -> str:
    """Return a text that is the same for two targets exactly if they are one server."""
    if target.unix_socket is not None:
        return f"{target.unix_socket} {target.url}{target.metrics_path}"
    url = urlsplit(target.url)
    port = url.port or _PORTS[url.scheme]
    return f"{url.scheme}://{url.hostname}:{port}{url.path}{target.metrics_path}"


def shard_of(key: str, count: int) -> int:
    """Return the shard of a server, from 0: the one with the highest hash (rendezvous hashing).

    With one more shard only the servers move for which the new hash is the highest: 1 in `count` + 1. A server moves
    only if the number of shards changes.
    """
    if count == 1:
        return 0
    return max(range(count), key=lambda shard: blake2b(f"{shard} {key}".encode(), digest_size=8).digest())


def select(
    named: Sequence[Target],
    lists: Mapping[str, ListedTargets],
    *,
    shard: tuple[int, int] = (0, 1),
    limit: int,
    watched: Collection[str] = (),
) -> Selection:
    """Merge all lists.

    Args:
        named: Targets of the configuration, which take precedence and count for the limit.
        lists: Those of the sources by place, in the order of their precedence.
        shard: Index of the shard that is watched, from 0, and the number of shards.
        limit: Most targets.
        watched: Keys of the servers that are watched now, which remain if there are too many.
    """
    merge = _Merge(shard)
    targets = [target for target in named if merge.add(target) is EntryState.WATCHED]
    states = {place: [merge.add(target) for target in found.targets] for place, found in lists.items()}
    chosen = [(place, index) for place, found in states.items() for index, state in enumerate(found)
              if state is EntryState.WATCHED]  # fmt: skip
    # Sorting keeps the order of the lists among equals.
    for place, index in sorted(
        chosen, key=lambda one: server_key(lists[one[0]].targets[one[1]]) not in watched
    )[max(0, limit - len(targets)) :]:  # fmt: skip
        states[place][index] = EntryState.OVER_LIMIT
    found = [
        target
        for place, listed in lists.items()
        for target, state in zip(listed.targets, states[place], strict=True)
        if state is EntryState.WATCHED
    ]
    outcomes = {place: _outcome(listed, states[place], merge, limit) for place, listed in lists.items()}
    return Selection((*targets, *found), outcomes)


class _Merge:
    """Finds servers and names that are listed twice, and those of other shards."""

    def __init__(self, shard: tuple[int, int]) -> None:
        self._index, self._count = shard
        self._keys: set[str] = set()
        self.names: dict[str | None, str] = {}
        """The server of each name."""

    def add(self, target: Target) -> EntryState:
        key = server_key(target)
        if key in self._keys:
            return EntryState.DUPLICATE
        if self.names.setdefault(target.name, key) != key:
            return EntryState.NAME_TAKEN
        self._keys.add(key)
        # After the checks above, so that all shards agree about them.
        if target.name is not None and shard_of(key, self._count) != self._index:
            return EntryState.OTHER_SHARD
        return EntryState.WATCHED


def _outcome(listed: ListedTargets, states: Sequence[EntryState], merge: _Merge, limit: int) -> SourceOutcome:
    counts = dict.fromkeys(EntryState, 0)
    for state in (*states, *(refusal.state for refusal in listed.refused)):
        counts[state] += 1
    refused = [refusal for refusal in listed.refused if refusal.state is EntryState.INVALID]
    refused += _explained(zip(listed.targets, states, strict=True), merge, limit)
    return SourceOutcome(counts, refused[:MOST_EXPLAINED])


def _explained(states: Iterable[tuple[NamedTarget, EntryState]], merge: _Merge, limit: int) -> list[Refusal]:
    found = []
    for target, state in states:
        if state is EntryState.NAME_TAKEN:
            why = f"the name {target.name} is in use for {merge.names[target.name]}; set target.name"
            found.append(Refusal(target.url, state, why))
        elif state is EntryState.OVER_LIMIT:
            found.append(Refusal(target.url, state, f"more than discovery.limit ({limit}) servers"))
        elif state is EntryState.DUPLICATE:
            found.append(Refusal(target.url, state, "listed before"))
    return found
