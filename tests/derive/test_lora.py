"""LoRA adapters."""

from __future__ import annotations

import pytest
from readings import server

from vllm_sidecar.derive.inputs import DeriveSettings
from vllm_sidecar.derive.lora import active, omitted, slots, slots_used
from vllm_sidecar.series.readings import Adapters

MANY = tuple(f"a{i:02}" for i in range(12))


@pytest.mark.parametrize(
    ("adapters", "expected"),
    [
        (None, {}),
        (Adapters((), (), 4), {}),
        (Adapters(("a", "b"), ("a", "b"), 4), {("a", "active"): 1.0, ("b", "active"): 1.0}),
        (Adapters(("a",), ("b",), 4), {("a", "running"): 1.0, ("b", "waiting"): 1.0}),
        (Adapters(("a", "b"), ("b",), 4), {("a", "running"): 1.0, ("b", "running"): 1.0, ("b", "waiting"): 1.0}),
        (Adapters((), ("b",), 4), {("b", "waiting"): 1.0}),
        (Adapters(("a",), (), None), {("a", "running"): 1.0}),
    ],
    ids=[
        "LoRA is off",
        "no adapter has requests",
        "equal lists do not tell running from waiting",
        "one runs and one waits",
        "one does both",
        "one waits",
        "one runs",
    ],
)
def test_an_adapter_is_one_in_each_state_it_has_requests_in(
    adapters: Adapters | None, expected: dict[tuple[str, str], float]
) -> None:
    assert active(server(adapters=adapters)) == expected


@pytest.mark.parametrize(
    ("adapters", "expected", "left_out"),
    [
        (Adapters(MANY, MANY, 20), {(name, "active") for name in MANY[:3]}, 9.0),
        (Adapters(MANY, (), 20), {(name, "running") for name in MANY[:3]}, 9.0),
        (
            Adapters(MANY[1:], MANY[:2], 20),
            {("a00", "waiting"), ("a01", "running"), ("a01", "waiting"), ("a02", "running")},
            9.0,
        ),
        (Adapters(MANY[:3], MANY[:3], 20), {(name, "active") for name in MANY[:3]}, 0.0),
    ],
    ids=["equal lists", "all run", "both states of the first by name", "as many as the limit"],
)
def test_the_limit_of_adapters_keeps_the_first_by_name_and_counts_the_others(
    adapters: Adapters, expected: set[tuple[str, str]], left_out: float
) -> None:
    seen = server(adapters=adapters, settings=DeriveSettings(max_adapters=3))
    assert active(seen).keys() == expected
    assert omitted(seen) == left_out


@pytest.mark.parametrize(
    ("adapters", "places", "used", "left_out"),
    [
        (None, None, None, None),
        (Adapters((), (), 0), None, None, 0.0),
        (Adapters((), (), 4), 4.0, 0.0, 0.0),
        (Adapters(("a", "b"), (), 4), 4.0, 2.0, 0.0),
        (Adapters(("a", "b", "c"), ("a", "b", "c"), 2), 2.0, 2.0, 0.0),
        (Adapters(("a", "b"), (), None), None, 2.0, 0.0),
    ],
    ids=[
        "LoRA is off",
        "v0 tells of no slots when LoRA is off",
        "idle",
        "two of four",
        "those that wait stand among those that run",
        "the Rust front end does not tell the slots",
    ],
)
def test_the_slots(adapters: Adapters | None, places: float | None, used: float | None, left_out: float | None) -> None:
    seen = server(adapters=adapters)
    assert (slots(seen), slots_used(seen), omitted(seen)) == (places, used, left_out)
