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
from vllm_sidecar.catalog.dashboards.panel import Colour, Dashboard, Query, Row
from vllm_sidecar.catalog.dashboards.state import SERVER_STATE, SERVER_STATES
from vllm_sidecar.catalog.types import Unit

_FEW = "Fewer requests finished than quantiles need, or none."
_P95 = "The bucket of the histogram that certainly holds p95, by its edges, and where in it the sidecar puts p95."

ENGINE_DASHBOARD = Dashboard(
    "vllm-engine",
    "vLLM · Engine",
    "One replica: queue, TTFT, ITL, KV cache, preemptions, running and waiting, prefix cache, throughput. Choose an instance above.",
    (
        Row(
            "What is it doing?",
            (
                states("What was it, and since when?", "The state in words; marks are restarts, changes and alerts.", Query(SERVER_STATE, SERVER),
                       words=SERVER_STATES, width=12, height=6),
                number("Without progress for", "Time since any token, prompt or finished request; an idle engine makes none either.", Unit.SECONDS,
                       "max(~progress_age_seconds)", height=6, decimals=0, empty=NO_SIDECAR_SHORT),
                number("Waits now", "How long a request that arrives now will wait.", Unit.SECONDS, "max(~live_queue_wait_seconds)",
                       bad="VllmQueueWaitHigh.wait", height=6, empty=NO_SIDECAR_SHORT),
                number("Up for", "Since the API server started.", Unit.SECONDS, "min(time() - ~server_start_timestamp_seconds)", height=6,
                       decimals=1, empty="not told"),
            ),
        ),
        Row(
            "Queue time: admission or scheduler pressure",
            (
                lines("How long do requests wait in the queue?", "Of requests that finished. Buckets begin at 0.3 s, so what is below is the "
                      "sidecar's alone. High: see whether batch or KV cache is full.", Unit.SECONDS, *quantiles("request_queue_seconds"),
                      bad="VllmQueueWaitHigh.wait", empty=_FEW),
                lines("How sure is p95 of the wait?", _P95, Unit.SECONDS, *bounds("request_queue_seconds"), empty=_FEW),
                heatmap("How is the wait distributed?", "Finished requests by time in the queue; preempted ones that queue again are not in it.",
                        "request_queue_seconds"),
            ),
        ),
        Row(
            "TTFT: queue plus prefill",
            (
                lines("How long until the first token?", "From arrival at the front end. The client sees more: network and gateway.", Unit.SECONDS,
                      *quantiles("time_to_first_token_seconds"), bad="slo.time_to_first_token", empty=_FEW),
                lines("How sure is p95 of TTFT?", _P95, Unit.SECONDS, *bounds("time_to_first_token_seconds"), empty=_FEW),
                lines("What does TTFT consist of?", "Mean shares: queue (capacity), prefill (prompts, prefix cache), other (tokenizer, front end).",
                      Unit.RATIO, Query("avg by (part) (~recent_time_to_first_token_share_ratio)", "{{part}}"), stacked=True, most=1.0, named=PARTS, empty=_FEW),
                lines("How long is prefill alone?", "From the first scheduling to the first token.", Unit.SECONDS,
                      *quantiles("request_prefill_seconds"), width=12, empty=_FEW),
                heatmap("How is TTFT distributed?", "First tokens by TTFT; two bands are two kinds of requests, or cache hits and misses.",
                        "time_to_first_token_seconds", width=12),
            ),
        ),
        Row(
            "ITL: smoothness of decode",
            (
                lines("How long between two outputs?", "With speculation an output is a batch of tokens: then see TPOT.", Unit.SECONDS,
                      *quantiles("inter_token_latency_seconds"), bad="slo.inter_token_latency", empty=_FEW),
                lines("How sure is p95 of ITL?", _P95, Unit.SECONDS, *bounds("inter_token_latency_seconds"), empty=_FEW),
                heatmap("How is ITL distributed?", "Outputs by the time since the one before. A faint upper band is prefills in the same step.",
                        "inter_token_latency_seconds"),
                lines("How long per token of a request (TPOT)?", "Mean per finished request, so it is comparable with speculation too.", Unit.SECONDS,
                      *quantiles("time_per_output_token_seconds"), bad="slo.time_per_output_token", width=12,
                      empty=f"{_FEW} Before vLLM 0.11 there is no such histogram."),
                lines("How long do whole requests take?", "From arrival to the last token; depends on the length of the answers.", Unit.SECONDS,
                      *quantiles("request_seconds"), width=12, empty=_FEW),
            ),
        ),
        Row(
            "KV cache and preemptions: memory pressure",
            (
                lines("How full is the KV cache?", "Mean and peak of each second of the last minute. Full alone is healthy.", Unit.RATIO,
                      Query("~recent_kv_cache_usage_peak_ratio", f"peak {ENGINE}", Colour.CACHE, plain="~kv_cache_usage_ratio"),
                      Query("~recent_kv_cache_usage_mean_ratio", f"mean {ENGINE}", Colour.HISTOGRAM, dashed=True), most=1.0),
                lines("Does it do damage?", "Pressure above 0.5 means preempted requests, or requests that wait while the cache is nearly full.", Unit.RATIO,
                      Query("~kv_cache_pressure_ratio", ENGINE, Colour.WAITING), bad="VllmKvCachePressure.pressure", most=1.0, empty=NO_SIDECAR),
                lines("How often is a request preempted?", "Preemptions per finished request; each is computed again.", Unit.NONE,
                      Query("~recent_preemptions_per_request", ENGINE, Colour.BAD),
                      bad="VllmPreemptionStorm.per_request", empty=NO_SIDECAR),
            ),
        ),
        Row(
            "Running and waiting: load and fairness",
            (
                lines("How many requests run?", "Peak and mean of each second of the last minute; standing still at --max-num-seqs the batch is full.",
                      Unit.NONE, Query("~recent_requests_running_peak", f"peak {ENGINE}", Colour.RUNNING, plain="~requests_running"),
                      Query("~recent_requests_running_mean", f"mean {ENGINE}", Colour.HISTOGRAM, dashed=True), decimals=0),
                lines("How many wait, and for what?", "Capacity: batch or KV cache. Deferred: a LoRA slot, a grammar or a transfer.", Unit.NONE,
                      Query("sum by (instance, target, engine, reason) (~requests_waiting)", f"{{{{reason}}}} {ENGINE}"), stacked=True, decimals=0),
                lines("How near is it to its limits?", "Saturation for autoscalers, and the share of --max-num-seqs in use.", Unit.RATIO,
                      Query("~saturation_ratio", f"saturation {ENGINE}", Colour.WAITING),
                      Query("~recent_batch_occupancy_ratio", f"batch {ENGINE}", Colour.RUNNING), most=1.0, empty=NO_SIDECAR),
                lines("Which limit do they wait for?", LIMIT_HELP, Unit.NONE, Query("~admission_limit > 0", f"{{{{limit}}}} {ENGINE}"),
                      width=24, height=5, stacked=True, decimals=0, empty="Nothing waits."),
            ),
        ),
        Row(
            "Prefix cache and throughput: capacity of prefill and decode",
            (
                lines("How much do caches hit?", "Share of the looked-up tokens, by cache. Compare with its own past, not with a number.", Unit.RATIO,
                      Query("~recent_cache_hit_ratio", f"{{{{cache}}}} {ENGINE}",
                            plain="rate(~prefix_cache_hit_tokens_total[$__rate_interval]) / "
                                  "(rate(~prefix_cache_queried_tokens_total[$__rate_interval]) > 0)"),
                      most=1.0, empty="Prefix caching is not enabled, or nothing was asked for."),
                lines("How many tokens go in and come out?", "Prompt tokens of requests that reached their first token, and generated ones.",
                      Unit.TOKENS_PER_SECOND,
                      Query("~recent_prompt_tokens_per_second", f"prompt {ENGINE}", Colour.PROMPT, "rate(~prompt_tokens_total[$__rate_interval])"),
                      Query("~recent_generation_tokens_per_second", f"generated {ENGINE}", Colour.GENERATION,
                            "rate(~generation_tokens_total[$__rate_interval])")),
                lines("How large is a step?", "Mean tokens that one step of the engine handles; large steps are prefill, and make ITL uneven.", Unit.TOKENS,
                      Query("~recent_step_mean_tokens", ENGINE, Colour.RUNNING,
                            "rate(~iteration_tokens_sum[$__rate_interval]) / (rate(~iteration_tokens_count[$__rate_interval]) > 0)"),
                      empty="Nothing ran, or this vLLM does not tell."),
            ),
        ),
    ),
)  # fmt: skip
