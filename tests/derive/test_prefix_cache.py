"""Hit ratios of the caches."""

from __future__ import annotations

import pytest
from readings import engine, grown, window

from vllm_sidecar.derive.prefix_cache import CACHES, hit_ratio


def both(hits: float, queries: float, cache: str = "local") -> dict:
    names = CACHES[cache]
    return {names[0]: hits, names[1]: queries}


@pytest.mark.parametrize("cache", CACHES)
def test_the_ratio_of_each_cache_is_that_of_the_window(cache: str) -> None:
    seen = grown(both(900, 1000, cache), both(930, 1200, cache))
    assert hit_ratio(engine(seen)) == {cache: 0.15}


def test_all_caches_are_told_at_once() -> None:
    first = {**both(0, 0), **both(0, 0, "external"), **both(0, 0, "multimodal")}
    last = {**both(1, 2), **both(1, 4, "external"), **both(1, 8, "multimodal")}
    assert hit_ratio(engine(grown(first, last))) == {"local": 0.5, "external": 0.25, "multimodal": 0.125}


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (both(5, 50), both(5, 90), {"local": 0.0}),
        (both(5, 50), both(5, 50), {}),
        ({}, {}, {}),
        ({CACHES["local"][1]: 5}, {CACHES["local"][1]: 9}, {}),
        ({CACHES["local"][0]: 5}, {CACHES["local"][0]: 9}, {}),
        (both(0, 0), both(12, 10), {"local": 1.0}),
    ],
    ids=[
        "no hit is 0",
        "no query is absent",
        "no counters",
        "no counter of hits",
        "no counter of queries",
        "more hits than queries is 1",
    ],
)
def test_the_ratio_at_its_bounds(first: dict, last: dict, expected: dict[str, float]) -> None:
    assert hit_ratio(engine(grown(first, last))) == expected


def test_one_poll_says_nothing() -> None:
    assert hit_ratio(engine(window(both(5, 50)))) == {}
