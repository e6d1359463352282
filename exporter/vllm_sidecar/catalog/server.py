"""Signals about the server itself: version, models, flags, restarts."""

from __future__ import annotations

from vllm_sidecar.catalog.types import Kind, Scope, Signal, Unit

FLAGS_SHOWN = (
    "max_model_len",
    "gpu_memory_utilization",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "enable_prefix_caching",
    "generation_config",
    "speculative_config",
    "kv_cache_dtype",
)
"""The flags that change capacity and behavior: labels of `server_config_info`."""

FLAG_GAUGES: dict[str, tuple[str, Unit]] = {
    "max_model_len": ("config_max_model_len_tokens", Unit.TOKENS),
    "gpu_memory_utilization": ("config_gpu_memory_utilization_ratio", Unit.RATIO),
    "tensor_parallel_size": ("config_tensor_parallel_size", Unit.NONE),
    "pipeline_parallel_size": ("config_pipeline_parallel_size", Unit.NONE),
    "data_parallel_size": ("config_data_parallel_size", Unit.NONE),
    "enable_prefix_caching": ("config_enable_prefix_caching", Unit.NONE),
    "max_num_seqs": ("config_max_num_seqs", Unit.NONE),
    "max_num_batched_tokens": ("config_max_num_batched_tokens", Unit.TOKENS),
    "max_num_queued_reqs": ("config_max_num_queued_requests", Unit.NONE),
    "block_size": ("config_block_size_tokens", Unit.TOKENS),
    "num_speculative_tokens": ("config_num_speculative_tokens", Unit.TOKENS),
    "max_loras": ("config_max_loras", Unit.NONE),
}
"""Numeric flag -> name and unit of its gauge."""


def _target(name: str, kind: Kind, text: str, *labels: str, unit: Unit = Unit.NONE) -> Signal:
    return Signal(name, kind, unit, text, Scope.TARGET, labels)


SERVER: tuple[Signal, ...] = (
    _target("server_info", Kind.INFO, "Version, front end and engine generation of the vLLM server.",
            "version", "front_end", "engine_generation"),
    _target("server_config_info", Kind.INFO,
            "Flags of the server that change capacity and behavior; empty where unknown. The fingerprint "
            "changes with version, models and every known flag.",
            "fingerprint", *FLAGS_SHOWN),
    _target("model_info", Kind.INFO,
            "A served model, alias or LoRA adapter (then parent is its base); `model` is a valid label in Kubernetes.",
            "model_name", "root", "parent", "model"),
    Signal("engine_info", Kind.INFO, Unit.NONE,
           "An engine, with the labels of its series on the server, for joins: those that distinguish engines make up "
           "`engine`. A label name that is taken or reserved gets the prefix exported_.",
           Scope.ENGINE, further_labels=True),
    *(_target(name, Kind.GAUGE, f"The server's --{flag.replace('_', '-')}; absent where unknown.", unit=unit)
      for flag, (name, unit) in FLAG_GAUGES.items()),
    _target("config_changes_total", Kind.COUNTER,
            "Changes of version, models or flags that the sidecar saw since it started."),
    _target("config_last_change_timestamp_seconds", Kind.GAUGE,
            "Unix time of the last change of version, models or flags; absent before the first.",
            unit=Unit.TIMESTAMP),
    _target("server_restarts_total", Kind.COUNTER,
            "Restarts of the server that the sidecar saw since it started; several servers behind one address are "
            "not counted."),
    _target("server_start_timestamp_seconds", Kind.GAUGE,
            "Unix time when the API server started, or its counters were created; absent if unknown.",
            unit=Unit.TIMESTAMP),
    _target("server_startup_seconds", Kind.GAUGE,
            "Duration of the last start of the server: from the first unanswered poll, after the previous process "
            "ended or the sidecar started, to the first successful poll. Kept until the next start; absent if the "
            "server was running before the sidecar.",
            unit=Unit.SECONDS),
    _target("http_requests_in_flight", Kind.GAUGE,
            "Open HTTP requests (from /load; needs --enable-server-load-tracking)."),
)  # fmt: skip
