"""Signals that vLLM exposes, each with its names over vLLM's history. The only file with vLLM's names.

Sources: vLLM's `vllm/engine/metrics.py` (v0), `vllm/v1/metrics/loggers.py`, `vllm/v1/spec_decode/metrics.py`, the KV
connectors' `metrics.py` and `rust/src/metrics` of releases 0.2 to 0.33. An alias to add for a renamed metric goes
here, and a capture of a server that uses it goes into tests/captures.
"""

from __future__ import annotations

from typing import NamedTuple

from vllm_sidecar.catalog.types import Kind, Merge, Scope, Signal, Unit, Upstream

PREFIXES = ("vllm:", "ray_vllm:", "kserve_vllm:", "vllm_", "ray_vllm_", "kserve_vllm_")
"""Prefixes of vLLM's names: its own, of Ray's agent, of KServe's aggregator, and each with the colon translated."""

NOT_VLLM = ("vllm_sidecar", "vllm_omni", "vllm_router", "vllm_tokenizer")
"""Prefixes that look like translated vLLM names but are not: a sidecar, and programs in front of or around engines."""

MODEL_LABELS = ("model_name", "model")
"""Labels that name the model; the first that exists is used. Triton has the second."""
IDENTITY = ("engine", "stage", "replica", "version", "dp_rank", "rank")
"""Labels that identify an engine of a model, in the order in which its name is made of them: vLLM's own, those of
vLLM-Omni's stages and their replicas, Triton's version of a model, and ranks."""
DIFFERENT_WORK = ("stage", "version")
"""Those of them whose engines do not share one load."""
COPIES = frozenset(("pid",))
"""Labels of copies: in prometheus_client's multiprocess mode each API server writes one of an engine's series."""
ONLY_ENGINES = (
    "cache_config_info",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "num_preemptions_total",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "iteration_tokens_total",
    "avg_prompt_throughput_toks_per_s",
    "avg_generation_throughput_toks_per_s",
)
"""Families that engines expose and routers do not: routers repeat gauges of their backends, under vLLM's prefix too.
vLLM before 0.3 has gauges only, the throughputs among them; v0 has its cache configuration before its first request."""
GAUGES_OF_ENGINES = frozenset(ONLY_ENGINES[:1] + ONLY_ENGINES[-2:])
"""Those that are gauges; a gauge with the name of one of the others is a router's copy."""
ABORTED = frozenset(("abort",))
"""Values of finished_reason of requests whose clients left."""
FAILED = frozenset(("error",))
"""Values of finished_reason of requests that the server failed."""
ASLEEP = ("weights_offloaded", "discard_all")
"""Values of sleep_state in which an engine serves nothing."""
ADDRESSES = ("http://", "https://", "grpc://")
"""Prefixes of label values that name a server."""
OTHER_PROGRAMS: tuple[tuple[str, str], ...] = (
    ("vllm_sidecar", "a vllm-sidecar"),
    ("vllm_router", "a router"),
    ("router_", "a router"),
    ("sgl_router", "a router"),
    ("smg_", "a router"),
    ("vllm_omni", "the pipeline of vLLM-Omni without its engines"),
    ("inference_extension", "an inference gateway"),
    ("inference_objective", "an inference gateway"),
    ("inference_model", "an inference gateway"),
    ("inference_pool", "an inference gateway"),
    ("llm_d_inference_scheduler", "an inference gateway"),
    ("litellm", "LiteLLM"),
    ("envoy", "Envoy"),
    ("istio", "Istio"),
    ("nginx", "nginx"),
    ("haproxy", "HAProxy"),
    ("traefik", "Traefik"),
    ("kong", "Kong"),
    ("dynamo_frontend", "Dynamo's front end"),
    ("sglang", "SGLang"),
    ("trtllm", "TensorRT-LLM"),
    ("tgi", "text-generation-inference"),
    ("llamacpp", "llama.cpp"),
)
"""Metric prefixes of other programs that are mistaken for vLLM, and what these programs are."""

