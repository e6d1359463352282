"""The function that computes each derived signal of the catalog.

It takes the inputs of the signal's scope (see `derive.inputs`) and returns a float, a mapping from label values to
float, a Summary, or None (or an empty mapping) if the value is unknown; nothing is exported then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.derived import LATENCIES
from vllm_sidecar.derive import (
    admission,
    data_parallel,
    gpu_efficiency,
    kv_cache,
    latency,
    lora,
    outcomes,
    prefix_cache,
    queue,
    saturation,
    speculative,
    stalls,
    throughput,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DERIVATIONS: dict[str, Callable[..., object]] = {
    **{f"recent_{histogram}": latency.quantiles_of(histogram) for histogram in LATENCIES.values()},
    "recent_latency_observations": latency.observations,
    "recent_latency_bound_seconds": latency.p95_bounds,
    "recent_time_to_first_token_share_ratio": latency.first_token_shares,
    "live_queue_wait_seconds": queue.live_wait_seconds,
    "admission_limit": admission.admission_limit,
    "recent_requests_running_peak": queue.peak_of("requests_running"),
    "recent_requests_running_mean": queue.mean_of("requests_running"),
    "recent_requests_waiting_peak": queue.peak_of("requests_waiting"),
    "recent_requests_waiting_mean": queue.mean_of("requests_waiting"),
    "recent_kv_cache_usage_peak_ratio": queue.peak_of(kv_cache.USAGE),
    "recent_kv_cache_usage_mean_ratio": queue.mean_of(kv_cache.USAGE),
    "kv_cache_capacity_tokens": kv_cache.capacity_tokens,
    "kv_cache_free_tokens": kv_cache.free_tokens,
    "kv_cache_time_to_full_seconds": kv_cache.seconds_to_full,
    "recent_preemptions_per_request": kv_cache.preemptions_per_request,
    "kv_cache_pressure_ratio": kv_cache.pressure,
    "kv_cache_held_ratio": kv_cache.held_ratio,
    "recent_cache_hit_ratio": prefix_cache.hit_ratio,
    "recent_prompt_tokens_per_second": throughput.rate_of("prompt_tokens_total"),
    "recent_generation_tokens_per_second": throughput.rate_of("generation_tokens_total"),
    "recent_requests_per_second": throughput.requests_per_second,
    "recent_prompt_computed_ratio": throughput.computed_prompt_ratio,
    "recent_step_mean_tokens": throughput.tokens_per_step,
    "recent_batch_occupancy_ratio": throughput.batch_occupancy,
    "recent_spec_decode_acceptance_ratio": speculative.acceptance_ratio,
    "recent_spec_decode_accepted_length_tokens": speculative.accepted_length,
    "recent_spec_decode_position_acceptance_ratio": speculative.position_acceptance,
    "recent_spec_decode_wasted_tokens_per_second": speculative.wasted_rate,
    "recent_requests": outcomes.outcomes,
    "progress_age_seconds": stalls.age_seconds,
    "stalled": stalls.stalled,
    "work_without_progress_seconds": stalls.waited_seconds,
    "stall_corroborated": stalls.stall_corroborated,
    "gauges_stale": stalls.gauges_stale,
    "clients_left": stalls.clients_left,
    "engine_sleeping": stalls.sleeping,
    "saturation_ratio": saturation.saturation,
    "headroom_requests_per_second": saturation.headroom_requests,
    "headroom_tokens_per_second": saturation.headroom_tokens,
    "capacity_limit": saturation.first_limit,
    "data_parallel_engines": data_parallel.engines,
    "recent_data_parallel_imbalance_ratio": data_parallel.imbalance,
    "recent_requests_rejected": outcomes.rejected,
    "recent_http_error_ratio": outcomes.http_errors,
    "recent_error_ratio": outcomes.error_ratio,
    "lora_adapter_active": lora.active,
    "lora_adapters_omitted": lora.omitted,
    "lora_slots": lora.slots,
    "lora_slots_used": lora.slots_used,
    "recent_gpu_tokens_per_joule": gpu_efficiency.tokens_per_joule,
    "recent_gpu_request_watts": gpu_efficiency.request_watts,
    "recent_gpu_generation_tokens_per_second": gpu_efficiency.generation_tokens_per_second,
    "recent_gpu_imbalance_ratio": gpu_efficiency.imbalance,
    "gpu_busy_without_progress": gpu_efficiency.busy_without_progress,
    "gpu_starved": gpu_efficiency.starved,
    "gpu_memory_growth_bytes": gpu_efficiency.memory_growth,
}
"""By the name of the signal; a test compares it with the catalog."""
