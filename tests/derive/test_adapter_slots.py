"""The wait for a LoRA slot, next to results that are known."""

from __future__ import annotations

from math import exp, factorial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.derive.adapter_slots import SlotLoad, late_for_slots

FEW = SlotLoad(adapters=8, slots=4, requests=4.0, residence=1.0, variation=0.2)


def test_adapters_of_one_request_each_wait_as_in_erlang_c() -> None:
    """With many rare adapters each request needs a slot of its own: a queue with as many servers as slots."""
    slots, offered, patience = 4, 2.4, 1.5
    top = offered**slots / factorial(slots) * slots / (slots - offered)
    waits = top / (sum(offered**k / factorial(k) for k in range(slots)) + top)
    found = late_for_slots(SlotLoad(10_000, slots, offered, 1.0, 1.0), patience)
    assert found == pytest.approx(waits * exp(-(slots - offered) * patience), rel=0.1)


def test_as_many_slots_as_adapters_wait_for_nothing() -> None:
    assert late_for_slots(FEW._replace(slots=8), 0.0) == 0.0


def test_without_requests_nothing_waits() -> None:
    assert late_for_slots(FEW._replace(requests=0.0), 0.0) == late_for_slots(FEW._replace(residence=0.0), 0.0) == 0.0


def test_adapters_whose_slots_never_become_free_exclude_the_others() -> None:
    assert late_for_slots(FEW._replace(requests=400.0), 2.5) == pytest.approx(0.5)


def test_two_adapters_on_one_slot_wait_for_half_a_hold_at_most_as_often_as_the_other_holds_it() -> None:
    found = late_for_slots(SlotLoad(2, 1, 0.2, 1.0, 1.0), 0.0)
    assert 0.08 < found < 0.12


LOADS = st.builds(
    SlotLoad,
    st.integers(2, 3000),
    st.integers(1, 64),
    st.floats(1e-3, 500.0),
    st.floats(1e-3, 60.0),
    st.floats(0.0, 4.0),
)


@given(LOADS, st.floats(0.0, 20.0))
def test_a_share_is_a_share_and_falls_with_patience(load: SlotLoad, patience: float) -> None:
    found = late_for_slots(load, patience)
    assert 0.0 <= found <= 1.0
    assert late_for_slots(load, patience + 1.0) <= found + 1e-9