CACHE_CONFIG = "cache_config_info"
LORA_INFO = "lora_requests_info"
LORA_LABELS = frozenset(("max_lora", "running_lora_adapters", "waiting_lora_adapters"))
PROCESS_START = "process_start_time_seconds"
PYTHON_INFO = "python_info"
CREATED = ("prompt_tokens_created",)
"""Creation time that marks the start of the engine; others (HTTP handlers) are created at first use."""
SWAPPED_TIMES_MARK = ("iteration_tokens_total_bucket", 8096.0)
"""Only 0.6.4 and 0.6.4.post1 have a bucket bound of 8096 (a typing error upstream); they observe prefill time as
decode time and the other way round."""
WAITING_BY_REASON = "num_requests_waiting_by_reason"
SWAPPED = "num_requests_swapped"
SPEC_V0_MARK = "spec_decode_draft_acceptance_rate"
"""Only v0 has it; v0's counters of speculation add up cumulative snapshots and cannot be used."""
BY_TRANSFER_TYPE = {
    "kv_offload_load_bytes_total": ("kv_offload_total_bytes_total", "CPU_to_GPU"),
    "kv_offload_load_time_total": ("kv_offload_total_time_total", "CPU_to_GPU"),
    "kv_offload_store_bytes_total": ("kv_offload_total_bytes_total", "GPU_to_CPU"),
    "kv_offload_store_time_total": ("kv_offload_total_time_total", "GPU_to_CPU"),
}
"""Newer name -> the older one (0.16 to 0.23; both since) and the value of its label transfer_type."""


class Transfers(NamedTuple):
    """Samples that count transfers of one KV connector with one result.

    If `label` is set, only series count whose value of that label is `value`, or with `other` any other value.
    """

    name: str
    connector: str
    result: str
    labels: tuple[str, ...] = ()
    """Dimensions of the family: not part of an engine's identity."""
    label: str = ""
    value: str = ""
    other: bool = False


_STORE = ("operation", "status")
KV_TRANSFERS: tuple[Transfers, ...] = (
    # Durations are observed of transfers that completed. NIXL's failed notifications are among its failed transfers
    # since 0.31, so they are never added.
    Transfers("nixl_xfer_time_seconds_count", "nixl", "completed"),
    Transfers("nixl_num_failed_transfers_total", "nixl", "failed"),
    Transfers("nixl_num_kv_expired_reqs_total", "nixl", "expired"),
    Transfers("mooncake_xfer_time_seconds_count", "mooncake", "completed"),
    Transfers("mooncake_num_failed_transfers_total", "mooncake", "failed"),
    Transfers("mooncake_num_failed_recvs_total", "mooncake", "failed"),
    Transfers("mooncake_num_kv_expired_reqs_total", "mooncake", "expired"),
    Transfers("mooncake_store_operation_total", "mooncake_store", "completed", _STORE, "status", "ok"),
    Transfers("mooncake_store_operation_total", "mooncake_store", "failed", _STORE, "status", "ok", other=True),
    Transfers("hf3fs_load_duration_seconds_count", "hf3fs", "completed"),
    Transfers("hf3fs_save_duration_seconds_count", "hf3fs", "completed"),
    Transfers("hf3fs_num_failed_load_total", "hf3fs", "failed"),
    Transfers("hf3fs_num_failed_save_total", "hf3fs", "failed"),
    Transfers("umbp_transfer_completed_total", "umbp", "completed", ("operation",)),
    Transfers("umbp_transfer_failed_total", "umbp", "failed", ("operation",)),
    Transfers("kv_offload_load_size_count", "offloading", "completed"),
    Transfers("kv_offload_store_size_count", "offloading", "completed"),
    Transfers("kv_offload_tiering_promotion_job_failures_total", "offloading", "failed", ("tier",)),
    Transfers("kv_offload_tiering_cascade_job_failures_total", "offloading", "failed", ("tier",)),
    # The cache had no room: usual for a small one; blocks that are not stored are computed again.
    Transfers("kv_offload_allocation_failure_total", "offloading", "refused"),
    Transfers("kv_offload_tiering_promotion_allocation_failures_total", "offloading", "refused"),
)
"""Counters of all KV connectors that vLLM has metrics of. LMCache and MoRIIO have none in vLLM; HiSparse, KVCR and
SimpleCPUOffload count no failures."""
DIMENSIONS: dict[str, tuple[str, ...]] = {
    **{each.name: each.labels for each in KV_TRANSFERS},
    **dict.fromkeys(BY_TRANSFER_TYPE, ("transfer_type",)),
    "num_requests_waiting_by_reason": ("reason",),
}
"""Dimensions of families that are read in addition to the labels of their signals."""
ALSO_READ = (CACHE_CONFIG, LORA_INFO, WAITING_BY_REASON, SWAPPED)
"""Read, but not as a signal of their own."""

