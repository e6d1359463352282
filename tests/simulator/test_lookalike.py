"""The simulated engine: it admits, computes, preempts and counts as vLLM does."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.simulator.blocks import BlockPool
from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.requests import Request
from vllm_sidecar.simulator.scheduler import SimulatedEngine
from vllm_sidecar.simulator.script import read_script
from vllm_sidecar.simulator.settings import Conditions, ServerSettings

CALM = Conditions()
SETTINGS = {"step_seconds": 0.01, "sequence_seconds": 0.0, "context_token_seconds": 0.0, "prefill_token_seconds": 1e-4}


def engine(**changes: float | bool) -> tuple[SimulatedEngine, list[tuple[Request, str]]]:
    ended: list[tuple[Request, str]] = []
    settings = ServerSettings.model_validate(SETTINGS | changes)
    return SimulatedEngine(settings, 1, lambda request, reason: ended.append((request, reason))), ended


def request(number: int, prompt: int, output: int, *, at: float = 0.0, prefix: int = 0, adapter: str = "") -> Request:
    return Request(
        number=number,
        arrival=at,
        ready=at,
        prompt=prompt,
        output=output,
        max_tokens=output,
        prefix=prefix or number,
        prefix_tokens=prompt if prefix else 0,
        adapter=adapter,
        ending="length",
        gives_up=inf,
    )


def mean(one: SimulatedEngine, name: str) -> float:
    histogram = one.meters.histograms[name]
    return histogram.total / sum(histogram.counts)


def test_a_lonely_request_takes_its_prefill_and_a_step_for_each_token() -> None:
    one, ended = engine()
    one.add(request(1, prompt=100, output=11))
    one.advance(1.0, CALM)
    assert [reason for _, reason in ended] == ["length"]
    assert mean(one, "first_token") == pytest.approx(0.02)
    assert mean(one, "inter_token") == pytest.approx(0.01)
    assert mean(one, "queue") == 0.0
    assert mean(one, "end_to_end") == pytest.approx(0.12)
    assert one.meters.counters["prompt_tokens"] == 100
    assert one.meters.counters["generation_tokens"] == 11


def test_a_prompt_larger_than_the_budget_is_computed_in_chunks() -> None:
    one, _ = engine(max_num_batched_tokens=100)
    one.add(request(1, prompt=250, output=1))
    one.advance(1.0, CALM)
    assert mean(one, "first_token") == pytest.approx(3 * 0.01 + 0.025)


def test_no_more_run_than_max_num_seqs_and_the_rest_waits() -> None:
    one, _ = engine(max_num_seqs=2)
    for number in range(1, 6):
        one.add(request(number, prompt=10, output=100))
    one.advance(0.5, CALM)
    assert (one.meters.running, one.meters.waiting) == (2, 3)


def test_a_full_cache_preempts_the_newest_request_which_computes_again_and_finishes() -> None:
    one, ended = engine(num_gpu_blocks=8, block_size=16, enable_prefix_caching=False)
    one.add(request(1, prompt=48, output=40))
    one.add(request(2, prompt=48, output=40))
    one.advance(5.0, CALM)
    assert one.meters.counters["preemptions"] >= 1
    assert [each.number for each, _ in ended] == [1, 2]
    assert [each.preemptions for each, _ in ended] == [0, one.meters.counters["preemptions"]]
    assert one.meters.counters["generation_tokens"] == 80
    assert one.meters.kv_usage == 0.0


def test_a_shared_prefix_is_computed_once() -> None:
    one, _ = engine()
    one.add(request(1, prompt=320, output=1, prefix=-1))
    one.add(request(2, prompt=320, output=1, at=0.5, prefix=-1))
    one.advance(1.0, CALM)
    # The block of the last token is never looked up: its logits are needed.
    assert one.meters.counters["prefix_queries"] == 640
    assert one.meters.counters["prefix_hits"] == 304
    assert one.meters.counters["prompt_tokens_cached"] == 304


def test_speculation_emits_several_tokens_a_step_and_counts_them_by_position() -> None:
    one, _ = engine(speculative_tokens=3, draft_token_seconds=0.0)
    one.add(request(1, prompt=10, output=41))
    one.advance(1.0, Conditions(acceptance_ratio=1.0))
    assert one.meters.counters["drafts"] == 10
    assert one.meters.counters["draft_tokens"] == 30
    assert one.meters.counters["accepted_tokens"] == 30
    assert dict(one.meters.accepted_at) == {0: 10, 1: 10, 2: 10}
    assert one.meters.counters["generation_tokens"] == 41


def test_requests_for_a_third_adapter_wait_for_one_of_two_slots_while_others_pass_them() -> None:
    one, _ = engine(max_loras=2)
    for number, adapter in enumerate(("a", "b", "c", "a"), 1):
        one.add(request(number, prompt=10, output=50, adapter=adapter))
    one.advance(0.3, CALM)
    assert (one.meters.running, one.meters.waiting, one.meters.deferred) == (3, 1, 1)


def test_a_stalled_engine_changes_nothing_and_goes_on_afterwards() -> None:
    one, ended = engine()
    one.add(request(1, prompt=10, output=100))
    one.advance(0.5, CALM)
    before = dict(one.meters.counters)
    one.advance(60.0, Conditions(stalled=True))
    assert dict(one.meters.counters) == before
    assert one.meters.running == 1
    one.advance(62.0, CALM)
    assert len(ended) == 1
    assert mean(one, "end_to_end") > 59.0


def test_when_all_clients_leave_the_gauges_stay_as_they_were() -> None:
    one, ended = engine()
    one.add(request(1, prompt=10, output=1000))
    one.advance(0.5, CALM)
    one.drop_all()
    one.advance(5.0, CALM)
    assert [reason for _, reason in ended] == ["abort"]
    assert one.meters.running == 1


def test_a_client_without_patience_leaves_the_queue() -> None:
    one, ended = engine(max_num_seqs=1)
    one.add(request(1, prompt=10, output=1000))
    impatient = request(2, prompt=10, output=10)
    impatient.gives_up = 1.0
    one.add(impatient)
    one.advance(2.0, CALM)
    assert ended == [(impatient, "abort")]
    assert one.meters.waiting == 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    def body(seed: int) -> bytes:
        look = Lookalike(read_script("kv-exhaustion", None, {"seed": seed}), 0.0)
        for second in range(100):  # how often it is looked at does not matter
            look.advance(second)
        return exposition(look)

    def at_once(seed: int) -> bytes:
        look = Lookalike(read_script("kv-exhaustion", None, {"seed": seed}), 0.0)
        look.advance(99)
        return exposition(look)

    assert body(1) == at_once(1)
    assert body(1) != body(2)


def test_a_crash_refuses_connections_and_begins_at_zero() -> None:
    look = Lookalike(read_script("crash-loop", None, {}), 1000.0)
    look.advance(60.0 + 19.9)
    served = look.http["2xx"]
    assert look.listening
    look.advance(60.0 + 21.0)
    assert not look.listening
    look.advance(60.0 + 28.5)
    assert look.listening
    assert look.started == pytest.approx(1000.0 + 88.0)
    assert look.http["2xx"] < served


@given(
    size=st.integers(1, 20),
    orders=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), max_size=60),
    caching=st.booleans(),
)
def test_blocks_are_never_lost_nor_made(size: int, orders: list[tuple[int, int]], caching: bool) -> None:
    """Each order is an owner and how many blocks it wants: it lets go of those it has first."""
    pool = BlockPool(size, caching=caching)
    held: dict[int, list[tuple[int, int]]] = {}
    for owner, wanted in orders:
        pool.release(held.pop(owner, []))
        keys = [(owner % 3, index) for index in range(wanted)]
        held[owner] = [key for key in keys if pool.take(key)]
        used = len({key for keys in held.values() for key in keys})
        assert pool.free == size - used
        assert pool.used_ratio == used / size


def test_deferred_requests_are_never_more_than_those_that_wait() -> None:
    """Both gauges are of the same step; otherwise the reason `capacity` would be negative."""
    traffic = {"rate": 6.0, "adapters_wanted": 8}
    look = Lookalike(read_script("healthy", None, {"server": {"max_loras": 2, "adapters": 8}, "traffic": traffic}), 0.0)
    waited = 0
    for tick in range(1, 600):
        look.advance(0.1 * tick)
        meters = look.engines[0].meters
        assert meters.deferred <= meters.waiting
        waited += meters.deferred
    assert waited
