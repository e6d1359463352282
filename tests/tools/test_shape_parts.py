"""The parts of `shape`, with values only."""

from __future__ import annotations

import random
import re
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.logs import UserError
from vllm_sidecar.quantiles import Observed
from vllm_sidecar.tools.shape import pairing
from vllm_sidecar.tools.shape.arrivals import arrivals, counts_of, dispersion
from vllm_sidecar.tools.shape.builder import build
from vllm_sidecar.tools.shape.lengths import Correlation, Within, correlation, finished, fitted
from vllm_sidecar.tools.shape.prometheus import traffic_of
from vllm_sidecar.tools.shape.sharing import HitRatio, adapter_shares, shared_tokens
from vllm_sidecar.tools.shape.streaming import streaming_ratio
from vllm_sidecar.tools.shape.traffic import COMPUTED, OUTPUTS, PROMPTS, Interval, Traffic

BOUNDS = (10.0, 100.0, 1000.0)
limits = st.sampled_from(((0, 10.0), (11, 100.0), (101, 1000.0), (1001, inf)))


def drawing(seed: int = 1) -> random.Random:
    return random.Random(seed)


def interval(at: float, *, before: float | None = 0.0, after: float | None = 0.0, **observed: Observed) -> Interval:
    return Interval("m", (0, "0"), at - 1.0, at, before, after, {}, observed, None, None)


def one(bucket: int, total: float, count: float = 1.0) -> Observed:
    return Observed(((bucket, count),), total)


@given(st.lists(st.tuples(limits, st.floats(0.0, 1.0)), min_size=1, max_size=20), st.floats(0.0, 1.0))
def test_fitted_values_stay_in_their_buckets_and_add_up(
    drawn: list[tuple[tuple[int, float], float]], share: float
) -> None:
    where = [limit for limit, _ in drawn]
    values = [low + part * (min(high, 5000.0) - low) for (low, high), part in drawn]
    least, most = sum(low for low, _ in where), sum(min(high, 5000.0) for _, high in where)
    total = float(round(least + share * (most - least)))
    found = fitted(values, where, total)
    assert sum(found) == total
    assert all(low <= value <= high for value, (low, high) in zip(found, where, strict=True))


def test_without_a_sum_values_are_those_of_the_estimate() -> None:
    assert fitted([12.4, 56.6], [(11, 100.0), (11, 100.0)], None) == [12, 57]


def test_a_request_that_ended_alone_is_exact() -> None:
    within = Within(BOUNDS, [one(1, 37.0), one(1, 60.0)])
    assert within.values(one(1, 37.0), drawing()) == [37]
    traffic = Traffic("t", bounds={PROMPTS: BOUNDS, OUTPUTS: BOUNDS, COMPUTED: BOUNDS})
    traffic.intervals = [interval(1.0, **{PROMPTS: one(2, 500.0), OUTPUTS: one(0, 7.0), COMPUTED: one(1, 20.0)})]
    (found,) = finished(traffic, None, drawing())
    assert found == (1.0, 500, 7, 480, True)


def test_lengths_of_another_number_of_requests_are_left_out() -> None:
    """A body that was read while histograms changed has one of them newer than the other."""
    traffic = Traffic("t", bounds={PROMPTS: BOUNDS, OUTPUTS: BOUNDS})
    traffic.intervals = [interval(1.0, **{PROMPTS: one(2, 500.0), OUTPUTS: one(0, 14.0, 2.0)})]
    assert finished(traffic, None, drawing()) == []


def test_sums_show_the_correlation_whatever_number_ended_in_a_poll() -> None:
    draw = drawing()
    traffic = Traffic("t")
    for at in range(400):
        size = draw.randint(1, 6)
        prompts = [draw.uniform(10.0, 100.0) for _ in range(size)]
        outputs = [110.0 - prompt + draw.uniform(0.0, 20.0) for prompt in prompts]
        seen = {PROMPTS: one(1, sum(prompts), size), OUTPUTS: one(1, sum(outputs), size)}
        traffic.intervals.append(interval(float(at), **seen))
    found = correlation(traffic)
    assert found is not None
    assert found.value == pytest.approx(-0.976, abs=0.02)
    assert found.used == found.value
    assert Correlation(0.1, 0.06).used == 0.0
    traffic.intervals = traffic.intervals[:9]
    assert correlation(traffic) is None, "nine polls are too few"


