"""The truth of each derived signal with the error that is allowed, and the signals without a truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from truth.signals import (
    FIRST_BOUNDS,
    HISTOGRAMS,
    Truth,
    accepted_length,
    active,
    adapters,
    bounds,
    capacity,
    computed,
    counted,
    each,
    error_ratio,
    finished,
    first_token_shares,
    free_tokens,
    gauge,
    held,
    hits,
    http_errors,
    imbalance,
    key,
    left,
    limit,
    live_wait,
    lora,
    observations,
    occupancy,
    outcomes,
    positions,
    preemptions_per_request,
    progress_age,
    quantiles,
    rate,
    ratio,
    several,
    sleeping,
    stalled,
    step_tokens,
    time_to_full,
    waited,
    wasted,
)
from vllm_sidecar.catalog.derived import LATENCIES

if TYPE_CHECKING:
    from collections.abc import Mapping

TRUTHS: Mapping[str, Truth] = {
    **{f"recent_{histogram}": Truth(quantiles(HISTOGRAMS[latency]), 1.5, 0.15, FIRST_BOUNDS[latency], sometimes=True)
       for latency, histogram in LATENCIES.items()},
    **{f"recent_{histogram}_count": Truth(counted(HISTOGRAMS[latency]), floor=1.0)
       for latency, histogram in LATENCIES.items()},
    "recent_latency_observations": Truth(several(observations, "latency"), floor=1.0),
    "recent_latency_bound_seconds": Truth(bounds),
    "recent_time_to_first_token_share_ratio": Truth(
        several(first_token_shares, "part"), 0.7, 0.05, sometimes=True),
    "live_queue_wait_seconds": Truth(each(live_wait), 3.0, 0.35, 5.0, sometimes=True),
    "admission_limit": Truth(several(limit, "limit"), 1.0, 0.02, sometimes=True),
    "recent_requests_running_peak": Truth(gauge("running", "peak"), 0.6, 0.25, 4.0),
    "recent_requests_running_mean": Truth(gauge("running", "mean"), 0.3, 0.05, 4.0),
    "recent_requests_waiting_peak": Truth(gauge("waiting", "peak"), 1.0, 0.15, 4.0),
    "recent_requests_waiting_mean": Truth(gauge("waiting", "mean"), 0.2, 0.05, 4.0),
    "recent_kv_cache_usage_peak_ratio": Truth(gauge("usage", "peak"), 0.1, 0.04),
    "recent_kv_cache_usage_mean_ratio": Truth(gauge("usage", "mean"), 0.03, 0.01),
    "kv_cache_capacity_tokens": Truth(each(lambda view, _: capacity(view))),
    "kv_cache_free_tokens": Truth(each(free_tokens), 1e-6),
    "kv_cache_time_to_full_seconds": Truth(each(time_to_full), 1e-6, floor=1.0, sometimes=True),
    "recent_preemptions_per_request": Truth(each(preemptions_per_request), sometimes=True),
    "kv_cache_held_ratio": Truth(each(held)),
    "recent_cache_hit_ratio": Truth(several(hits, "cache")),
    "recent_prompt_tokens_per_second": Truth(each(rate("prompt_tokens")), floor=1.0),
    "recent_generation_tokens_per_second": Truth(each(rate("generation_tokens")), floor=1.0),
    "recent_requests_per_second": Truth(
        each(lambda view, engine: sum(finished(view, engine).values()) / view.spans[engine].seconds), floor=0.1),
    "recent_prompt_computed_ratio": Truth(each(computed)),
    "recent_step_mean_tokens": Truth(each(step_tokens), floor=1.0),
    "recent_batch_occupancy_ratio": Truth(
        each(occupancy), 0.1, 0.02, sometimes=True),
    "recent_spec_decode_acceptance_ratio": Truth(each(ratio("accepted_tokens", "draft_tokens"))),
    "recent_spec_decode_accepted_length_tokens": Truth(each(accepted_length)),
    "recent_spec_decode_position_acceptance_ratio": Truth(several(positions, "position")),
    "recent_spec_decode_wasted_tokens_per_second": Truth(each(wasted), floor=1.0),
    "recent_requests": Truth(several(outcomes, "outcome"), 0.4, 0.03, 5.0, sometimes=True),
    "progress_age_seconds": Truth(each(progress_age), 1.2, sometimes=True),
    "stalled": Truth(each(stalled), 0.0, sometimes=True),
    "work_without_progress_seconds": Truth(each(waited), 11.0, sometimes=True),
    "gauges_stale": Truth(each(left), 0.0, sometimes=True),
    "clients_left": Truth(each(left), 0.0, sometimes=True),
    "engine_sleeping": Truth(each(sleeping), 0.0),
    "data_parallel_engines": Truth(lambda view: {key(): len(view.spans)}, 0.0),
    "recent_data_parallel_imbalance_ratio": Truth(imbalance, 0.1, 0.02, sometimes=True),
    "recent_requests_rejected": Truth(lambda view: {key(reason="max_num_queued_reqs"): view.rejected()}),
    "recent_http_error_ratio": Truth(http_errors),
    "recent_error_ratio": Truth(error_ratio, sometimes=True),
    "lora_adapter_active": Truth(lora(active)),
    "lora_adapters_omitted": Truth(lora(lambda _: {key(): 0.0})),
    "lora_slots": Truth(lora(lambda view: {key(): float(view.log.settings.max_loras)})),
    "lora_slots_used": Truth(lora(lambda view: {key(): sum(state == "running" for _, state in adapters(view))})),
}  # fmt: skip

SCORE = "a score, whose parts are in this table: no log says how near a server is to its limits"
CALIBRATED = "a prediction for loads that were not sent; tests/derive/test_saturation_calibrated.py sends them"
GPUS = "a request log has no GPUs; tests/derive and the hardware test compare it with power and energy"
WITHOUT: Mapping[str, str] = {
    "kv_cache_pressure_ratio": SCORE,
    "saturation_ratio": SCORE,
    "headroom_requests_per_second": CALIBRATED,
    "headroom_tokens_per_second": CALIBRATED,
    "capacity_limit": CALIBRATED,
    "stall_corroborated": "evidence for `stalled`, which is in this table",
    "recent_gpu_tokens_per_joule": GPUS,
    "recent_gpu_request_watts": GPUS,
    "recent_gpu_generation_tokens_per_second": GPUS,
    "recent_gpu_imbalance_ratio": GPUS,
    "gpu_busy_without_progress": GPUS,
    "gpu_starved": GPUS,
    "gpu_memory_growth_bytes": GPUS,
}
"""Signals that a request log cannot decide, and why."""
