"""Engine and GPUs joined; values only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gpus import device, frozen, gpu, server, steady, values, working
from readings import START, reading, window

from vllm_sidecar.derive import gpu_efficiency as derive
from vllm_sidecar.derive.inputs import EngineInputs
from vllm_sidecar.derive.stalls import stall_corroborated, stalled
from vllm_sidecar.series.window import Window

BUSY = {"utilization_ratio": 1.0, "power_watts": 210.0, "power_limit_watts": 700.0}


def test_tokens_per_joule_are_those_of_the_same_seconds() -> None:
    found = derive.tokens_per_joule(server([working(60)], [steady(0, power_watts=300.0), steady(1, power_watts=200.0)]))
    assert found == pytest.approx({"generation": 100.0 / 500.0, "prompt": 1000.0 / 500.0})


def test_gpu_polls_that_end_before_the_engines_do_not_count_the_tokens_after_them() -> None:
    found = derive.tokens_per_joule(server([working(64)], [steady(power_watts=100.0)]))
    assert found["generation"] == pytest.approx(1.0)


def test_without_an_energy_counter_mean_power_stands_in() -> None:
    gpus = [gpu(*[values(power_watts=250.0)] * 13)]
    assert derive.tokens_per_joule(server([working(60)], gpus))["generation"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    "gpus",
    [None, [], [gpu(values(power_watts=1.0))], [steady(power_watts=0.0)], [gpu(*[values(utilization_ratio=1.0)] * 5)]],
    ids=["no source", "no GPU", "one poll", "nothing drawn", "no power"],
)
def test_without_energy_there_are_no_tokens_per_joule(gpus: list | None) -> None:
    assert derive.tokens_per_joule(server([working()], gpus)) == {}


def test_an_engine_that_began_anew_in_the_gpus_window_has_no_tokens_per_joule_yet() -> None:
    engine = Window(60.0, 300.0)
    for i in range(40, 61):
        engine.append(START + i, reading({"generation_tokens_total": 100.0 * i}))
    assert derive.tokens_per_joule(server([engine], [steady(power_watts=100.0)])) == {}


def test_a_counter_that_fell_begins_the_window_anew() -> None:
    """A driver was loaded again: the energy before it is no energy saved."""
    seen = gpu(values(energy_joules_total=9e9), values(energy_joules_total=100.0), values(energy_joules_total=600.0))
    assert seen.increase("gpu_energy_joules_total") == 500.0
    assert seen.seconds == 5.0


def test_watts_per_request_and_tokens_per_gpu() -> None:
    gpus = [steady(i, power_watts=300.0) for i in range(2)]
    assert derive.request_watts(server([working()], gpus)) == pytest.approx(150.0)
    assert derive.generation_tokens_per_second(server([working()], gpus)) == pytest.approx(50.0)
    assert derive.request_watts(server([working(requests_running=0)], gpus)) is None
    assert derive.request_watts(server([working()], None)) is None
    assert derive.generation_tokens_per_second(server([working()], None)) is None


def test_gpus_that_may_be_others_are_not_joined() -> None:
    """Eight GPUs on the node, a server that uses two, and nothing says which."""
    gpus = [steady(i, **BUSY) for i in range(8)]
    flags = {"tensor_parallel_size": 2}
    assert derive.request_watts(server([working()], gpus, flags=flags, chosen_by="all")) is None
    assert derive.request_watts(server([working()], gpus[:2], flags=flags, chosen_by="all")) is not None
    assert derive.request_watts(server([working()], gpus[:2], flags=flags, chosen_by="processes")) is not None
    assert derive.request_watts(server([working()], gpus, chosen_by="all")) is None
    assert derive.request_watts(server([working()], gpus[:1], chosen_by="all")) is not None
    assert derive.request_watts(server([working()], gpus, chosen_by="configured")) is not None


@pytest.mark.parametrize(
    "flags",
    [
        {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"},
        {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "nnodes": 2},
        {"tensor_parallel_size": 1, "data_parallel_size": 4, "data_parallel_size_local": 2},
        {"tensor_parallel_size": 4},
    ],
    ids=["ray", "nodes", "ranks elsewhere", "fewer than it asks for"],
)
def test_a_part_of_the_gpus_is_not_taken_for_all_and_still_shows_that_they_spin(flags: dict) -> None:
    gpus = [steady(i, seconds=160.0, **BUSY) for i in range(1 if "ray" in flags.values() else 2)]
    made = server([working()], gpus, flags=flags, chosen_by="processes")
    assert derive.tokens_per_joule(made) == {}
    assert derive.request_watts(made) is None
    assert derive.generation_tokens_per_second(made) is None
    assert derive.imbalance(made) == {}
    assert derive.starved(made) is None
    assert derive.busy_without_progress(server([frozen()], gpus, flags=flags, chosen_by="processes"))["low"] == 1.0


def test_ray_on_one_machine_with_all_its_gpus_is_joined() -> None:
    flags = {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"}
    gpus = [steady(i, **BUSY) for i in range(2)]
    assert derive.request_watts(server([working()], gpus, flags=flags, chosen_by="all")) is not None


def test_one_rank_behind_an_external_balancer_is_joined_with_its_own_gpus() -> None:
    flags = {"tensor_parallel_size": 1, "data_parallel_size": 8, "data_parallel_rank": 3}
    assert derive.request_watts(server([working()], [steady(0, **BUSY)], flags=flags)) is not None


def test_stages_of_a_pipeline_are_not_compared() -> None:
    gpus = [steady(i, power_watts=watts, utilization_ratio=1.0) for i, watts in enumerate((600.0, 600.0, 200.0, 200.0))]
    flags = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    assert derive.imbalance(server([], gpus, flags=flags))["power"] == 0.0
    assert derive.imbalance(server([], gpus, flags={"tensor_parallel_size": 1, "pipeline_parallel_size": 4})) == {}


def test_a_straggler_shows_in_its_own_tensor_parallel_group() -> None:
    watts = [600.0, 600.0, 600.0, 150.0, 300.0, 300.0, 300.0, 300.0]
    gpus = [steady(i, power_watts=each, utilization_ratio=1.0) for i, each in enumerate(watts)]
    assert derive.imbalance(server([], gpus, flags={"tensor_parallel_size": 4})) == pytest.approx(
        {"power": 0.75, "utilization": 0.0}
    )
    assert derive.imbalance(server([], gpus[4:], flags={"tensor_parallel_size": 2}))["power"] == 0.0
    assert derive.imbalance(server([], gpus[:2])) == pytest.approx({"power": 0.0, "utilization": 0.0})


def test_where_the_size_of_a_group_is_not_told_engines_share_the_gpus_equally() -> None:
    """One of four data-parallel engines has all the work: its GPU is no straggler's sibling."""
    gpus = [steady(i, power_watts=watts) for i, watts in enumerate((500.0, 90.0, 90.0, 90.0))]
    engines = [working(60) for _ in range(4)]
    assert derive.imbalance(server(engines, gpus)) == {}
    assert derive.imbalance(server(engines[:2], gpus))["power"] == pytest.approx(1.0 - 90.0 / 500.0)