def test_pairs_are_found_where_polls_leave_them_open() -> None:
    """Long prompts have short outputs. A tenth of the requests ended alone, the others three at a time."""
    draw = drawing()
    polls, truth = [], []
    for number in range(300):
        pairs = []
        for _ in range(1 if number % 4 == 0 else 3):
            long = draw.random() < 0.5
            pairs.append(((500, None), 5) if long else ((50, None), 50))
        truth += pairs
        outputs = [output for _, output in pairs]
        draw.shuffle(outputs)
        polls.append(pairing.Poll([prompt for prompt, _ in pairs], outputs))
    pairing.pair(polls, BOUNDS, BOUNDS, 0.0, draw)
    found = [pair for poll in polls for pair in zip(poll.prompts, poll.outputs, strict=True)]
    assert len(found) == len(truth)
    wrong = sum(pair not in (((500, None), 5), ((50, None), 50)) for pair in found)
    assert wrong / len(found) < 0.03


@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 2000)), min_size=1, max_size=30))
def test_pairing_changes_no_length(pairs: list[tuple[int, int]]) -> None:
    polls = [
        pairing.Poll([(prompt, None) for prompt, _ in pairs[at : at + 4]], [output for _, output in pairs[at : at + 4]])
        for at in range(0, len(pairs), 4)
    ]
    pairing.pair(polls, BOUNDS, BOUNDS, 0.5, drawing())
    assert sorted(prompt for poll in polls for prompt, _ in poll.prompts) == sorted(prompt for prompt, _ in pairs)
    assert sorted(output for poll in polls for output in poll.outputs) == sorted(output for _, output in pairs)


