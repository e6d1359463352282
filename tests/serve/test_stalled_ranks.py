"""Ranks of one server: one that hangs while others work is stalled, and one without requests is not."""

from __future__ import annotations

import pytest
from readings import ENGINE, OTHER_ENGINE
from waiting_clients import PAGE, Backend, Clients, asleep, busy, corroborated


def two(**more: object) -> Clients:
    return busy(engines={ENGINE: Backend(), OTHER_ENGINE: Backend()}, **{"rate": 2.0, **more})


@pytest.mark.parametrize("shows", ["", "posts", "posts files load"])
def test_a_rank_that_stands_still_with_requests_while_the_other_works_is_stalled_and_the_other_is_not(
    shows: str,
) -> None:
    server = two(shows=shows)
    server.engines[OTHER_ENGINE].hung = True
    assert 120.0 <= server.when(200, OTHER_ENGINE)["stalled"] <= PAGE
    assert server.says() == "fine"
    assert "sibling_progress" in corroborated(server, OTHER_ENGINE)


def test_a_rank_without_requests_does_not_stall_while_the_other_works() -> None:
    server = two(shows="posts files load")
    server.engines[OTHER_ENGINE].deaf = server.engines[OTHER_ENGINE].hung = True
    server.engines[OTHER_ENGINE].open, server.engines[OTHER_ENGINE].running = [], 0
    assert server.when(600, OTHER_ENGINE).keys() == {"fine"}


def test_when_all_ranks_take_nothing_in_all_that_are_awake_are_stalled() -> None:
    server = two(patience=60.0)
    for backend in server.engines.values():
        backend.deaf = True
    asleep(server.engines[OTHER_ENGINE])
    server.run(160)
    assert (server.says(), server.says(OTHER_ENGINE)) == ("stalled", "fine")
    server.engines[OTHER_ENGINE].more.clear()
    server.second()
    assert server.says(OTHER_ENGINE) == "stalled"


def test_one_rank_whose_clients_left_is_no_stall_though_the_other_works() -> None:
    server = two(rate=8.0)
    rank = server.engines[OTHER_ENGINE]
    server.posts += len(rank.open)
    rank.open, rank.hung = [], True
    assert server.when(400, OTHER_ENGINE).keys() == {"fine", "idle"}


def test_one_cancelled_request_of_a_quiet_rank_is_no_stall_while_few_requests_go_to_the_other() -> None:
    server = two(shows="", rate=0.01)
    server.engines[OTHER_ENGINE].running, server.engines[OTHER_ENGINE].hung = 1, True
    assert server.when(400, OTHER_ENGINE).keys() == {"fine", "stale"}


def test_an_engine_of_another_model_is_no_sibling() -> None:
    other = ENGINE._replace(labels=("other", "0"))
    server = busy(engines={ENGINE: Backend(), other: Backend()}, rate=2.0, shows="")
    server.engines[other].hung = True
    found = server.when(300, other)
    assert found.keys() == {"fine", "stale"}
    assert server.says() == "fine"


def test_a_stage_that_waits_for_the_one_before_it_is_neither_stalled_nor_stale() -> None:
    server = two(shows="posts files load")
    stage = server.engines[OTHER_ENGINE]
    stage.open, stage.running, stage.hung = [], 0, True
    stage.waiting = stage.more[("requests_waiting", "deferred")] = 2
    assert server.when(600, OTHER_ENGINE).keys() == {"fine"}
