"""One number for autoscalers."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import engine, histogram, window

from vllm_sidecar.derive.inputs import DeriveSettings
from vllm_sidecar.derive.saturation import (
    SLUG_DIGITS,
    SLUG_LENGTH,
    first_limit,
    headroom_requests,
    headroom_tokens,
    saturation,
    slug,
)
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.good_observations import Objective

LIMITS = {"max_num_seqs": 10, "max_num_queued_reqs": 20}


def poll(running: float, waiting: float, usage: float = 0.0, preempted: float = 0) -> dict:
    return {
        "requests_running": running,
        "requests_waiting": waiting,
        "kv_cache_usage_ratio": usage,
        "preemptions_total": preempted,
    }


def finished(count: float, seen: dict) -> dict:
    return {**seen, "request_seconds": histogram(count, 0, 0, 0)}


@pytest.mark.parametrize(
    ("polls", "flags", "expected"),
    [
        ([poll(0, 0), poll(0, 0)], LIMITS, 0.0),
        ([poll(0, 0), poll(0, 0)], {}, 0.0),
        ([poll(2, 0), poll(6, 0)], LIMITS, 0.4),
        ([poll(1, 12), poll(1, 20)], {"max_num_queued_reqs": 20, "max_num_seqs": 100}, 0.8),
        ([poll(30, 0), poll(30, 0)], LIMITS, 1.0),
        ([poll(1, 0, 0.98), poll(1, 0, 0.5)], LIMITS, 0.4),
        ([poll(1, 1, 0.95), poll(1, 1, 0.95)], LIMITS, 0.95),
        ([poll(4, 1, 0.7), poll(4, 1, 0.7)], LIMITS, 0.4),
        ([poll(4, 0, 0.7), finished(9, poll(4, 0, 0.7, preempted=1))], LIMITS, 0.4),
        ([poll(4, 0, 0.7), finished(9, poll(4, 0, 0.7, preempted=9))], LIMITS, 0.5),
        ([poll(9, 0), poll(9, 0)], {}, None),
        ([poll(9, 1), poll(9, 1)], {}, 1.0),
        ([poll(9, 0), poll(9, 1)], {}, None),
        ([poll(9, 1)], {}, None),
        ([poll(4, 0)], LIMITS, 0.4),
    ],
    ids=[
        "idle",
        "idle, and no limit is known",
        "the mean of running by the places of the batch",
        "the mean of waiting by the places of the queue",
        "never above one",
        "a full cache alone is half",
        "a nearly full cache while requests wait",
        "a cache with room while requests wait",
        "one preemption among ten requests",
        "as many preemptions as requests",
        "no limit is known and nobody waits",
        "no limit is known and some wait all the time",
        "no limit is known and some wait at the end",
        "one poll without limits",
        "one poll with limits",
    ],
)
def test_saturation_is_the_largest_share_of_any_limit(polls: list[dict], flags: dict, expected: float | None) -> None:
    found = saturation(engine(window(*polls), flags=flags))
    assert found == ({} if expected is None else {"m": pytest.approx(expected)})


def test_saturation_falls_with_its_cause() -> None:
    """Preemptions and a queue of two minutes ago are no reason to scale out."""
    calm = [{**poll(2, 0, 0.3, preempted=40), "generation_tokens_total": i} for i in range(90)]
    bad = [{**poll(9, 5, 0.99, preempted=i), "generation_tokens_total": i} for i in range(40)]
    assert saturation(engine(window(*bad), flags=LIMITS))["m"] > 0.9
    assert saturation(engine(window(*bad, *calm), flags=LIMITS)) == {"m": 0.2}


def test_where_no_flag_is_known_the_most_that_ran_next_to_a_queue_are_the_limit() -> None:
    full = [{**poll(16, 3), "generation_tokens_total": i} for i in range(30)]
    half = [{**poll(8, 0), "generation_tokens_total": 30 + i} for i in range(90)]
    assert saturation(engine(window(*full, *half))) == {"m": 0.5}
    more = [{**poll(20, 0), "generation_tokens_total": 200 + i} for i in range(90)]
    assert saturation(engine(window(*full, *more))) == {}


@pytest.mark.parametrize("missing", ["requests_running", "requests_waiting"])
def test_without_the_gauges_of_the_scheduler_there_is_no_saturation(missing: str) -> None:
    seen = poll(5, 5)
    del seen[missing]
    assert saturation(engine(window(seen, seen), flags=LIMITS)) == {}


def test_without_kv_usage_there_is_still_saturation() -> None:
    seen = poll(5, 0)
    del seen["kv_cache_usage_ratio"]
    assert saturation(engine(window(seen, seen), flags=LIMITS)) == {"m": 0.5}


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:SLUG_DIGITS]


def test_saturation_is_told_by_the_slug_of_the_model() -> None:
    seen = engine(window(poll(5, 0)), flags=LIMITS, model_name="org/Model 7B")
    assert saturation(seen) == {"org-Model-7B---" + digest("org/Model 7B"): 0.5}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama--Llama-3.1-8B-Instruct"),
        ("a_b.c-d", "a_b.c-d"),
        ("x" * 63, "x" * 63),
    ],
    ids=["a name of the hub", "all that is allowed", "as long as it can be"],
)
def test_a_name_that_can_be_a_label_value_stays_readable(name: str, expected: str) -> None:
    assert slug(name) == expected


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("/models/tiny/", "models-tiny"),
        ("__x__", "x"),
        ("通义千问-7B", "7B"),
        ("豆包", "model"),
        ("", "model"),
        ("x" * 70, "x" * 50),
        ("a / b", "a-b"),
        ("a--b", "a-b"),
        (r"D:\models\Qwen", "D-models-Qwen"),
        ("org/" + "n" * 20 + "-" + "v" * 62, "org-" + "n" * 20 + "-" + "v" * 25),
    ],
    ids=["a path", "underscores", "Chinese", "no letters", "empty", "long", "blanks", "dashes", "Windows", "cut"],
)
def test_another_name_keeps_what_can_be_kept_and_gets_a_hash(name: str, kept: str) -> None:
    assert slug(name) == f"{kept}---{digest(name)}"


NAMES = st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9/_.\-]{0,120}", fullmatch=True)
ALIKE = st.text(alphabet="aA0-/_. 豆", max_size=8)
"""Names that are easily taken for each other."""


@given(ALIKE | NAMES, ALIKE | NAMES)
def test_two_names_have_two_slugs(one: str, other: str) -> None:
    assert (slug(one) == slug(other)) == (one == other)
    assert slug(slug(one)) != slug(other) or slug(one) == other


@given(NAMES)
def test_every_slug_is_a_valid_label_value_in_kubernetes(name: str) -> None:
    made = slug(name)
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", made)
    assert len(made) <= SLUG_LENGTH == 63
    assert slug(name) == made


def loaded(
    rate: float, seconds: int = 120, *, running: float = 6.0, waiting: float = 0.0, after: int = 0
) -> list[dict]:
    """Return polls of an engine with steps of 20 ms, answers of 100 tokens and prompts of 200, then of an idle one."""
    made = []
    for i in [*range(seconds), *[seconds - 1] * after]:
        busy = len(made) < seconds
        firsts, gaps = rate * i, 100.0 * rate * i
        made.append({
            **poll(running if busy else 0.0, waiting * i if busy else 0.0),
            "iteration_tokens": histogram(50.0 * i, 0, 0, 0, total=gaps),
            "inter_token_latency_seconds": histogram(gaps, 0, 0, 0, total=0.02 * gaps),
            "time_to_first_token_seconds": histogram(firsts, 0, 0, 0),
            "request_prefill_seconds": histogram(firsts, 0, 0, 0, total=0.03 * firsts),
            "prompt_tokens_total": 200.0 * firsts,
            "generation_tokens_total": gaps,
        })  # fmt: skip
    return made


FLAGS = {"max_num_seqs": 16}


def test_an_engine_is_fuller_than_its_seats() -> None:
    """Steps slow down as the load rises, and the objective breaks before the last seat is taken."""
    assert 6.0 / 16.0 < saturation(engine(window(*loaded(3.0)), flags=FLAGS))["m"] < 0.6


def test_headroom_and_saturation_are_two_views_of_one_capacity() -> None:
    seen = engine(window(*loaded(3.0)), flags=FLAGS)
    share, more = saturation(seen)["m"], headroom_requests(seen)
    assert more is not None
    assert share == pytest.approx(3.0 / (3.0 + more))
    tokens = headroom_tokens(seen)
    assert tokens == pytest.approx({"prompt": 200.0 * more, "generation": 100.0 * more})
    assert first_limit(seen)["batch"] == 1.0
    assert sum(first_limit(seen).values()) == 1.0


def test_a_queue_that_grows_is_an_overload() -> None:
    seen = engine(window(*loaded(3.0, running=16.0, waiting=2.0)), flags=FLAGS)
    assert saturation(seen) == {"m": 1.0}
    assert (headroom_requests(seen) or 0.0) < -1.0


def test_an_idle_engine_has_no_load_and_an_unknown_headroom() -> None:
    seen = engine(window(*loaded(3.0, after=70)), flags=FLAGS)
    assert saturation(seen) == {"m": 0.0}
    assert (headroom_requests(seen), headroom_tokens(seen), first_limit(seen)) == (None, {}, {})


def test_a_stricter_objective_leaves_less_headroom() -> None:
    strict = DeriveSettings(objectives=(Objective("x", "time_to_first_token_seconds", 0.2),))
    seen = window(*loaded(3.0))
    assert (
        saturation(engine(seen, flags=FLAGS, settings=strict))["m"] > 1.1 * saturation(engine(seen, flags=FLAGS))["m"]
    )


def served(second: int, usage: float) -> dict:
    """Return a poll of an engine whose prompts are 100 or 2000 tokens long, of which half the cache is used."""
    return {
        **poll(8, 0, usage),
        "iteration_tokens": histogram(50 * second, 0, 0, 0),
        "inter_token_latency_seconds": histogram(400 * second, 0, 0, 0, total=8.0 * second),
        "time_to_first_token_seconds": histogram(2 * second, 0, 0, 0),
        "request_prefill_seconds": histogram(2 * second, 0, 0, 0, total=0.1 * second),
        "request_prompt_tokens": Histogram((100.0, 2000.0), (second, 2.0 * second, 2.0 * second), 2100.0 * second),
        "prompt_tokens_total": 2100.0 * second,
        "generation_tokens_total": 400.0 * second,
    }


def test_a_prefix_that_requests_share_makes_what_they_hold_differ_more() -> None:
    """Half the cache holds eight requests: of 1000 tokens each, or of 250 because they share the rest."""
    seen = window(*[served(second, 0.5) for second in range(90)])
    alone, sharing = ({"kv_cache_size_tokens": str(size)} for size in (16_000, 4_000))
    shares = [saturation(engine(seen, cache_config=config))["m"] for config in (alone, sharing, {})]
    assert shares[0] < 0.9 * shares[1]
    assert shares[2] == pytest.approx(shares[0], rel=0.1)