CACHE_CONFIG_KEYS = (
    "block_size",
    "cache_dtype",
    "enable_prefix_caching",
    "gpu_memory_utilization",
    "kv_cache_max_concurrency",
    "kv_cache_memory_bytes",
    "kv_cache_size_tokens",
    "mamba_block_size",
    "num_cpu_blocks",
    "num_gpu_blocks",
    "num_gpu_blocks_override",
    "prefix_caching_hash_algo",
    "sliding_window",
)
"""The labels of cache_config_info that are read: its 37 labels change with every release."""


def _counter(
    name: str, unit: Unit, aliases: str, text: str, *labels: str, scope: Scope = Scope.ENGINE, checklist: bool = False
) -> Upstream:
    return Upstream(Signal(name, Kind.COUNTER, unit, text, scope, labels), tuple(aliases.split()), Merge.SUM, checklist)


def _gauge(
    name: str, unit: Unit, aliases: str, text: str, *labels: str, merge: Merge = Merge.MAX, checklist: bool = False
) -> Upstream:
    return Upstream(
        Signal(name, Kind.GAUGE, unit, text, Scope.ENGINE, labels), tuple(aliases.split()), merge, checklist
    )


def _histogram(name: str, unit: Unit, aliases: str, text: str, *, checklist: bool = False) -> Upstream:
    return Upstream(Signal(name, Kind.HISTOGRAM, unit, text), tuple(aliases.split()), Merge.SUM, checklist)


REQUESTS_RUNNING = _gauge(
    "requests_running", Unit.NONE, "num_requests_running",
    "Requests in the running batch after the last engine step.", merge=Merge.SUM, checklist=True,
)  # fmt: skip
REQUESTS_WAITING = _gauge(
    "requests_waiting", Unit.NONE, "num_requests_waiting",
    "Requests that wait to be scheduled: for capacity, deferred (a transfer or a grammar is not ready), swapped out (v0), "
    "or unspecified where vLLM does not split them.",
    "reason", merge=Merge.SUM, checklist=True,
)  # fmt: skip

