"""Transfers of every KV connector, added up from names of their own into one signal."""

from __future__ import annotations

import captured
import pytest
from readings import ENGINE

from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.vllm.normalize import Normalizer

LABELS = 'model_name="m",engine="0"'
RUNNING = f"vllm:num_requests_running{{{LABELS}}} 1\nvllm:prompt_tokens_total{{{LABELS}}} 9\n"


def body(samples: dict[str, float], prefix: str = "vllm:") -> str:
    """Write samples by name and further labels."""
    lines = []
    for text, value in samples.items():
        name, _, more = text.partition("{")
        lines.append(f"{prefix}{name}{{{LABELS}{',' + more if more else '}'} {value}\n")
    return RUNNING.replace("vllm:", prefix) + "".join(lines)


def transfers(text: str) -> dict[tuple[str, ...], float]:
    counters = captured.read(text).groups[ENGINE].counters
    return {key[1:]: value for key, value in counters.items() if key[0] == "kv_transfers_total"}


def test_every_metric_that_is_added_up_is_named() -> None:
    found = captured.read(body({"nixl_num_failed_transfers_total": 2, "mooncake_num_failed_transfers_total": 3}))
    assert found.sources["kv_transfers_total"] == (
        "vllm:nixl_num_failed_transfers_total",
        "vllm:mooncake_num_failed_transfers_total",
    )


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (
            {
                "nixl_xfer_time_seconds_count": 60000,
                "nixl_num_failed_transfers_total": 2,
                "nixl_num_failed_notifications_total": 1,
                "nixl_num_kv_expired_reqs_total": 3,
            },
            {("nixl", "completed"): 60000, ("nixl", "failed"): 2, ("nixl", "expired"): 3},
        ),
        (
            {
                "mooncake_xfer_time_seconds_count": 50,
                "mooncake_num_failed_transfers_total": 2,
                "mooncake_num_failed_recvs_total": 3,
                "mooncake_num_kv_expired_reqs_total": 4,
            },
            {("mooncake", "completed"): 50, ("mooncake", "failed"): 5, ("mooncake", "expired"): 4},
        ),
        (
            {
                'mooncake_store_operation_total{operation="save_put",status="ok"}': 40,
                'mooncake_store_operation_total{operation="load_get",status="ok"}': 30,
                'mooncake_store_operation_total{operation="load_get",status="error"}': 5,
                'mooncake_store_operation_total{operation="save_put",status="no_space"}': 1,
            },
            {("mooncake_store", "completed"): 70, ("mooncake_store", "failed"): 6},
        ),
        (
            {
                "hf3fs_load_duration_seconds_count": 5,
                "hf3fs_save_duration_seconds_count": 6,
                "hf3fs_num_failed_load_total": 1,
                "hf3fs_num_failed_save_total": 2,
            },
            {("hf3fs", "completed"): 11, ("hf3fs", "failed"): 3},
        ),
        (
            {
                'umbp_transfer_completed_total{operation="get"}': 5,
                'umbp_transfer_completed_total{operation="put"}': 6,
                'umbp_transfer_submitted_total{operation="put"}': 9,
                'umbp_transfer_failed_total{operation="put"}': 3,
            },
            {("umbp", "completed"): 11, ("umbp", "failed"): 3},
        ),
        (
            {
                "kv_offload_load_size_count": 5,
                "kv_offload_store_size_count": 6,
                "kv_offload_allocation_failure_total": 7,
                "kv_offload_tiering_promotion_allocation_failures_total": 1,
                'kv_offload_tiering_promotion_job_failures_total{tier="1:fs"}': 2,
                'kv_offload_tiering_cascade_job_failures_total{tier="1:fs"}': 3,
                'kv_offload_tiering_cascade_job_failures_total{tier="2:obj"}': 4,
            },
            {("offloading", "completed"): 11, ("offloading", "failed"): 9, ("offloading", "refused"): 8},
        ),
        ({"num_preemptions_total": 4}, {}),
    ],
    ids=["NIXL", "Mooncake", "Mooncake's store", "3FS", "UMBP", "offloading", "no connector"],
)
def test_what_a_connector_counts_is_told_by_result(
    samples: dict[str, float], expected: dict[tuple[str, str], float]
) -> None:
    assert transfers(body(samples)) == expected
    readings = captured.read(body(samples))
    assert (len(readings.groups), readings.unknown, readings.unknown_labels) == (1, (), ())


def test_ray_writes_them_without_total() -> None:
    samples = {"nixl_num_failed_transfers": 2, 'mooncake_store_operation{operation="load_get",status="error"}': 5}
    assert transfers(body(samples, "ray_vllm_")) == {("nixl", "failed"): 2, ("mooncake_store", "failed"): 5}


def test_an_operation_that_appears_later_is_no_reset() -> None:
    parser, normalizer = DifferentialParser(), Normalizer()
    first = {'mooncake_store_operation_total{operation="save_put",status="ok"}': 40.0}
    second = {
        'mooncake_store_operation_total{operation="save_put",status="ok"}': 42.0,
        'mooncake_store_operation_total{operation="load_get",status="ok"}': 1.0,
    }
    third = {name: value + 5.0 for name, value in second.items()}
    found = [
        normalizer.normalize(parser.parse(body(samples).encode())).groups[ENGINE].counters
        for samples in (first, second, third)
    ]
    assert [counters["kv_transfers_total", "mooncake_store", "completed"] for counters in found] == [40.0, 42.0, 52.0]
