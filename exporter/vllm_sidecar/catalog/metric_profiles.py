"""Profiles of the exported metrics: how many signals of the catalog a scrape has.

A histogram of vLLM has a series for each bucket, and is most of a scrape; the signals that one profile leaves out are
still computed, and the status page shows them.
"""

from __future__ import annotations

from enum import StrEnum

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.types import Scope


class MetricProfile(StrEnum):
    """A choice of signals to export; each has all of the one before."""

    LEAN = "lean"
    """Signals that alerts, recording rules and the overview dashboard read."""
    DEFAULT = "default"
    """All but the histograms that no rule, dashboard or runbook reads."""
    FULL = "full"
    """All signals."""


LEAN = frozenset(
    (
        "requests_running",
        "requests_waiting",
        "kv_cache_usage_ratio",
        "prompt_tokens_total",
        "generation_tokens_total",
        "preemptions_total",
        "requests_finished_total",
        "requests_corrupted_total",
        "requests_rejected_total",
        "spec_decode_drafts_total",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "time_per_output_token_seconds",
        "request_seconds",
        "request_generation_tokens",
        "kv_transfers_total",
        "recent_time_to_first_token_seconds",
        "recent_inter_token_latency_seconds",
        "live_queue_wait_seconds",
        "admission_limit",
        "recent_requests_running_peak",
        "recent_kv_cache_usage_peak_ratio",
        "recent_preemptions_per_request",
        "kv_cache_pressure_ratio",
        "kv_cache_held_ratio",
        "recent_cache_hit_ratio",
        "recent_prompt_tokens_per_second",
        "recent_generation_tokens_per_second",
        "recent_requests_per_second",
        "recent_spec_decode_accepted_length_tokens",
        "recent_requests",
        "progress_age_seconds",
        "stalled",
        "work_without_progress_seconds",
        "gauges_stale",
        "clients_left",
        "engine_sleeping",
        "saturation_ratio",
        "data_parallel_engines",
        "recent_data_parallel_imbalance_ratio",
        "recent_error_ratio",
        "lora_adapter_active",
        "lora_slots",
        "lora_slots_used",
        "recent_gpu_imbalance_ratio",
        "gpu_busy_without_progress",
        "gpu_starved",
        "server_config_info",
        "config_changes_total",
        "server_restarts_total",
        "server_startup_seconds",
        "gpu_sm_clock_hertz",
        "gpu_throttled",
        "gpu_sm_clock_max_hertz",
        "gpu_ecc_volatile_errors_total",
        "gpu_remapped_rows_total",
        "gpu_row_remap_pending",
        "gpu_row_remap_failure",
        "gpu_retired_pages_pending",
        "gpu_recovery_action",
        "gpu_lost",
        "gpu_xid_errors_total",
        "gpu_xid_last_timestamp_seconds",
        "canary_requests_total",
        "canary_consecutive_failures",
        "canary_consecutive_wrong_outputs",
        "canary_output_state",
        "canary_baseline_changes_total",
        "slo_requests_total",
        "slo_good_requests_total",
        "slo_threshold_seconds",
        "up",
        "model_up",
        "watched_since_timestamp_seconds",
        "last_success_timestamp_seconds",
        "last_success_age_seconds",
        "poll_failures_total",
        "polls_total",
        "poll_interval_seconds",
        "target_certificate_not_after_timestamp_seconds",
        "target_certificate_not_before_timestamp_seconds",
        "poll_server_time_ratio",
        "unknown_families",
        "signal_missing",
    )
)
"""Signals of the profile `lean`, besides those of the sidecar itself; a test compares them with rules and overview."""

ONLY_FULL = frozenset(
    (
        "request_inference_seconds",
        "request_max_generation_tokens",
        "request_params_n",
        "request_prefill_computed_tokens",
        "request_preemptions",
    )
)
"""Histograms that nothing generated reads; the summaries and counters made from them are in `default`."""


def exported(profile: MetricProfile) -> frozenset[str]:
    """Return the names of the signals of a profile."""
    if profile is MetricProfile.LEAN:
        return LEAN | {signal.name for signal in SIGNALS.values() if signal.scope is Scope.SIDECAR}
    return frozenset(SIGNALS) - (ONLY_FULL if profile is MetricProfile.DEFAULT else frozenset())