UPSTREAM: tuple[Upstream, ...] = (
    REQUESTS_RUNNING,
    REQUESTS_WAITING,
    _gauge("kv_cache_usage_ratio", Unit.RATIO, "kv_cache_usage_perc gpu_cache_usage_perc",
           "Share of the KV-cache blocks that requests hold.", checklist=True),
    _gauge("kv_cache_cpu_usage_ratio", Unit.RATIO, "cpu_cache_usage_perc",
           "Share of the CPU swap blocks in use (v0)."),
    _gauge("kv_offload_cpu_cache_usage_ratio", Unit.RATIO, "kv_offload_cpu_cache_usage_perc",
           "Share of the CPU cache of the offloading connector in use."),
    _gauge("prefix_cache_lifetime_hit_ratio", Unit.RATIO, "gpu_prefix_cache_hit_rate",
           "Prefix-cache hit ratio since the server started (v0, which has no counters)."),
    _gauge("spec_decode_lifetime_acceptance_ratio", Unit.RATIO, SPEC_V0_MARK,
           "Accepted share of the draft tokens since the server started (v0, whose counters overcount)."),
    _gauge("spec_decode_lifetime_efficiency_ratio", Unit.RATIO, "spec_decode_efficiency",
           "Emitted tokens over the most that speculation could have emitted since the server started (v0)."),
    _gauge("engine_sleep_state", Unit.NONE, "engine_sleep_state",
           "1 for the state that the engine is in: awake, weights_offloaded (level 1) or discard_all (level 2).",
           "sleep_state"),
    _gauge("engine_healthy", Unit.NONE, "engine_healthy",
           "1 while vLLM reports the engine as healthy, 0 after it failed (needs --enable-fault-tolerance)."),
    _gauge("requests_kv_fetching", Unit.NONE, "num_requests_kv_fetch_by_stage",
           "Requests that wait for KV blocks from a connector, by stage.", "stage", merge=Merge.SUM),
    _counter("prompt_tokens_total", Unit.TOKENS, "prompt_tokens_total",
             "Prompt tokens of requests that reached their first token.", checklist=True),
    _counter("generation_tokens_total", Unit.TOKENS, "generation_tokens_total",
             "Generated tokens.", checklist=True),
    _counter("prompt_tokens_by_source_total", Unit.NONE, "prompt_tokens_by_source_total",
             "Prompt tokens by where their KV came from: computed here, the local cache, or a transfer.", "source"),
    _counter("prompt_tokens_cached_total", Unit.NONE, "prompt_tokens_cached_total",
             "Prompt tokens that a cache provided, local or external."),
    _counter("prompt_tokens_cached_by_source_total", Unit.NONE, "prompt_tokens_cached_by_source_total",
             "Prompt tokens that a cache provided, by the tier that held them.", "source"),
    _counter("prompt_tokens_recomputed_total", Unit.NONE, "prompt_tokens_recomputed_total",
             "Prompt tokens computed again though they were cached (vLLM 0.16 to 0.19)."),
    _counter("preemptions_total", Unit.NONE, "num_preemptions_total",
             "Requests put back to the queue because the KV cache was full.", checklist=True),
    _counter("requests_finished_total", Unit.NONE, "request_success_total",
             "Finished requests by reason. The Python front end does not count client disconnects here.",
             "finished_reason", checklist=True),
    _counter("requests_corrupted_total", Unit.NONE, "corrupted_requests_total",
             "Requests with NaNs in their logits (needs VLLM_COMPUTE_NANS_IN_LOGITS=1)."),
    _counter("requests_rejected_total", Unit.NONE, "admission_rejections_total",
             "Requests that admission control refused, by the limit that was hit.", "reason", scope=Scope.MODEL),
    _counter("tool_call_parser_invocations_total", Unit.NONE, "tool_call_parser_invocations_total",
             "Calls of the tool-call parser; a streamed answer causes one for each delta.",
             "mode", "outcome", "request_type", scope=Scope.MODEL),
    _counter("prefix_cache_queried_tokens_total", Unit.TOKENS,
             "prefix_cache_queries_total gpu_prefix_cache_queries_total",
             "Tokens looked up in the prefix cache.", checklist=True),
    _counter("prefix_cache_hit_tokens_total", Unit.TOKENS, "prefix_cache_hits_total gpu_prefix_cache_hits_total",
             "Tokens found in the prefix cache.", checklist=True),
    _counter("external_prefix_cache_queried_tokens_total", Unit.TOKENS, "external_prefix_cache_queries_total",
             "Tokens looked up in the cache of a KV connector."),
    _counter("external_prefix_cache_hit_tokens_total", Unit.TOKENS, "external_prefix_cache_hits_total",
             "Tokens found in the cache of a KV connector."),
    _counter("multimodal_cache_queried_items_total", Unit.NONE, "mm_cache_queries_total",
             "Multimodal items looked up in the processor cache."),
    _counter("multimodal_cache_hit_items_total", Unit.NONE, "mm_cache_hits_total",
             "Multimodal items found in the processor cache."),
    _counter("spec_decode_drafts_total", Unit.NONE, "spec_decode_num_drafts_total",
             "Drafts that speculative decoding made."),
    _counter("spec_decode_draft_tokens_total", Unit.TOKENS, "spec_decode_num_draft_tokens_total",
             "Draft tokens that speculative decoding proposed."),
    _counter("spec_decode_accepted_tokens_total", Unit.TOKENS, "spec_decode_num_accepted_tokens_total",
             "Draft tokens that the model accepted."),
    _counter("spec_decode_position_accepted_tokens_total", Unit.TOKENS,
             "spec_decode_num_accepted_tokens_per_pos_total",
             "Draft tokens that the model accepted, by position in the draft (from 0).", "position"),
    _counter("estimated_flops_total", Unit.NONE, "estimated_flops_per_gpu_total",
             "Estimated floating point operations per GPU (0 without --enable-mfu-metrics)."),
    _counter("estimated_read_bytes_total", Unit.BYTES, "estimated_read_bytes_per_gpu_total",
             "Estimated bytes read from memory per GPU (0 without --enable-mfu-metrics)."),
    _counter("estimated_written_bytes_total", Unit.BYTES, "estimated_write_bytes_per_gpu_total",
             "Estimated bytes written to memory per GPU (0 without --enable-mfu-metrics)."),
    _counter("kv_offload_loaded_bytes_total", Unit.BYTES, "kv_offload_load_bytes_total",
             "Bytes of KV cache loaded back by the offloading connector."),
    _counter("kv_offload_load_seconds_total", Unit.SECONDS, "kv_offload_load_time_total",
             "Time spent on loading KV cache back."),
    _counter("kv_offload_stored_bytes_total", Unit.BYTES, "kv_offload_store_bytes_total",
             "Bytes of KV cache stored by the offloading connector."),
    _counter("kv_offload_store_seconds_total", Unit.SECONDS, "kv_offload_store_time_total",
             "Time spent on storing KV cache."),
    _counter("nixl_failed_transfers_total", Unit.NONE, "nixl_num_failed_transfers_total",
             "Failed KV transfers of the NIXL connector."),
    _counter("nixl_expired_requests_total", Unit.NONE, "nixl_num_kv_expired_reqs_total",
             "Requests whose KV blocks expired before the NIXL connector fetched them."),
    _histogram("time_to_first_token_seconds", Unit.SECONDS, "time_to_first_token_seconds",
               "From arrival at the front end to the first token; observed when that token arrives.", checklist=True),
    _histogram("inter_token_latency_seconds", Unit.SECONDS,
               "inter_token_latency_seconds time_per_output_token_seconds",
               "Between successive outputs of a request; with speculative decoding an output is a batch of tokens.",
               checklist=True),
    _histogram("time_per_output_token_seconds", Unit.SECONDS, "request_time_per_output_token_seconds",
               "Mean time per output token after the first, one observation per finished request."),
    _histogram("request_seconds", Unit.SECONDS, "e2e_request_latency_seconds",
               "From arrival to the last token; observed when the request finishes.", checklist=True),
    _histogram("request_queue_seconds", Unit.SECONDS, "request_queue_time_seconds time_in_queue_requests",
               "From the first queueing to the first scheduling; observed when the request finishes.", checklist=True),
    _histogram("request_prefill_seconds", Unit.SECONDS, "request_prefill_time_seconds",
               "From the first scheduling to the first token; observed when the request finishes."),
    _histogram("request_decode_seconds", Unit.SECONDS, "request_decode_time_seconds",
               "From the first to the last token; observed when the request finishes."),
    _histogram("request_inference_seconds", Unit.SECONDS, "request_inference_time_seconds",
               "From the first scheduling to the last token; observed when the request finishes."),
    _histogram("request_prompt_tokens", Unit.TOKENS, "request_prompt_tokens",
               "Prompt tokens per finished request.", checklist=True),
    _histogram("request_generation_tokens", Unit.TOKENS, "request_generation_tokens",
               "Generated tokens per finished request.", checklist=True),
    _histogram("request_max_generation_tokens", Unit.TOKENS, "request_max_num_generation_tokens",
               "Most tokens that any sequence of a request generated."),
    _histogram("request_params_max_tokens", Unit.TOKENS, "request_params_max_tokens",
               "The max_tokens parameter of requests."),
    _histogram("request_params_n", Unit.NONE, "request_params_n", "The n parameter of requests."),
    _histogram("request_prefill_computed_tokens", Unit.TOKENS, "request_prefill_kv_computed_tokens",
               "Prompt tokens per request that were computed, not cached."),
    _histogram("request_preemptions", Unit.NONE, "request_num_preemptions", "Preemptions per finished request."),
    _histogram("iteration_tokens", Unit.TOKENS, "iteration_tokens_total",
               "Tokens that one engine step handled; a step without output is not observed."),
    _histogram("kv_block_lifetime_seconds", Unit.SECONDS, "kv_block_lifetime_seconds",
               "Lifetime of sampled KV blocks (needs --kv-cache-metrics)."),
    _histogram("kv_block_idle_seconds", Unit.SECONDS, "kv_block_idle_before_evict_seconds",
               "Idle time of sampled KV blocks before eviction (needs --kv-cache-metrics)."),
    _histogram("kv_block_reuse_gap_seconds", Unit.SECONDS, "kv_block_reuse_gap_seconds",
               "Time between two uses of sampled KV blocks (needs --kv-cache-metrics)."),
    _histogram("nixl_transfer_seconds", Unit.SECONDS, "nixl_xfer_time_seconds",
               "Duration of KV transfers of the NIXL connector."),
)  # fmt: skip

