"""Many lists, one process: servers that are listed twice, names, shards, and the limit."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.catalog.discovery import EntryState
from vllm_sidecar.config import NamedTarget, SoleTarget
from vllm_sidecar.discovery.selection import (
    MOST_EXPLAINED,
    ListedTargets,
    Selection,
    select,
    server_key,
    shard_of,
)
from vllm_sidecar.discovery.target_rules import Refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllm_sidecar.config import Target

WATCHED, DUPLICATE, NAME_TAKEN = EntryState.WATCHED, EntryState.DUPLICATE, EntryState.NAME_TAKEN


def server(name: str, url: str | None = None, path: str = "/metrics") -> NamedTarget:
    return NamedTarget(name=name, url=url or f"http://{name}:8000", metrics_path=path)


def chosen(
    named: Sequence[Target] = (),
    *,
    shard: tuple[int, int] = (0, 1),
    limit: int = 1000,
    watched: Collection[str] = (),
    **lists: Sequence[NamedTarget],
) -> Selection:
    listed = {place: ListedTargets(targets) for place, targets in lists.items()}
    return select(named, listed, shard=shard, limit=limit, watched=watched)


def counts(selection: Selection, place: str) -> dict[EntryState, int]:
    return {state: count for state, count in selection.outcomes[place].counts.items() if count}


def test_targets_are_those_of_the_configuration_and_then_of_each_list() -> None:
    found = chosen([server("a")], file=[server("c"), server("b")], pods=[server("d")])

    assert [target.name for target in found.targets] == ["a", "c", "b", "d"]
    assert counts(found, "file") == {WATCHED: 2}


def test_the_one_target_without_a_name_remains() -> None:
    assert chosen([SoleTarget()]).targets == (SoleTarget(),)


@pytest.mark.parametrize("url", ["http://A:8000", "http://a:8000/", "http://a:8000"])
def test_an_address_that_two_lists_name_is_one_target(url: str) -> None:
    found = chosen([server("a")], file=[server("other", url)])

    assert [target.name for target in found.targets] == ["a"]
    assert counts(found, "file") == {DUPLICATE: 1}
    assert found.outcomes["file"].refused[0].why == "listed before"


def test_the_default_port_and_the_same_port_are_one_address_and_another_path_is_another() -> None:
    found = chosen(file=[server("a", "http://a"), server("b", "http://a:80"), server("c", "http://a", "/m2")])

    assert [target.name for target in found.targets] == ["a", "c"]


def test_a_name_that_is_in_use_is_not_given_to_another_server() -> None:
    found = chosen([server("a")], file=[server("a", "http://b:1"), server("a", "http://a:8000", "/other")])

    assert counts(found, "file") == {NAME_TAKEN: 2}
    assert "the name a is in use for http://a:8000/metrics" in found.outcomes["file"].refused[0].why


def test_what_the_rules_refused_is_counted_and_only_mistakes_are_explained() -> None:
    refused = [Refusal("x", EntryState.INVALID, "why"), Refusal("y", EntryState.FILTERED, "keep")]

    found = select([], {"file": ListedTargets([server("a")], refused)}, limit=1)

    assert counts(found, "file") == {WATCHED: 1, EntryState.INVALID: 1, EntryState.FILTERED: 1}
    assert found.outcomes["file"].refused == [refused[0]]


def test_the_limit_keeps_the_servers_that_are_watched() -> None:
    servers = [server(name) for name in "abcd"]

    found = chosen(file=servers, limit=2, watched={server_key(servers[3])})

    assert [target.name for target in found.targets] == ["a", "d"]
    assert counts(found, "file") == {WATCHED: 2, EntryState.OVER_LIMIT: 2}
    assert found.outcomes["file"].refused[0].why == "more than discovery.limit (2) servers"


def test_targets_of_the_configuration_are_never_over_the_limit_and_count_for_it() -> None:
    found = chosen([server("a"), server("b")], file=[server("c")], limit=1)

    assert [target.name for target in found.targets] == ["a", "b"]
    assert counts(found, "file") == {EntryState.OVER_LIMIT: 1}


def test_few_of_many_refusals_are_explained() -> None:
    found = chosen(file=[server(str(number)) for number in range(100)], limit=1)

    assert len(found.outcomes["file"].refused) == MOST_EXPLAINED


def test_every_server_is_in_exactly_one_shard_and_named_targets_too() -> None:
    servers = [server(f"s{number}") for number in range(200)]

    shards = [chosen(servers[:50], file=servers[50:], shard=(index, 5)) for index in range(5)]

    watched = Counter(target.name for shard in shards for target in shard.targets)
    assert set(watched.values()) == {1}
    assert len(watched) == 200
    assert all(sum(shard.outcomes["file"].counts.values()) == 150 for shard in shards)


def test_all_shards_agree_about_duplicates_and_names() -> None:
    lists = [server("a"), server("a", "http://b:1"), server("c", "http://a:8000")]

    shards = [chosen(file=lists, shard=(index, 3)) for index in range(3)]

    assert sum(len(shard.targets) for shard in shards) == 1
    assert all(counts(shard, "file")[DUPLICATE] == counts(shard, "file")[NAME_TAKEN] == 1 for shard in shards)


KEYS = [server_key(server(f"10.0.{number // 250}.{number % 250}")) for number in range(10_000)]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_shards_are_of_the_same_size(count: int) -> None:
    sizes = Counter(shard_of(key, count) for key in KEYS)

    # Four standard deviations of a fair distribution.
    fair = len(KEYS) / count
    assert all(abs(sizes[shard] - fair) < 4 * (fair * (1 - 1 / count)) ** 0.5 for shard in range(count))


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_with_one_more_shard_only_its_own_servers_move(count: int) -> None:
    moved = [key for key in KEYS if shard_of(key, count) != shard_of(key, count + 1)]

    assert {shard_of(key, count + 1) for key in moved} == {count}
    assert len(moved) / len(KEYS) == pytest.approx(1 / (count + 1), rel=0.1)


def test_the_shard_of_a_server_is_the_same_in_every_process() -> None:
    # Written down, because gateways of different versions must agree during an update.
    assert "".join(str(shard_of(key, 5)) for key in KEYS[:12]) == "401201210010"