@pytest.mark.parametrize(("count", "size"), [(1, None), (4, 1), (3, 2)])
def test_no_group_no_imbalance(count: int, size: int | None) -> None:
    gpus = [steady(i, **BUSY) for i in range(count)]
    assert derive.imbalance(server([], gpus, flags={"tensor_parallel_size": size} if size else {})) == {}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (BUSY, {"low": 1.0, "high": 0.0}),
        ({**BUSY, "power_watts": 690.0}, {"low": 0.0, "high": 1.0}),
        ({**BUSY, "utilization_ratio": 0.3}, {"low": 0.0, "high": 0.0}),
        ({"utilization_ratio": 1.0}, {"low": 0.0, "high": 0.0, "unknown": 1.0}),
        ({"power_watts": 210.0}, {}),
    ],
    ids=["a dead collective", "a kernel that never ends", "idle", "power unknown", "utilisation unknown"],
)
def test_gpus_that_spin_while_the_engine_stands_still(fields: dict[str, float], expected: dict[str, float]) -> None:
    gpus = [steady(i, seconds=150.0, **fields) for i in range(2)]
    assert derive.busy_without_progress(server([frozen(150)], gpus)) == expected


def test_busy_gpus_are_no_sign_while_the_engine_moves_or_has_nothing_to_do_or_sleeps() -> None:
    gpus = [steady(seconds=150.0, **BUSY)]
    quiet = {"low": 0.0, "high": 0.0}
    assert derive.busy_without_progress(server([working(150)], gpus)) == quiet
    assert derive.busy_without_progress(server([frozen(150, requests_running=0)], gpus)) == quiet
    asleep = window(*[{"requests_running": 4, "generation_tokens_total": 7,
                       ("engine_sleep_state", "weights_offloaded"): 1}] * 150)  # fmt: skip
    assert derive.busy_without_progress(server([asleep], gpus)) == quiet
    assert derive.busy_without_progress(server([frozen(50)], gpus)) == quiet