HTTP_REQUESTS = _counter(
    "http_requests_total", Unit.NONE, "http_requests_total",
    "HTTP requests by route, method and status class, counted when the answer ended. vLLM 0.22 returns 5xx for bad requests.",
    "handler", "method", "status", scope=Scope.TARGET,
)  # fmt: skip
"""Exposed by the front end, not by vLLM, so its name has no prefix."""
HTTP_ANSWER_BYTES = "http_response_size_bytes"
"""Summary of the Content-Length of HTTP answers by route (label handler); a streamed one counts as 0."""
GENERATING_ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
"""Routes whose answers may be streamed."""
OPEN_FDS = Upstream(
    Signal(
        "server_open_fds", Kind.GAUGE, Unit.NONE,
        "Open file descriptors of the API server: each open connection is one. Absent with several API servers.",
        Scope.TARGET,
    ),
    ("process_open_fds",),
)  # fmt: skip
"""A front end counts HTTP requests when they end; while an engine hangs, arrivals are visible here."""

TRANSFERS = Upstream(
    Signal(
        "kv_transfers_total", Kind.COUNTER, Unit.NONE,
        "Transfers of KV blocks, and operations of a KV store, of each connector by result: completed, failed, expired "
        "(requests whose blocks were not fetched in time; the prefill side counts them) or refused (the cache had no "
        "room).",
        labels=("connector", "result"),
    ),
    tuple(dict.fromkeys(each.name for each in KV_TRANSFERS)),
)  # fmt: skip
"""Unlike those of other signals its names are added up, as KV_TRANSFERS lists them."""

KNOWN_PATTERNS = (
    r"avg_(prompt|generation)_throughput_toks_per_s",
    r"tokens_total",
    r"cpu_prefix_cache_hit_rate",
    r"num_requests_swapped",
    r"num_requests_waiting_by_reason",
    r"model_(forward|execute)_time_milliseconds",
    r"request_params_best_of",
    r"spec_decode_num_emitted_tokens_total",
    r"websocket_\w+",
    r"(nixl|mooncake|hf3fs|hisparse|kvcr|umbp)_\w+",
    r"(simple_)?kv_offload_\w+",
    r"(sleep_mode|rl_weight_update)_operation\w+",
    r"watermark_requests_total",
    r"diffusion_\w+",
    r"cache_config_info",
    r"lora_requests_info",
)
"""Known families that are not re-exported: replaced, experimental, or read for another purpose."""

CANONICAL_SOURCES = {entry.signal.name: PREFIXES[0] + entry.aliases[0] for entry in UPSTREAM} | {
    entry.signal.name: entry.aliases[0] for entry in (HTTP_REQUESTS, OPEN_FDS)
}
"""Signal -> vLLM's newest own name for it, for help texts and documents."""
