"""The vLLM options that the sidecar exports: options that are not in this table pass from no source.

The whitelist keeps secrets (`--api-key`, `--hf-token`, `--ssl-*`, whole configs) and the 37 labels of
cache_config_info, which change with every release, out of the metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from vllm_sidecar.vllm.probes import flag_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_sidecar.vllm.probes.flag_values import FlagValue

Path = tuple[str, ...]


class FlagKind(StrEnum):
    """Type of a flag's value."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STR = "str"


_READERS: Final[Mapping[FlagKind, Callable[[object], FlagValue | None]]] = {
    FlagKind.INT: flag_values.integer,
    FlagKind.FLOAT: flag_values.real,
    FlagKind.BOOL: flag_values.truth,
    FlagKind.STR: flag_values.text,
}


@dataclass(frozen=True, slots=True)
class Flag:
    """One option of vLLM under its argparse name, and its place in each source.

    `options` are its other spellings on the command line besides `--name` (and `--no-name` of a bool). `label` is its
    cache_config_info label, `paths` its places in the JSON of /server_info (the first that exists is used), `key` its
    name in the text form; each None or empty if the source does not have it. `read` replaces the reader of `kind`.
    """

    name: str
    kind: FlagKind
    options: tuple[str, ...] = ()
    label: str | None = None
    paths: tuple[Path, ...] = ()
    key: str | None = None
    read: Callable[[object], FlagValue | None] | None = None
    many: bool = False
    """The option takes several values (`--served-model-name a b`)."""
    nested: bool = False
    """The option takes JSON, so also `--name.key value`."""
    per_server: bool = False
    """It differs between the servers of one deployment, and is not part of their configuration."""

    def value(self, raw: object) -> FlagValue | None:
        """Read the flag's value from a source's value; None if that is not valid."""
        return (self.read or _READERS[self.kind])(raw)


def _model(name: str) -> tuple[Path, ...]:
    return (("model_config", name),)


def _cache(name: str) -> tuple[Path, ...]:
    return (("cache_config", name),)


def _parallel(name: str) -> tuple[Path, ...]:
    return (("parallel_config", name),)


def _scheduler(*names: str) -> tuple[Path, ...]:
    return tuple(("scheduler_config", name) for name in names)


def _lora(name: str) -> tuple[Path, ...]:
    return (("lora_config", name),)


_INT, _FLOAT, _BOOL, _STR = FlagKind.INT, FlagKind.FLOAT, FlagKind.BOOL, FlagKind.STR

