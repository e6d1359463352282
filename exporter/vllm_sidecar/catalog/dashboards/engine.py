"""Engine: one replica, the eight families of the checklist."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.factories import (
    ENGINE,
    LIMIT_HELP,
    NO_SIDECAR,
    NO_SIDECAR_SHORT,
    PARTS,
    SERVER,
    bounds,
    heatmap,
    lines,
    number,
    quantiles,
    states,
)
from vllm_sidecar.catalog.dashboards.panel import Color, Dashboard, Query, Row
from vllm_sidecar.catalog.dashboards.server_state import SERVER_STATE, SERVER_STATES
from vllm_sidecar.catalog.types import Unit

_FEW = "Too few requests finished for quantiles."
_P95 = "Bounds of the histogram bucket that certainly holds p95, and the p95 that the sidecar estimates within it."

ENGINE_DASHBOARD = Dashboard(
    "vllm-engine",
    "vLLM · Engine",
    "One replica: queue, TTFT, ITL, KV cache, preemptions, running and waiting, prefix cache, throughput. Choose an instance above.",
    (
        Row(
            "What is it doing?",
            (
                states("Which state was it in, and since when?", "The state in words; marks are restarts, changes and alerts.", Query(SERVER_STATE, SERVER),
                       words=SERVER_STATES, width=12, height=6),
                number("Without progress for", "Time since the last token, prompt or finished request; it grows on an idle engine too.", Unit.SECONDS,
                       "max(~progress_age_seconds)", height=6, decimals=0, empty=NO_SIDECAR_SHORT),
                number("Waits now", "How long a request that arrives now will wait.", Unit.SECONDS, "max(~live_queue_wait_seconds)",
                       bad="VllmQueueWaitHigh.wait", height=6, empty=NO_SIDECAR_SHORT),
                number("Up for", "Since the API server started.", Unit.SECONDS, "min(time() - ~server_start_timestamp_seconds)", height=6,
                       decimals=1, empty="not reported"),
            ),
        ),
        Row(
            "Queue time: admission or scheduler pressure",
            (
                lines("How long do requests wait in the queue?", "Finished requests. The first bucket bound is 0.3 s; only the "
                      "sidecar resolves shorter waits. If high, check whether batch or KV cache is full.", Unit.SECONDS, *quantiles("request_queue_seconds"),
                      bad="VllmQueueWaitHigh.wait", empty=_FEW),
                lines("How sure is p95 of the wait?", _P95, Unit.SECONDS, *bounds("request_queue_seconds"), empty=_FEW),
                heatmap("How is the wait distributed?", "Finished requests by time in the queue, without the time that preempted ones queue again.",
                        "request_queue_seconds"),
            ),
        ),
        Row(
            "TTFT: queue plus prefill",
            (
                lines("How long until the first token?", "Measured from arrival at the front end. Clients also wait for network and gateway.", Unit.SECONDS,
                      *quantiles("time_to_first_token_seconds"), bad="slo.time_to_first_token", empty=_FEW),
                lines("How sure is p95 of TTFT?", _P95, Unit.SECONDS, *bounds("time_to_first_token_seconds"), empty=_FEW),
                lines("What does TTFT consist of?", "Mean shares: queue (capacity), prefill (prompts, prefix cache), other (tokenizer, front end).",
                      Unit.RATIO, Query("avg by (part) (~recent_time_to_first_token_share_ratio)", "{{part}}"), stacked=True, most=1.0, named=PARTS, empty=_FEW),
                lines("How long is prefill alone?", "From the first scheduling to the first token.", Unit.SECONDS,
                      *quantiles("request_prefill_seconds"), width=12, empty=_FEW),
                heatmap("How is TTFT distributed?", "First tokens by TTFT; two bands mean two kinds of requests, or cache hits and misses.",
                        "time_to_first_token_seconds", width=12),
            ),
        ),
        Row(
            "ITL: smoothness of decode",
            (
                lines("How long between two outputs?", "With speculation an output is a batch of tokens: then see TPOT.", Unit.SECONDS,
                      *quantiles("inter_token_latency_seconds"), bad="slo.inter_token_latency", empty=_FEW),
                lines("How sure is p95 of ITL?", _P95, Unit.SECONDS, *bounds("inter_token_latency_seconds"), empty=_FEW),
                heatmap("How is ITL distributed?", "Outputs by the time since the previous one. A faint upper band means prefills in the same step.",
                        "inter_token_latency_seconds"),
                lines("How long per token of a request (TPOT)?", "Mean per finished request, so it is comparable with speculation too.", Unit.SECONDS,
                      *quantiles("time_per_output_token_seconds"), bad="slo.time_per_output_token", width=12,
                      empty=f"{_FEW} vLLM before 0.11 has no such histogram."),
                lines("How long do whole requests take?", "From arrival to the last token; depends on the length of the answers.", Unit.SECONDS,
                      *quantiles("request_seconds"), width=12, empty=_FEW),
            ),
        ),
        Row(
            "KV cache and preemptions: memory pressure",
            (
                lines("How full is the KV cache?", "Mean and peak of the polls of the last minute. A full cache alone is healthy.", Unit.RATIO,
                      Query("~recent_kv_cache_usage_peak_ratio", f"peak {ENGINE}", Color.CACHE, plain="~kv_cache_usage_ratio"),
                      Query("~recent_kv_cache_usage_mean_ratio", f"mean {ENGINE}", Color.HISTOGRAM, dashed=True), most=1.0),
                lines("Does it harm requests?", "Pressure above 0.5 means preempted requests, or requests that wait while the cache is nearly full.", Unit.RATIO,
                      Query("~kv_cache_pressure_ratio", ENGINE, Color.WAITING), bad="VllmKvCachePressure.pressure", most=1.0, empty=NO_SIDECAR),
                lines("How often is a request preempted?", "Preemptions per finished request; each preempted request is computed again.", Unit.NONE,
                      Query("~recent_preemptions_per_request", ENGINE, Color.BAD),
                      bad="VllmPreemptionStorm.per_request", empty=NO_SIDECAR),
            ),
        ),
        Row(
            "Running and waiting: load and fairness",
            (
                lines("How many requests run?", "Peak and mean of the polls of the last minute; constant at --max-num-seqs means a full batch.",
                      Unit.NONE, Query("~recent_requests_running_peak", f"peak {ENGINE}", Color.RUNNING, plain="~requests_running"),
                      Query("~recent_requests_running_mean", f"mean {ENGINE}", Color.HISTOGRAM, dashed=True), decimals=0),
                lines("How many wait, and for what?", "Capacity: batch or KV cache. Deferred: a LoRA slot, a grammar or a transfer.", Unit.NONE,
                      Query("sum by (instance, target, engine, reason) (~requests_waiting)", f"{{{{reason}}}} {ENGINE}"), stacked=True, decimals=0),
                lines("How near is it to its limits?", "Load as a share of what fits within the objective, and the share of --max-num-seqs in use, which is lower.", Unit.RATIO,
                      Query("~saturation_ratio", f"saturation {ENGINE}", Color.WAITING),
                      Query("~recent_batch_occupancy_ratio", f"batch {ENGINE}", Color.RUNNING), most=1.0, empty=NO_SIDECAR),
                lines("Which limit do they wait for?", LIMIT_HELP, Unit.NONE, Query("~admission_limit > 0", f"{{{{limit}}}} {ENGINE}"),
                      width=24, height=5, stacked=True, decimals=0, empty="Nothing waits."),
            ),
        ),
        Row(
            "Prefix cache and throughput: capacity of prefill and decode",
            (
                lines("How often do caches hit?", "Share of looked-up tokens that were found, by cache. Compare it with its own past, not with a number.", Unit.RATIO,
                      Query("~recent_cache_hit_ratio", f"{{{{cache}}}} {ENGINE}",
                            plain="rate(~prefix_cache_hit_tokens_total[$__rate_interval]) / "
                                  "(rate(~prefix_cache_queried_tokens_total[$__rate_interval]) > 0)"),
                      most=1.0, empty="Prefix caching is not enabled, or there were no requests."),
                lines("How many tokens go in and come out?", "Prompt tokens of requests that reached their first token, and generated ones.",
                      Unit.TOKENS_PER_SECOND,
                      Query("~recent_prompt_tokens_per_second", f"prompt {ENGINE}", Color.PROMPT, "rate(~prompt_tokens_total[$__rate_interval])"),
                      Query("~recent_generation_tokens_per_second", f"generated {ENGINE}", Color.GENERATION,
                            "rate(~generation_tokens_total[$__rate_interval])")),
                lines("How large is a step?", "Mean tokens that one step of the engine handles; large steps are prefill, and make ITL uneven.", Unit.TOKENS,
                      Query("~recent_step_mean_tokens", ENGINE, Color.RUNNING,
                            "rate(~iteration_tokens_sum[$__rate_interval]) / (rate(~iteration_tokens_count[$__rate_interval]) > 0)"),
                      empty="Nothing ran, or this vLLM does not report it."),
            ),
        ),
    ),
)  # fmt: skip
