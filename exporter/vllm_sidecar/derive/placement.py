"""How many GPUs a server uses, and how many of them are in this machine, by its parallel sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.vllm.probes.flag_values import FlagValue

MAY_SPAN = ("ray", "external_launcher")
"""Executors that place workers on any machine, and expose nowhere on which."""


class Placement(NamedTuple):
    """Location of the GPUs of the engines that one API server reports."""

    here: int | None
    """GPUs in the machine of the API server; None if unknown."""
    in_all: int | None
    """GPUs of all engines that it reports, in any machine; None if unknown."""


def placement(flags: Mapping[str, FlagValue]) -> Placement:
    """Compute it from the flags; unknown without the tensor parallel size.

    With an external load balancer an API server reports one rank, with a hybrid one those of its own machine,
    otherwise all ranks. Over several nodes each has the same number of GPUs, as vLLM itself assumes.
    """
    if _size(flags, "tensor_parallel_size") is None:
        return Placement(None, None)
    engine = gpus_of_engine(flags)
    ranks = _size(flags, "data_parallel_size") or 1
    local = flags.get("data_parallel_size_local")
    if _one_rank(flags):
        ranks = local = 1
    elif flags.get("data_parallel_hybrid_lb") is True:
        if not _size(flags, "data_parallel_size_local"):
            return Placement(None, None)
        ranks = int(local or 0)
    in_all = engine * ranks
    if _may_span(flags):
        return Placement(None, in_all)
    nodes = _size(flags, "nnodes") or 1
    if nodes > 1:
        return Placement(_on_one_of(nodes, flags, engine), in_all)
    if local is None:
        return Placement(in_all, in_all)
    # 0 is a head without engines, or one whose ranks are placed from outside.
    return Placement(engine * int(local) or None if isinstance(local, int) else None, in_all)


def gpus_of_engine(flags: Mapping[str, FlagValue]) -> int:
    """Return the GPUs of one data-parallel rank."""
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size")
    tensor, pipeline, context = (_size(flags, name) or 1 for name in sizes)
    return tensor * pipeline * context


def _one_rank(flags: Mapping[str, FlagValue]) -> bool:
    external = ("data_parallel_external_lb", "data_parallel_multi_port_external_lb")
    return "data_parallel_rank" in flags or any(flags.get(name) is True for name in external)


def _may_span(flags: Mapping[str, FlagValue]) -> bool:
    return flags.get("distributed_executor_backend") in MAY_SPAN or flags.get("data_parallel_backend") in MAY_SPAN


def _on_one_of(nodes: int, flags: Mapping[str, FlagValue], engine: int) -> int | None:
    """Return the GPUs that each of several nodes has of this server; None if they cannot be the same number."""
    everywhere = engine * (_size(flags, "data_parallel_size") or 1)
    return everywhere // nodes if everywhere % nodes == 0 else None


def _size(flags: Mapping[str, FlagValue], name: str) -> int | None:
    value = flags.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
