"""Incident: one model, from the page to the cause, in the order of the runbook."""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import newest
from vllm_sidecar.catalog.canary import CHANGED_OUTPUT, WRONG_OUTPUT
from vllm_sidecar.catalog.dashboards.factories import (
    ENGINE,
    FINISHED,
    LIMIT_HELP,
    NO_SIDECAR,
    NO_SIDECAR_SHORT,
    PARTS,
    REASONS,
    SERVER,
    STATUSES,
    by_histogram,
    heatmap,
    lines,
    number,
    recent_p95,
    states,
    table,
    words,
)
from vllm_sidecar.catalog.dashboards.panel import FINE_OR_BAD, IN_USE, Color, Dashboard, Query, Row, Word
from vllm_sidecar.catalog.dashboards.server_state import SERVER_STATE, SERVER_STATES
from vllm_sidecar.catalog.types import Unit

_NAN = "not measured"
_WRONG, _CHANGED = ("|".join(states) for states in (WRONG_OUTPUT, CHANGED_OUTPUT))
_ANSWERS = (
    f'max by (<<M>>, requested_model, prompt) ((~canary_output_state{{state!~"{_WRONG}|{_CHANGED}"}} == 1) '
    f'or 2 * (~canary_output_state{{state=~"{_CHANGED}"}} == 1) or 3 * (~canary_output_state{{state=~"{_WRONG}"}} == 1) '
    "or 4 * (clamp_max(~canary_consecutive_failures, 1) == 1))"
)
_ANSWER_WORDS = (
    Word(1, "right", Color.GOOD), Word(2, "changed", Color.WATCH), Word(3, "wrong", Color.BAD), Word(4, "no answer", Color.BAD),
)  # fmt: skip
_NO_CANARY = "The canary is off (docs/canary.md)."
_PAST = (
    ("now", "", None, False),
    ("a day ago", " offset 1d", Color.HISTOGRAM, True),
    ("a week ago", " offset 1w", Color.CACHE, True),
)


def _then_and_now(histogram: str, quantile: float, color: Color) -> tuple[Query, ...]:
    """Return a quantile of token counts now, a day and a week ago."""
    return tuple(
        Query(
            f"histogram_quantile({quantile:g}, sum by (le) (rate(~{histogram}_bucket[10m]{offset})))",
            f"p{100 * quantile:g} {when}", past or color, dashed=dashed,
        )
        for when, offset, past, dashed in _PAST
    )  # fmt: skip


def _rate_then_and_now(expr: str, color: Color) -> tuple[Query, ...]:
    return tuple(
        Query(expr.replace("[10m]", f"[10m]{offset}"), when, past or color, dashed=dashed)
        for when, offset, past, dashed in _PAST
    )


def _mean(window: str, offset: str = "") -> str:
    latency = "~inter_token_latency_seconds"
    return f"(rate({latency}_sum[{window}]{offset}) / (rate({latency}_count[{window}]{offset}) > 0))"


_SYMPTOMS = (
    Query(
        "max(increase(~requests_corrupted_total[10m])) > bool <<VllmRequestsCorrupted.corrupted>>", "wrong output (NaN)"
    ),
    Query("max(~canary_consecutive_wrong_outputs) >= bool <<VllmCanaryOutputWrong.repeats>>", "wrong output (canary)"),
    Query("max(~canary_consecutive_failures) >= bool <<VllmCanaryFailing.repeats>>", "canary is not answered"),
    Query('max(~recent_time_to_first_token_seconds{quantile="0.95"}) > bool <<slo.time_to_first_token>>', "high TTFT"),
    Query('max(~recent_inter_token_latency_seconds{quantile="0.95"}) > bool <<slo.inter_token_latency>>', "slow ITL"),
    Query(
        f"max({_mean('5m')} / ({_mean('1h', ' offset 15m')} > 0)) > bool <<VllmRollbackCandidate.factor>>",
        "ITL slower than the hour before",
    ),
    Query("max(~kv_cache_pressure_ratio) > bool <<VllmKvCachePressure.pressure>>", "OOM-like: KV cache"),
    Query("max(~recent_error_ratio) > bool <<VllmErrorRatioHigh.errors>>", "errors"),
    Query("max(~stalled)", "no progress"),
    Query('max(~up{source="vllm"} == bool 0)', "down"),
)