def test_busy_gpus_corroborate_a_stall() -> None:
    """The gauges alone would say that they froze: NCCL waits for a rank that is gone, and nobody new comes."""
    gpus = [steady(i, seconds=150.0, **BUSY) for i in range(2)]
    view = server([frozen(150)], gpus)
    engine = EngineInputs("m", view.engines["m", "0"], view)
    assert {name for name, said in stall_corroborated(engine).items() if said} == {"gpu_busy"}
    assert stalled(engine) == 1.0


def test_idle_gpus_are_none_and_without_gpus_there_is_no_such_signal() -> None:
    for gpus in [[steady(seconds=150.0, **{**BUSY, "utilization_ratio": 0.0})], None]:
        view = server([frozen(150)], gpus)
        engine = EngineInputs("m", view.engines["m", "0"], view)
        assert not any(stall_corroborated(engine).values())
        assert stalled(engine) == 0.0


@pytest.mark.parametrize(
    ("flags", "busy", "expected"),
    [({}, 2, 0.0), ({"tensor_parallel_size": 1}, 1, 0.0), ({"tensor_parallel_size": 1}, 2, 1.0)],
    ids=["sizes unknown", "explained", "one too many"],
)
def test_gpus_that_another_engine_keeps_busy_corroborate_nothing(flags: dict, busy: int, expected: float) -> None:
    gpus = [steady(i, seconds=150.0, **{**BUSY, "utilization_ratio": float(i < busy)}) for i in range(2)]
    view = server([frozen(150), working(149)], gpus, flags=flags)
    assert stalled(EngineInputs("m", view.engines["m", "0"], view)) == expected


def test_requests_that_wait_for_idle_gpus_starve() -> None:
    waits = frozen(30, requests_waiting=3)
    assert derive.starved(server([waits], [steady(utilization_ratio=0.05)])) == 1.0
    assert derive.starved(server([waits], [steady(utilization_ratio=0.05), steady(1, utilization_ratio=0.9)])) == 0.0
    assert derive.starved(server([frozen(30)], [steady(utilization_ratio=0.0)])) == 0.0
    assert derive.starved(server([frozen(5, requests_waiting=3)], [steady(utilization_ratio=0.0)])) == 0.0
    assert derive.starved(server([waits], [steady(power_watts=1.0)])) is None
    assert derive.starved(server([waits], None)) is None


def test_requests_that_only_a_frozen_gauge_claims_are_not_starved() -> None:
    """Their clients have left, or nothing says whether anybody waits; a corroborated stall is another thing."""
    idle = [steady(seconds=160.0, utilization_ratio=0.0)]
    waits, still_works = frozen(150, requests_waiting=3), working(149, requests_waiting=0)
    claim = {"requests_running": 4, "requests_waiting": 3, "generation_tokens_total": 7}
    aborted = ("requests_finished_total", "abort")
    left = window({**claim, aborted: 0}, *[{**claim, aborted: 7}] * 150)
    assert derive.starved(server([waits], idle)) is None
    assert derive.starved(server([left], idle)) == 0.0
    assert derive.starved(server([left, waits], idle)) is None
    assert derive.starved(replace(server([waits], idle), requests_in_flight=9.0)) == 1.0
    assert derive.starved(server([still_works, left], idle)) == 0.0


def test_memory_growth_is_since_the_warm_up_and_may_be_negative() -> None:
    gpus = [steady(i, memory_used_bytes=8e10) for i in range(3)]
    found = derive.memory_growth(server([], gpus, warm={"GPU-0": 7e10, "GPU-1": 9e10}))
    assert found == {device(0).labels: 1e10, device(1).labels: -1e10}
    assert derive.memory_growth(server([], None)) == {}


def test_gpus_that_are_split_between_users_are_not_joined_as_a_whole() -> None:
    gpus = [steady(0, **BUSY), gpu(values(memory_used_bytes=1.0), index="0:0", parent="GPU-0")]
    assert derive.request_watts(server([working()], gpus)) is None