# Checked with the parser and the config classes of vLLM 0.32.0. For a renamed flag the older name is last.
FLAGS: Final[tuple[Flag, ...]] = (
    Flag("model", _STR, paths=_model("model"), key="model"),
    Flag(
        "served_model_name",
        _STR,
        paths=_model("served_model_name"),
        key="served_model_name",
        read=flag_values.first,
        many=True,
    ),
    Flag("max_model_len", _INT, paths=_model("max_model_len"), key="max_seq_len", read=flag_values.positive),
    Flag(
        "gpu_memory_utilization",
        _FLOAT,
        options=("--device-memory-utilization",),
        label="gpu_memory_utilization",
        paths=_cache("gpu_memory_utilization"),
    ),
    Flag("tensor_parallel_size", _INT, ("-tp",), paths=_parallel("tensor_parallel_size"), key="tensor_parallel_size"),
    Flag(
        "pipeline_parallel_size",
        _INT,
        ("-pp",),
        paths=_parallel("pipeline_parallel_size"),
        key="pipeline_parallel_size",
    ),
    Flag("prefill_context_parallel_size", _INT, ("-pcp",), paths=_parallel("prefill_context_parallel_size")),
    Flag("data_parallel_size", _INT, ("-dp",), paths=_parallel("data_parallel_size"), key="data_parallel_size"),
    Flag("data_parallel_size_local", _INT, ("-dpl",), paths=_parallel("data_parallel_size_local")),
    # /server_info shows 0 for a server without a rank, so only the command line is a source of the rank.
    Flag("data_parallel_rank", _INT, ("-dpn",), per_server=True),
    Flag("data_parallel_external_lb", _BOOL, ("-dpe",), paths=_parallel("data_parallel_external_lb")),
    Flag("data_parallel_hybrid_lb", _BOOL, ("-dph",), paths=_parallel("data_parallel_hybrid_lb")),
    Flag("data_parallel_backend", _STR, ("-dpb",), paths=_parallel("data_parallel_backend")),
    Flag("data_parallel_multi_port_external_lb", _BOOL),
    Flag("nnodes", _INT, ("-n",), paths=_parallel("nnodes")),
    Flag("distributed_executor_backend", _STR, paths=_parallel("distributed_executor_backend")),
    Flag("enable_expert_parallel", _BOOL, ("-ep",), paths=_parallel("enable_expert_parallel")),
    Flag(
        "enable_prefix_caching",
        _BOOL,
        label="enable_prefix_caching",
        paths=_cache("enable_prefix_caching"),
        key="enable_prefix_caching",
    ),
    Flag("generation_config", _STR, paths=_model("generation_config")),
    Flag(
        "speculative_config",
        _STR,
        ("-sc",),
        paths=(("speculative_config",),),
        key="speculative_config",
        read=flag_values.describe_speculative,
        nested=True,
    ),
    Flag(
        "num_speculative_tokens",
        _INT,
        paths=(("speculative_config",),),
        key="speculative_config",
        read=flag_values.draft_length,
    ),
    Flag("kv_cache_dtype", _STR, label="cache_dtype", paths=_cache("cache_dtype"), key="kv_cache_dtype"),
    Flag("block_size", _INT, label="block_size", paths=_cache("block_size")),
    Flag(
        "num_gpu_blocks_override",
        _INT,
        label="num_gpu_blocks_override",
        paths=_cache("num_gpu_blocks_override"),
    ),
    Flag("dtype", _STR, paths=_model("dtype"), key="dtype", read=flag_values.dtype),
    Flag("quantization", _STR, ("-q",), paths=_model("quantization"), key="quantization", read=flag_values.optional),
    Flag("enforce_eager", _BOOL, paths=_model("enforce_eager"), key="enforce_eager"),
    Flag("max_num_seqs", _INT, paths=_scheduler("max_num_seqs")),
    Flag("max_num_batched_tokens", _INT, paths=_scheduler("max_num_batched_tokens")),
    Flag("max_num_queued_reqs", _INT, paths=_scheduler("max_num_queued_reqs")),
    Flag("max_num_queued_tokens", _INT, paths=_scheduler("max_num_queued_tokens")),
    Flag(
        "enable_chunked_prefill",
        _BOOL,
        paths=_scheduler("enable_chunked_prefill", "chunked_prefill_enabled"),
        key="enable_chunked_prefill",
    ),
    Flag("scheduling_policy", _STR, paths=_scheduler("policy")),
    Flag("enable_lora", _BOOL, paths=(("lora_config",),), read=flag_values.switched),
    Flag("max_loras", _INT, paths=_lora("max_loras")),
    Flag("max_lora_rank", _INT, paths=_lora("max_lora_rank")),
    Flag("tokenizer", _STR, paths=_model("tokenizer"), key="tokenizer"),
    Flag("chat_template", _STR, read=flag_values.template),
    Flag("kv_transfer_config", _STR, paths=(("kv_transfer_config",),), read=flag_values.connector, nested=True),
    Flag("api_server_count", _INT, ("-asc",), paths=_parallel("_api_process_count")),
    Flag("enable_sleep_mode", _BOOL, paths=_model("enable_sleep_mode")),
    Flag("disable_log_stats", _BOOL),
    Flag("seed", _INT, paths=_model("seed"), key="seed"),
)

SPECULATIVE_OPTIONS: Final[Mapping[str, str]] = {
    "--spec-method": "method",
    "--spec-model": "model",
    "--spec-tokens": "num_speculative_tokens",
    "--speculative-model": "model",
    "--num-speculative-tokens": "num_speculative_tokens",
}
"""Options that set one key of the speculative config: shortcuts of recent versions, flags of V0 (to 0.8)."""
