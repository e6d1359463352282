"""How many GPUs a server uses, and how many of them are in the machine of its API server."""

from __future__ import annotations

import pytest

from vllm_sidecar.derive.placement import placement
from vllm_sidecar.serve.gpu_join import gpus_here
from vllm_sidecar.vllm.probes.arguments import parse_arguments


@pytest.mark.parametrize(
    ("line", "here", "in_all"),
    [
        ("", None, None),
        ("-dp 4", None, None),
        ("-tp 1", 1, 1),
        ("-tp 4", 4, 4),
        ("-tp 2 -pp 2", 4, 4),
        ("-tp 2 -pp 2 -pcp 2", 8, 8),
        ("-tp 2 -dp 4", 8, 8),
        ("-tp 2 -dp 4 -dpl 2", 4, 8),
        ("-tp 2 -dp 4 -dpl 0", None, 8),
        ("-tp 1 -dp 8 --data-parallel-external-lb", 1, 1),
        ("-tp 2 -dp 8 -dpn 3", 2, 2),
        ("-tp 2 -dp 8 --data-parallel-rank 0 --data-parallel-size-local 1", 2, 2),
        ("-tp 1 -dp 8 -dpl 8 --data-parallel-multi-port-external-lb", 1, 1),
        ("-tp 1 -dp 16 --data-parallel-size-local 8 --data-parallel-hybrid-lb --data-parallel-start-rank 8", 8, 8),
        ("-tp 1 -dp 16 -dph", None, None),
        ("-tp 8 -pp 2 --nnodes 2 --node-rank 0 --master-addr a", 8, 16),
        ("-tp 16 -n 2 -r 0", 8, 16),
        ("-tp 8 -dp 2 --nnodes 2", 8, 16),
        ("-tp 3 --nnodes 2", None, 3),
        ("-tp 2 --distributed-executor-backend ray", None, 2),
        ("-tp 2 --distributed-executor-backend=external_launcher", None, 2),
        ("-tp 2 --distributed-executor-backend mp", 2, 2),
        ("-tp 2 -dp 2 --data-parallel-backend ray", None, 4),
        ("-tp 2 -dp 2 -dpb mp", 4, 4),
    ],
)
def test_gpus_of_a_server_and_of_its_machine(line: str, here: int | None, in_all: int | None) -> None:
    assert placement(parse_arguments(["vllm", "serve", "m", *line.split()]).flags) == (here, in_all)


def test_a_server_elsewhere_uses_none_of_the_gpus_here() -> None:
    flags = {"tensor_parallel_size": 4}
    assert gpus_here(flags, local=True) == 4
    assert gpus_here(flags, local=False) == 0
    assert gpus_here({}, local=True) is None


@pytest.mark.parametrize("wrong", [True, 0, -2, "2", 1.5])
def test_a_size_that_is_none_counts_as_not_told(wrong: object) -> None:
    assert placement({"tensor_parallel_size": wrong}) == (None, None)  # type: ignore[dict-item]
    assert placement({"tensor_parallel_size": 2, "data_parallel_size": wrong}) == (2, 2)  # type: ignore[dict-item]


def test_what_the_server_says_of_itself_counts_like_its_command_line() -> None:
    told = {
        "tensor_parallel_size": 1, "pipeline_parallel_size": 1, "prefill_context_parallel_size": 1,
        "data_parallel_size": 1, "data_parallel_size_local": 1, "data_parallel_external_lb": False,
        "data_parallel_hybrid_lb": False, "data_parallel_backend": "mp", "nnodes": 1,
        "distributed_executor_backend": "uni",
    }  # fmt: skip
    assert placement(told) == (1, 1)
    assert placement({**told, "data_parallel_size": 8, "data_parallel_external_lb": True}) == (1, 1)
    assert placement({**told, "data_parallel_size": 8, "data_parallel_size_local": 8}) == (8, 8)
