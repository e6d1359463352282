"""Signals that the sidecar derives from its windows, with the reason why Prometheus could not compute them."""

from __future__ import annotations

from vllm_sidecar.catalog.types import Derived, Kind, Scope, Signal, Unit

LATENCIES = {
    "queue": "request_queue_seconds",
    "time_to_first_token": "time_to_first_token_seconds",
    "inter_token_latency": "inter_token_latency_seconds",
    "time_per_output_token": "time_per_output_token_seconds",
    "request": "request_seconds",
    "prefill": "request_prefill_seconds",
    "decode": "request_decode_seconds",
}
"""Value of the label `latency` -> histogram."""
BETWEEN_SCRAPES = "Prometheus sees one poll in fifteen; peaks between two scrapes are invisible to it."
ONE_PROCESS = (
    "rate() needs several scrapes, extrapolates to the ends of its range and misses a restart after which counters have already passed "
    "their old values; this window ends at a restart."
)
INSIDE_BUCKETS = (
    "histogram_quantile() assumes that values are spread evenly within wide buckets, whose series one scrape does not store together; the "
    "sidecar has counts and sums of the same body every second."
)
COMPARES_POLLS = (
    "It compares several gauges of the same poll over the window; Prometheus does not store consecutive polls."
)
REMEMBERS = "It needs the time of the last change of any of several series, beyond the range of a query."
NEEDS_FLAGS = "It joins metrics with flags and texts that vLLM does not expose as numbers."
MODELS_LOAD = "It needs flags, the cost of steps that is learned from the polls of many minutes, and the root of a queueing model; PromQL has no iteration."
_LOAD = "requests_running inter_token_latency_seconds time_to_first_token_seconds request_prefill_seconds"
JOINS_SOURCES = (
    "It joins the engine's polls with those of its GPUs at the same times; Prometheus sees neither of them between two scrapes, "
    "and has no mapping of GPUs to servers."
)
TEXT_LABELS = "PromQL cannot split a comma-joined label value, nor pick the newest of stale series by their value."


def _row(
    name: str,
    unit: Unit,
    reads: str,
    why: str,
    text: str,
    *labels: str,
    scope: Scope = Scope.ENGINE,
    kind: Kind = Kind.GAUGE,
) -> Derived:
    return Derived(Signal(name, kind, unit, text, scope, labels, why), tuple(reads.split()))


def _latency(name: str, text: str) -> Derived:
    return _row(
        f"recent_{name}", Unit.SECONDS, name, INSIDE_BUCKETS,
        f"{text}: quantiles over the last {{window}}, sum and count since the server started.",
        kind=Kind.SUMMARY,
    )  # fmt: skip