_WHAT_TO_DO = """
1. **A release or a flag changed just before it began** (row 6): roll back first, look for the reason afterwards.
2. **No progress**: save the stack (`py-spy dump --pid PID`), then restart the server; look on the GPU dashboard for a GPU that is hotter or more idle than the others.
3. **High TTFT**: queue (row 4 names its limit: more replicas, or `--max-num-seqs`), or prefill (longer prompts, or a prefix cache with fewer hits).
4. **Slow ITL**: throttled GPUs, larger batches, longer contexts, fewer accepted drafts.
5. **OOM-like**: fewer or shorter requests (`--max-num-seqs`, `--max-model-len`), more cache (`--gpu-memory-utilization`, `--kv-cache-dtype fp8`), or one more replica.
6. **Wrong output**: template, tokenizer, generation config and adapter first; NaN means weights, quantization or a GPU.
7. **Afterwards**: add the request shape of row 3 to the load tests.

Each alert has its runbook behind `runbook_url`.
"""

INCIDENT = Dashboard(
    "vllm-incident",
    "vLLM · Incident",
    "One model, from the page to the cause: read it from top to bottom. Choose the model above.",
    (
        Row(
            "1 · What is running? Model, version, flags, and what changed",
            (
                table("Which version, with which flags?",
                      "Flags that each server was started with, as far as known. Two rows for one server: it restarted with other flags.",
                      Query("max by (<<T>>, version) (last_over_time(~server_info[$__range]))", ""),
                      Query("max by (<<T>>, fingerprint, max_model_len, gpu_memory_utilization, tensor_parallel_size, pipeline_parallel_size, "
                            "enable_prefix_caching, generation_config, speculative_config, kv_cache_dtype) (~server_config_info)", ""),
                      Query("max by (<<T>>) (time() - ~server_start_timestamp_seconds)", "Up for", unit=Unit.SECONDS),
                      Query("max by (<<T>>) (time() - ~config_last_change_timestamp_seconds)", "Since last change", unit=Unit.SECONDS),
                      Query("max by (<<T>>) (increase(~server_restarts_total[$__range]))", "Restarts", decimals=0),
                      labels=("instance", "target", "version", "fingerprint", "max_model_len", "gpu_memory_utilization", "tensor_parallel_size",
                              "pipeline_parallel_size", "enable_prefix_caching", "generation_config", "speculative_config", "kv_cache_dtype"),
                      links=("instance",), height=6, empty=NO_SIDECAR),
                states("Which configuration ran when?",
                       "A bar for each version and fingerprint of the flags; a second bar for one server is a release or a changed flag.",
                       Query("max by (<<T>>, version, fingerprint) "
                             f"(~server_config_info * on (<<T>>) group_left (version) {newest('~server_info', 'version')})",
                             "{{instance}} {{target}} {{version}} {{fingerprint}}"),
                       words=IN_USE, width=12, height=7, empty=NO_SIDECAR),
                states("Which state was each server in, and since when?", "The state in words, as on the overview.",
                       Query(SERVER_STATE, SERVER), words=SERVER_STATES, width=12, height=7),
            ),
        ),
        Row(
            "2 · Which symptom: wrong output, high TTFT, slow ITL, OOM-like, errors?",
            (
                number("Wrong output", "Wrong answers to the canary in a row, of the worst prompt and replica; without a canary, requests with NaN in their logits in "
                       "ten minutes (VLLM_COMPUTE_NANS_IN_LOGITS=1). Without both, check template, tokenizer and generation config.", Unit.NONE,
                       "max(~canary_consecutive_wrong_outputs) + (sum(increase(~requests_corrupted_total[10m])) or vector(0)) or sum(increase(~requests_corrupted_total[10m]))",
                       bad="above_zero", empty=_NAN, decimals=0),
                number("High TTFT: p95", "The slowest engine's recent p95 of the time to the first token.", Unit.SECONDS,
                       'max(~recent_time_to_first_token_seconds{quantile="0.95"})', f"max({by_histogram(0.95, 'time_to_first_token_seconds')})",
                       bad="slo.time_to_first_token"),
                number("Slow ITL: p95", "The slowest engine's recent p95 of the time between two outputs.", Unit.SECONDS,
                       'max(~recent_inter_token_latency_seconds{quantile="0.95"})', f"max({by_histogram(0.95, 'inter_token_latency_seconds')})",
                       bad="slo.inter_token_latency"),
                number("OOM-like: KV pressure", "Of the worst engine; above 0.5 only with preempted or waiting requests.", Unit.RATIO,
                       "max(~kv_cache_pressure_ratio)", "max(~kv_cache_usage_ratio)", bad="VllmKvCachePressure.pressure", decimals=0),
                number("Errors", "Share of requests that end as an error of the server.", Unit.RATIO, "max(~recent_error_ratio)",
                       'sum(rate(~requests_finished_total{finished_reason="error"}[5m])) / (sum(rate(~requests_finished_total[5m])) > 0)',
                       bad="VllmErrorRatioHigh.errors", decimals=1),
                number("Longest without progress", "How long clients have waited for an engine that makes no progress; minutes mean that it hangs even if /health returns 200.", Unit.SECONDS,
                       "max(~work_without_progress_seconds) or vector(0)", decimals=0),
                states("Which symptoms show, and since when?", "The worst engine of the model, compared with the thresholds of the alerts and with its own past: a release may make "
                       "it slower and still meet the objective.",
                       *_SYMPTOMS, words=FINE_OR_BAD),
            ),
        ),
        Row(
            "3 · Did the request shape change?",
            (
                lines("Are prompts longer than they were?", "Prompt tokens per request now, a day and a week ago. Longer prompts need more prefill "
                      "and KV cache.", Unit.TOKENS, *_then_and_now("request_prompt_tokens", 0.95, Color.PROMPT)),
                lines("Are answers longer than they were?", "Generated tokens per request now, a day and a week ago. Longer answers occupy the "
                      "KV cache and the batch for longer.", Unit.TOKENS, *_then_and_now("request_generation_tokens", 0.95, Color.GENERATION)),
                lines("Are there more requests than there were?", "Requests that finish per second now, a day and a week ago.", Unit.PER_SECOND,
                      *_rate_then_and_now("sum(rate(~requests_finished_total[10m]))", Color.RUNNING)),
                heatmap("How long are prompts?", "Finished requests by prompt tokens. A second band means a second kind of client.",
                        "request_prompt_tokens", Unit.TOKENS),
                heatmap("How long are answers?", "Finished requests by generated tokens. A band at the very top means answers cut by --max-model-len or max_tokens.",
                        "request_generation_tokens", Unit.TOKENS),
                lines("How do requests end?", "Finished requests by reason. More of `length` than before means that answers are cut, or that a "
                      "template lost its end token.", Unit.PER_SECOND,
                      Query("sum by (finished_reason) (rate(~requests_finished_total[$__rate_interval]))", "{{finished_reason}}"), stacked=True, named=FINISHED),
            ),
        ),
        Row(
            "4 · Queue, running, waiting, KV cache, preemptions",
            (
                lines("How long will a request wait that arrives now?", "Estimated from waiting requests and the rate of admission; the histogram "
                      "has only finished requests.", Unit.SECONDS,
                      Query("~live_queue_wait_seconds", f"now {ENGINE}", Color.WAITING, by_histogram(0.95, "request_queue_seconds")),
                      bad="VllmQueueWaitHigh.wait"),
                lines("How many requests run?", "Most requests in the batch at any poll. Constant at --max-num-seqs means a full batch.", Unit.NONE,
                      Query("~recent_requests_running_peak", ENGINE, Color.RUNNING, plain="~requests_running"), decimals=0),
                lines("How many requests wait, and for what?", "For capacity: no room in batch or KV cache. Deferred: for a LoRA slot, a grammar or a "
                      "transfer.", Unit.NONE, Query("sum by (reason) (~requests_waiting)", "{{reason}}"), stacked=True, decimals=0, named=REASONS),
                lines("Which limit do they wait for?", LIMIT_HELP, Unit.NONE, Query("~admission_limit > 0", f"{{{{limit}}}} {ENGINE}"),
                      width=24, height=5, stacked=True, decimals=0, empty="Nothing waits."),
                lines("How full is the KV cache?", "Peaks between scrapes. A full cache alone is healthy; with preemptions or waiting requests it is not.", Unit.RATIO,
                      Query("~recent_kv_cache_usage_peak_ratio", ENGINE, Color.CACHE, plain="~kv_cache_usage_ratio"), most=1.0),
                lines("How many requests are preempted?", "Each preempted request loses its blocks and is computed again.", Unit.PER_SECOND,
                      Query("rate(~preemptions_total[$__rate_interval])", ENGINE, Color.BAD)),
                lines("Does the prefix cache still hit?", "A drop means more prefill: most likely the beginning of the prompts changed.", Unit.RATIO,
                      Query('~recent_cache_hit_ratio{cache="local"}', ENGINE, Color.CACHE,
                            plain="rate(~prefix_cache_hit_tokens_total[$__rate_interval]) / "
                                  "(rate(~prefix_cache_queried_tokens_total[$__rate_interval]) > 0)"), most=1.0,
                      empty="Prefix caching is not enabled, or there were no requests."),
            ),
        ),
        Row(
            "5 · Where does the time go? Tokenizer, template, adapters",
            (
                lines("What does the time to the first token consist of?", "Mean shares: queue (capacity), prefill (prompts), other (front end: "
                      "tokenizer, template, HTTP). If other is large, the GPU is not the cause.", Unit.RATIO,
                      Query("avg by (part) (~recent_time_to_first_token_share_ratio)", "{{part}}"), stacked=True, most=1.0, named=PARTS, empty=NO_SIDECAR),
                lines("How slow is the first token?", "Recent p95 of each engine.", Unit.SECONDS, recent_p95("time_to_first_token_seconds", ENGINE),
                      bad="slo.time_to_first_token"),
                lines("How slow are the others?", "Recent p95 of the time between two outputs; with speculation an output is several tokens.",
                      Unit.SECONDS, recent_p95("inter_token_latency_seconds", ENGINE), bad="slo.inter_token_latency"),
                table("Which models and adapters are served?", "Names that clients can request; the parent of an adapter is its base model.",
                      Query("max by (<<T>>, model_name, root, parent) (~model_info)", ""),
                      labels=("instance", "target", "model_name", "root", "parent"), width=12, height=7,
                      empty="/v1/models is not readable, or there is no sidecar."),
                lines("What do clients get over HTTP?", "Requests per second by status class. 4xx are errors of clients (vLLM 0.22 returns 5xx for some).",
                      Unit.PER_SECOND, Query('sum by (status) (rate(~http_requests_total{method="POST"}[$__rate_interval]))', "{{status}}"),
                      stacked=True, named=STATUSES, width=12, height=7, empty="The server exposes no HTTP metrics."),
            ),
        ),
        Row(
            "Canary: what does a user get?",
            (
                states("Is the answer to each known prompt right?", "Of the last request: right as far as it is known, another answer or template than "
                       "before, wrong, or no complete answer. docs/canary.md explains each state; the status page has the answer's own.",
                       Query(_ANSWERS, "{{prompt}} {{requested_model}} " + SERVER), words=_ANSWER_WORDS, width=12, height=7, empty=_NO_CANARY),
                lines("Why do requests of the canary fail?", "Failed requests by reason: no complete answer, or a wrong one.", Unit.NONE,
                      Query("sum by (reason) (increase(~canary_failures_total[10m])) > 0", "{{reason}}"), stacked=True, decimals=0, width=12, height=7,
                      empty="No canary, or none of its requests failed."),
                lines("Where does a request of the canary wait?", "Resolve, connect and tls are the way to the server; processing and first_token the gateway, "
                      "the queue and the prefill; transfer is the decoding.", Unit.SECONDS,
                      Query("max by (phase) (~canary_phase_seconds)", "{{phase}}"), stacked=True, empty=_NO_CANARY),
                lines("How slow is the first token for a client?", "As the canary sees it, next to the recent p95 of the engine: a gap between both is the way "
                      "to the server.", Unit.SECONDS, Query("max by (<<M>>) (~canary_time_to_first_token_seconds)", "canary " + SERVER, Color.P99),
                      recent_p95("time_to_first_token_seconds", ENGINE), empty=_NO_CANARY),
                lines("How slow are the others for a client?", "Mean time between outputs as the canary sees it, next to the recent p95 of the engine.",
                      Unit.SECONDS, Query("max by (<<M>>) (~canary_inter_token_latency_seconds)", "canary " + SERVER, Color.P99),
                      recent_p95("inter_token_latency_seconds", ENGINE), empty=_NO_CANARY),
            ),
            collapsed=True,
        ),
        Row(
            "6 · Did a release cause it?",
            (
                number("Last change", "Time since a sidecar saw version, models or flags change.", Unit.SECONDS,
                       "min(time() - ~config_last_change_timestamp_seconds)", empty="none seen", width=6),
                number("Changes in this range", "Changes of version, models or flags.", Unit.NONE, "sum(increase(~config_changes_total[$__range]))",
                       width=6, decimals=0, empty=NO_SIDECAR_SHORT),
                number("Restarts in this range", "Restarts of the servers; several within an hour are a crash loop.", Unit.NONE,
                       "sum(increase(~server_restarts_total[$__range]))", width=6, decimals=0, empty=NO_SIDECAR_SHORT),
                number("Rollback candidates", "Servers that became slower or fail more since their last change.", Unit.NONE,
                       'count(<<firing>>{alertname="VllmRollbackCandidate",<<alerts>>}) or vector(0)', bad="one", width=6, decimals=0),
                lines("Did the mean ITL change?", "Mean time between outputs. Vertical marks are restarts and changes of the configuration.",
                      Unit.SECONDS,
                      Query("rate(~inter_token_latency_seconds_sum[$__rate_interval]) / (rate(~inter_token_latency_seconds_count[$__rate_interval]) > 0)",
                            ENGINE), width=12, height=7),
                lines("Did the mean TTFT change?", "Mean time to the first token, with the same marks.", Unit.SECONDS,
                      Query("rate(~time_to_first_token_seconds_sum[$__rate_interval]) / (rate(~time_to_first_token_seconds_count[$__rate_interval]) > 0)",
                            ENGINE), width=12, height=7),
            ),
        ),
        Row("7 · What to do", (words("What to do", "The steps of the runbook.", _WHAT_TO_DO, height=9),)),
    ),
    since="3h",
)  # fmt: skip