@given(
    st.lists(st.integers(1, 5000), min_size=200, max_size=300),
    st.floats(0.05, 0.9),
    st.sampled_from((16, 64)),
    st.integers(1, 4),
)
def test_shared_tokens_give_the_hit_ratio(prompts: list[int], ratio: float, block: int, prefixes: int) -> None:
    shared = shared_tokens(prompts, [ratio] * len(prompts), block, prefixes)
    assert all(tokens % block == 0 and tokens < prompt for tokens, prompt in zip(shared, prompts, strict=True))
    seen = [0] * prefixes
    hits = 0
    for number, tokens in enumerate(shared):
        hits += min(tokens, seen[number % prefixes])
        seen[number % prefixes] = max(seen[number % prefixes], tokens)
    most = sum((prompt - 1) // block * block for prompt in prompts) / sum(prompts)
    assert hits / sum(prompts) == pytest.approx(min(ratio, most), abs=0.06)


def test_requests_that_hit_nothing_share_nothing() -> None:
    assert shared_tokens([1000] * 4, [0.5, 0.0, 0.5, 0.0], 16, 1)[1::2] == [0, 0]


def test_the_hit_ratio_falls_back_to_computed_tokens() -> None:
    traffic = Traffic("t", seconds=10.0)
    traffic.intervals = [interval(1.0, **{PROMPTS: one(2, 500.0), COMPUTED: one(1, 100.0)})]
    assert HitRatio(traffic).whole == pytest.approx(0.8)
    traffic.intervals = [interval(1.0)]
    assert HitRatio(traffic).whole is None


def test_arrivals_are_ends_and_the_change_of_open_requests() -> None:
    traffic = Traffic("t", seconds=3.0)
    two = {PROMPTS: one(1, 80.0, 2.0)}
    traffic.intervals = [
        interval(1.0, before=1.0, after=4.0),
        interval(2.0, before=4.0, after=2.0, **two),
        interval(3.0, before=2.0, after=1.0),
    ]
    found = arrivals(traffic, drawing())
    assert counts_of(found.at, 3.0, 1.0) == [3, 0, 0]
    assert (found.open_at_start, found.open_at_end, found.left, found.measured) == (1, 1, 1, True)
    traffic.intervals = [interval(1.0, before=None, after=None, **two)]
    assert not arrivals(traffic, drawing()).measured


def test_dispersion_is_one_for_a_poisson_process_and_more_for_bursts() -> None:
    draw = drawing()
    poisson = sorted(draw.uniform(0.0, 2000.0) for _ in range(4000))
    assert dispersion(poisson, 10.0) == pytest.approx(1.0, abs=0.2)
    bursts = [at for at in poisson if at % 60.0 < 10.0]
    assert (dispersion(bursts, 10.0) or 0.0) > 5.0
    assert (dispersion([at / 2.0 for at in range(4000)], 10.0) or 0.0) < 0.1
    later = dispersion([at + 7.3 for at in poisson], 10.0)
    assert later == pytest.approx(dispersion(poisson, 10.0)), "idle time before the first arrival does not count"
    assert dispersion(poisson[:10], 10.0) is None
    assert dispersion([], 10.0) is None


@pytest.mark.parametrize(
    ("polls", "expected"),
    [
        ([], None),
        ([(3.0, 0.0), (1.0, 0.0)], 1.0),
        ([(1.0, 500.0), (1.0, 0.0)], 0.5),
        ([(1.0, 500.0), (3.0, 1000.0)], 0.25),
        ([(3.0, 1000.0)], None),
    ],
)
def test_streamed_answers_have_no_size(polls: list[tuple[float, float]], expected: float | None) -> None:
    assert streaming_ratio(polls) == expected


def test_adapters_share_by_the_polls_without_them() -> None:
    traffic = Traffic("t", adapter_polls=100)
    traffic.adapters.update({"busy": 63, "rare": 9})
    shares = adapter_shares(traffic, None)
    assert shares["busy"] / shares["rare"] == pytest.approx(0.994 / 0.094, rel=0.02)
    assert sum(adapter_shares(traffic, 4.0).values()) == pytest.approx(0.27, abs=0.01), "the rest is the base model"
    assert adapter_shares(Traffic("t"), 1.0) == {}


def test_servers_in_prometheus_are_added_up_on_one_clock() -> None:
    """The first server by name is the one that was scraped later."""
    polls: dict[tuple[tuple[str, str], ...], dict[float, list[tuple[str, dict[str, str], float]]]] = {}
    for name, offset in (("a", 7.0), ("b", 0.0)):
        labels = {"model_name": "m", "engine": "0"}
        polls[(("pod", name),)] = {
            1000.0 + offset + 15.0 * step: [
                (f"{histogram}_{part}", {**labels, **le}, value * step)
                for histogram in (PROMPTS, OUTPUTS)
                for part, le, value in (
                    ("bucket", {"le": "10"}, 1.0),
                    ("bucket", {"le": "+Inf"}, 1.0),
                    ("sum", {}, 7.0),
                )
            ]
            for step in range(5)
        }
    traffic = traffic_of("http://p:9090", polls)
    assert [each.ended for each in traffic.intervals] == [15.0, 22.0, 30.0, 37.0, 45.0, 52.0, 60.0, 67.0]
    assert {each.engine for each in traffic.intervals} == {(0, "0"), (1, "0")}
    assert (traffic.started, traffic.seconds, traffic.polls) == (1000.0, 67.0, 10)
    assert len(finished(traffic, None, drawing())) == 8


@pytest.mark.parametrize(
    ("seen", "after", "expected"),
    [
        ({PROMPTS: one(1, 80.0, 2.0), OUTPUTS: one(1, 30.0)}, 2.0, "no poll has both lengths of the same requests"),
        ({PROMPTS: one(1, 80.0, 2.0), OUTPUTS: one(1, 60.0, 2.0)}, 0.0, "no request arrived in 1s"),
        ({}, 2.0, "no request finished in 1s with 2 polls (0 arrived, 2 are still open)"),
    ],
)
def test_traffic_without_a_profile_says_why(seen: dict[str, Observed], after: float, expected: str) -> None:
    traffic = Traffic("t", seconds=1.0, polls=2, models={"m"}, bounds={PROMPTS: BOUNDS, OUTPUTS: BOUNDS})
    traffic.intervals = [interval(1.0, before=2.0, after=after, **seen)]
    with pytest.raises(UserError, match=re.escape(expected)):
        build(traffic, prefixes=1, seed=1)


def test_a_server_without_lengths_is_named() -> None:
    traffic = Traffic("t", seconds=1.0, polls=2, models={"m"}, intervals=[interval(1.0)])
    with pytest.raises(UserError, match="does not expose request_prompt_tokens and request_generation_tokens"):
        build(traffic, prefixes=1, seed=1)