DERIVED: tuple[Derived, ...] = (
    _latency("request_queue_seconds", "Time in the queue of finished requests"),
    _latency("time_to_first_token_seconds", "Time to the first token"),
    _latency("inter_token_latency_seconds", "Time between successive outputs"),
    _latency("time_per_output_token_seconds", "Mean time per output token of finished requests"),
    _latency("request_seconds", "Time from arrival to the last token of finished requests"),
    _latency("request_prefill_seconds", "Prefill time of finished requests"),
    _latency("request_decode_seconds", "Decode time of finished requests"),
    _row("recent_latency_observations", Unit.NONE, " ".join(LATENCIES.values()), INSIDE_BUCKETS,
         "Observations in the last {window} behind the recent quantiles.", "latency"),
    _row("recent_latency_bound_seconds", Unit.SECONDS, " ".join(LATENCIES.values()), INSIDE_BUCKETS,
         "Bounds of the bucket that certainly holds the recent p95; without an upper one beyond the last bound.", "latency", "bound"),
    _row("recent_time_to_first_token_share_ratio", Unit.RATIO,
         "time_to_first_token_seconds request_queue_seconds request_prefill_seconds request_decode_seconds", ONE_PROCESS,
         "Parts of the mean time to the first token of requests that finished in the last {window}: queue, prefill, other.", "part"),
    _row("live_queue_wait_seconds", Unit.SECONDS,
         "requests_waiting time_to_first_token_seconds", REMEMBERS,
         "Estimated wait of a request that arrives now: waiting / admission rate, at least the time since the last admission."),
    _row("admission_limit", Unit.NONE,
         "requests_waiting requests_running kv_cache_usage_ratio preemptions_total requests_kv_fetching", NEEDS_FLAGS,
         "1 for the limit that requests wait for now, otherwise 0: batch (--max-num-seqs), kv_cache, adapter (LoRA slots), transfer (KV blocks or a "
         "grammar that is not ready), or unknown; absent while none waits.", "limit"),
    _row("recent_requests_running_peak", Unit.NONE, "requests_running", BETWEEN_SCRAPES,
         "Most requests running at any poll of the last {window}."),
    _row("recent_requests_running_mean", Unit.NONE, "requests_running", BETWEEN_SCRAPES,
         "Mean of the requests running over the polls of the last {window}."),
    _row("recent_requests_waiting_peak", Unit.NONE, "requests_waiting", BETWEEN_SCRAPES,
         "Most requests waiting at any poll of the last {window}."),
    _row("recent_requests_waiting_mean", Unit.NONE, "requests_waiting", BETWEEN_SCRAPES,
         "Mean of the requests waiting over the polls of the last {window}."),
    _row("recent_kv_cache_usage_peak_ratio", Unit.RATIO, "kv_cache_usage_ratio", BETWEEN_SCRAPES,
         "Highest KV-cache usage at any poll of the last {window}."),
    _row("recent_kv_cache_usage_mean_ratio", Unit.RATIO, "kv_cache_usage_ratio", BETWEEN_SCRAPES,
         "Mean KV-cache usage over the polls of the last {window}."),
    _row("kv_cache_capacity_tokens", Unit.TOKENS, "", NEEDS_FLAGS,
         "Tokens that one engine's KV cache holds."),
    _row("kv_cache_free_tokens", Unit.TOKENS, "kv_cache_usage_ratio", NEEDS_FLAGS,
         "Tokens that fit into one engine's KV cache now."),
    _row("kv_cache_time_to_full_seconds", Unit.SECONDS, "kv_cache_usage_ratio", ONE_PROCESS,
         "Time until the KV cache is full at the growth of the last {window}; absent while it does not grow."),
    _row("recent_preemptions_per_request", Unit.NONE, "preemptions_total request_seconds requests_running", ONE_PROCESS,
         "Preemptions per finished request in the last {window}; per request that ran if none finished."),
    _row("kv_cache_pressure_ratio", Unit.RATIO, "kv_cache_usage_ratio preemptions_total requests_waiting request_seconds",
         COMPARES_POLLS,
         "KV pressure from 0 to 1 in the last {window}: the largest of the share of preempted requests, usage while requests waited for "
         "capacity with a nearly full cache, and usage above 0.9 (up to 0.5)."),
    _row("kv_cache_held_ratio", Unit.RATIO, "kv_cache_usage_ratio requests_running requests_waiting", COMPARES_POLLS,
         "KV-cache usage of an engine with nothing running or waiting at any poll of the last {window}, otherwise 0: blocks that are not freed."),
    _row("recent_cache_hit_ratio", Unit.RATIO, "prefix_cache_hit_tokens_total prefix_cache_queried_tokens_total external_prefix_cache_hit_tokens_total "
         "external_prefix_cache_queried_tokens_total multimodal_cache_hit_items_total multimodal_cache_queried_items_total", ONE_PROCESS,
         "Hits / queries of the prefix cache (local), a KV connector (external) and the multimodal cache in the last {window}.", "cache"),
    _row("recent_prompt_tokens_per_second", Unit.TOKENS_PER_SECOND, "prompt_tokens_total", ONE_PROCESS,
         "Prompt tokens per second in the last {window}."),
    _row("recent_generation_tokens_per_second", Unit.TOKENS_PER_SECOND, "generation_tokens_total",
         ONE_PROCESS, "Generated tokens per second in the last {window}."),
    _row("recent_requests_per_second", Unit.PER_SECOND, "requests_finished_total request_seconds", ONE_PROCESS,
         "Requests per second that finished in the last {window}, including those that no gauge showed."),
    _row("recent_prompt_computed_ratio", Unit.RATIO,
         "prompt_tokens_by_source_total prompt_tokens_total prompt_tokens_cached_total", ONE_PROCESS,
         "Share of the prompt tokens of the last {window} that were computed, not taken from a cache."),
    _row("recent_step_mean_tokens", Unit.TOKENS, "iteration_tokens", ONE_PROCESS,
         "Mean tokens per engine step in the last {window}."),
    _row("recent_batch_occupancy_ratio", Unit.RATIO, "requests_running", NEEDS_FLAGS,
         "Mean of running requests / --max-num-seqs over the last {window}."),
    _row("recent_spec_decode_acceptance_ratio", Unit.RATIO,
         "spec_decode_draft_tokens_total spec_decode_accepted_tokens_total", ONE_PROCESS,
         "Accepted / draft tokens in the last {window}."),
    _row("recent_spec_decode_accepted_length_tokens", Unit.TOKENS,
         "spec_decode_drafts_total spec_decode_accepted_tokens_total", ONE_PROCESS,
         "Mean tokens per step of the model with speculation in the last {window}: 1 + accepted / drafts."),
    _row("recent_spec_decode_position_acceptance_ratio", Unit.RATIO,
         "spec_decode_drafts_total spec_decode_position_accepted_tokens_total", ONE_PROCESS,
         "Share of the drafts of the last {window} whose token at the position was accepted.", "position"),
    _row("recent_spec_decode_wasted_tokens_per_second", Unit.TOKENS_PER_SECOND,
         "spec_decode_draft_tokens_total spec_decode_accepted_tokens_total", ONE_PROCESS,
         "Draft tokens per second of the last {window} that were rejected."),
    _row("recent_requests", Unit.NONE, "requests_finished_total time_to_first_token_seconds requests_running",
         COMPARES_POLLS,
         "Requests that ended in the last {window}: finished, failed, aborted (estimated where the front end does not count disconnects).",
         "outcome"),
    _row("progress_age_seconds", Unit.SECONDS,
         "iteration_tokens generation_tokens_total prompt_tokens_total kv_cache_usage_ratio request_seconds", REMEMBERS,
         "Time since any progress signal of the engine changed; grows on an idle engine too."),
    _row("stalled", Unit.NONE, "requests_running requests_waiting http_requests_total server_open_fds engine_healthy", REMEMBERS,
         "1 while clients have waited without any progress for longer than progress.stall_after, or vLLM reports the engine as failed."),
    _row("work_without_progress_seconds", Unit.SECONDS,
         "requests_running requests_waiting http_requests_total server_open_fds", REMEMBERS,
         "How long clients have been waiting without any progress of the engine; 0 while none is known to wait."),
    _row("stall_corroborated", Unit.NONE, "requests_waiting http_requests_total server_open_fds engine_healthy", REMEMBERS,
         "1 for each signal that corroborates a stall, otherwise 0; present only while the engine looks frozen.", "signal"),
    _row("gauges_stale", Unit.NONE, "requests_running requests_waiting http_requests_total", REMEMBERS,
         "1 while running or waiting are above 0 but frozen: their clients left, or nothing moves and no signal shows that clients wait."),
    _row("clients_left", Unit.NONE, "requests_running requests_waiting http_requests_total requests_finished_total",
         REMEMBERS,
         "1 while running or waiting are above 0 although the clients of as many requests have left: the engine is idle."),
    _row("engine_sleeping", Unit.NONE, "engine_sleep_state", COMPARES_POLLS,
         "1 while the engine sleeps, 0 while it is awake."),
    _row("saturation_ratio", Unit.RATIO,
         "requests_running requests_waiting kv_cache_usage_ratio preemptions_total iteration_tokens inter_token_latency_seconds "
         "time_to_first_token_seconds request_prefill_seconds", MODELS_LOAD,
         "Load over the last {window} as a share of the largest load within the objective for the time to the first token, 0 to 1, for HPA and "
         "KEDA; absent under a load for which no limit is known yet; `model` is a valid Kubernetes label value.", "model"),
    _row("headroom_requests_per_second", Unit.PER_SECOND, _LOAD, MODELS_LOAD,
         "Further requests per second, like those of the last {window}, that fit within the objective for the time to the first token; negative "
         "in an overload, absent without requests."),
    _row("headroom_tokens_per_second", Unit.TOKENS_PER_SECOND, _LOAD, MODELS_LOAD,
         "The same in tokens per second: of prompts that must be computed, and generated.", "tokens"),
    _row("capacity_limit", Unit.NONE, _LOAD, MODELS_LOAD,
         "1 for the limit that a rising load meets first, otherwise 0: batch (--max-num-seqs), kv_cache, adapter (LoRA slots), prefill (token "
         "budget), decode (time of steps), or unknown; absent without requests.", "limit"),
    _row("data_parallel_engines", Unit.NONE, "", NEEDS_FLAGS,
         "Engines that the server reports for the model.", scope=Scope.MODEL),
    _row("recent_data_parallel_imbalance_ratio", Unit.RATIO,
         "requests_running requests_waiting generation_tokens_total", COMPARES_POLLS,
         "1 - mean / max over the engines of a model in the last {window}: 0 is balanced.", "load", scope=Scope.MODEL),
    _row("recent_requests_rejected", Unit.NONE, "requests_rejected_total", ONE_PROCESS,
         "Requests that admission control refused in the last {window}.", "reason", scope=Scope.MODEL),
    _row("recent_http_error_ratio", Unit.RATIO, "http_requests_total", ONE_PROCESS,
         "Share of the HTTP POST requests of the last {window} that ended as 4xx (client) or 5xx (server).", "side", scope=Scope.TARGET),
    _row("recent_error_ratio", Unit.RATIO, "http_requests_total requests_finished_total", COMPARES_POLLS,
         "Share of the requests of the last {window} that failed on the server's side: engine errors or HTTP 5xx.", scope=Scope.TARGET),
    _row("lora_adapter_active", Unit.NONE, "", TEXT_LABELS,
         "1 for each LoRA adapter that has requests running or waiting (active where vLLM does not report which).",
         "lora_adapter", "state", scope=Scope.TARGET),
    _row("lora_adapters_omitted", Unit.NONE, "", TEXT_LABELS,
         "LoRA adapters with requests that are not exported, beyond the limit.", scope=Scope.TARGET),
    _row("lora_slots", Unit.NONE, "", TEXT_LABELS, "LoRA adapters that fit into a batch (--max-loras).", scope=Scope.TARGET),
    _row("lora_slots_used", Unit.NONE, "", TEXT_LABELS, "LoRA adapters with running requests.", scope=Scope.TARGET),
    _row("recent_gpu_tokens_per_joule", Unit.TOKENS_PER_JOULE,
         "prompt_tokens_total generation_tokens_total gpu_energy_joules_total gpu_power_watts", JOINS_SOURCES,
         "Tokens per joule that the server's GPUs used in the last {window}: prompt or generation.", "tokens", scope=Scope.TARGET),
    _row("recent_gpu_request_watts", Unit.WATTS, "requests_running gpu_power_watts", JOINS_SOURCES,
         "Mean power of the server's GPUs in the last {window} per running request.", scope=Scope.TARGET),
    _row("recent_gpu_generation_tokens_per_second", Unit.TOKENS_PER_SECOND,
         "generation_tokens_total", JOINS_SOURCES,
         "Generated tokens per second in the last {window}, per GPU of the server.", scope=Scope.TARGET),
    _row("recent_gpu_imbalance_ratio", Unit.RATIO, "gpu_utilization_ratio gpu_power_watts gpu_sm_active_ratio",
         JOINS_SOURCES,
         "1 - min / max over the GPUs of one engine in the last {window}, of the worst engine: a straggler makes it rise.",
         "load", scope=Scope.TARGET),
    _row("gpu_busy_without_progress", Unit.NONE,
         "requests_running requests_waiting gpu_utilization_ratio gpu_power_watts gpu_power_limit_watts", JOINS_SOURCES,
         "1 while an engine has work and makes no progress although its GPUs are busy, by their power: low is typical of a dead collective.",
         "power", scope=Scope.TARGET),
    _row("gpu_starved", Unit.NONE, "requests_waiting gpu_utilization_ratio", JOINS_SOURCES,
         "1 while requests have waited for 10 s or more and every GPU of the server is idle.", scope=Scope.TARGET),
    _row("gpu_memory_growth_bytes", Unit.BYTES, "generation_tokens_total gpu_memory_used_bytes", REMEMBERS,
         "Growth of the memory in use since the server warmed up; negative where it shrank.", "gpu", "uuid", scope=Scope.TARGET),
)  # fmt: skip
