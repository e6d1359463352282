"""KV cache: free room, what a full cache costs, and what prefix caching saves."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.factories import ENGINE, NO_SIDECAR, NO_SIDECAR_SHORT, heatmap, lines, number
from vllm_sidecar.catalog.dashboards.panel import Color, Dashboard, Query, Row
from vllm_sidecar.catalog.types import Unit

_NO_OFFLOADING = "No KV offloading: no such connector is configured."
_NO_SAMPLES = "Not measured: start vLLM with --kv-cache-metrics."
_NO_CACHE = "Prefix caching is not enabled, or there were no requests."


def _hit_ratio(window: str) -> str:
    return f"rate(~prefix_cache_hit_tokens_total[{window}]) / (rate(~prefix_cache_queried_tokens_total[{window}]) > 0)"


KV_CACHE = Dashboard(
    "vllm-kv-cache",
    "vLLM · KV cache and prefix caching",
    "Free room in the KV cache, what a full cache costs, and what prefix caching saves.",
    (
        Row(
            "Is there room?",
            (
                number("Highest peak", "Highest usage of any engine at any second of the last minute.", Unit.RATIO,
                       "max(~recent_kv_cache_usage_peak_ratio)", "max(~kv_cache_usage_ratio)", decimals=0, width=6),
                number("Tokens free", "Tokens that fit into the caches of all selected engines now.", Unit.TOKENS, "sum(~kv_cache_free_tokens)",
                       width=6, empty="not reported", decimals=0),
                number("Full in", "Time until the first engine's cache is full at the growth of the last minute.", Unit.SECONDS,
                       "min(~kv_cache_time_to_full_seconds)", width=6, empty="not growing", decimals=0),
                number("Worst pressure", "0 to 1; above 0.5 only with preempted or waiting requests.", Unit.RATIO, "max(~kv_cache_pressure_ratio)",
                       bad="VllmKvCachePressure.pressure", width=6, decimals=0, empty=NO_SIDECAR_SHORT),
                lines("How full is each engine's cache?", "Peak of each second of the last minute. One full and the others empty is a routing problem.", Unit.RATIO,
                      Query("~recent_kv_cache_usage_peak_ratio", ENGINE, plain="~kv_cache_usage_ratio"), most=1.0),
                lines("How many more tokens fit in?", "Free tokens; a request needs its prompt and its answer.", Unit.TOKENS,
                      Query("~kv_cache_free_tokens", ENGINE), empty="vLLM does not report the size of its cache."),
                lines("How large is the cache?", "Capacity in tokens: set by --gpu-memory-utilization, --kv-cache-dtype and the memory that weights leave.",
                      Unit.TOKENS, Query("~kv_cache_capacity_tokens", ENGINE, Color.CACHE), empty="vLLM does not report the size of its cache."),
            ),
        ),
        Row(
            "What does a full cache cost?",
            (
                lines("Does it harm requests?", "Pressure: preempted requests, usage while requests waited, and usage above 0.9. Lower --max-num-seqs, "
                      "or give the cache more room.", Unit.RATIO, Query("~kv_cache_pressure_ratio", ENGINE), bad="VllmKvCachePressure.pressure",
                      most=1.0, empty=NO_SIDECAR),
                lines("How many are preempted?", "Preemptions per second: each request loses its blocks and is computed again.", Unit.PER_SECOND,
                      Query("rate(~preemptions_total[$__rate_interval])", ENGINE)),
                lines("How many wait for room?", "Requests waiting for capacity; while the cache is not full the batch is the limit.", Unit.NONE,
                      Query('~requests_waiting{reason=~"capacity|unspecified|swapped"}', f"{{{{reason}}}} {ENGINE}"), decimals=0,
                      empty="vLLM does not report why requests wait."),
            ),
        ),
        Row(
            "What does prefix caching save?",
            (
                lines("How often does it hit, now and in the past?", "Share of looked-up tokens that were found. A drop since yesterday means that the "
                      "beginning of the prompts changed, or that the cache is too small.", Unit.RATIO,
                      Query('~recent_cache_hit_ratio{cache="local"}', f"now {ENGINE}", Color.CACHE, _hit_ratio("$__rate_interval")),
                      Query(_hit_ratio("1d"), f"mean of a day {ENGINE}", Color.HISTOGRAM, dashed=True), most=1.0, empty=_NO_CACHE),
                lines("How much of the prompts is computed?", "The rest came from a cache and cost no prefill.", Unit.RATIO,
                      Query("~recent_prompt_computed_ratio", ENGINE, Color.PROMPT), most=1.0, empty="No prompts, or no sidecar."),
                lines("Where do prompt tokens come from?", "Computed here, found in the local cache, or transferred.", Unit.TOKENS_PER_SECOND,
                      Query("sum by (source) (rate(~prompt_tokens_by_source_total[$__rate_interval]))", "{{source}}"), stacked=True,
                      empty="This vLLM does not report where prompt tokens come from."),
                lines("How many tokens are looked up and found?", "Both in tokens per second; the area between them is prefill.", Unit.TOKENS_PER_SECOND,
                      Query("sum(rate(~prefix_cache_queried_tokens_total[$__rate_interval]))", "looked up", Color.PROMPT),
                      Query("sum(rate(~prefix_cache_hit_tokens_total[$__rate_interval]))", "found", Color.CACHE), width=12, empty=_NO_CACHE),
                lines("Do external and multimodal caches hit?", "A KV connector's cache, and the cache of processed images.", Unit.RATIO,
                      Query('~recent_cache_hit_ratio{cache!="local"}', f"{{{{cache}}}} {ENGINE}"), most=1.0, width=12,
                      empty="Not enabled: no KV connector, and no images."),
            ),
        ),
        Row(
            "Lifetime of KV blocks (needs --kv-cache-metrics)",
            (
                heatmap("How long do blocks live?", "Sampled blocks, from use to eviction.", "kv_block_lifetime_seconds", empty=_NO_SAMPLES),
                heatmap("How long were they idle before eviction?", "Short times: the cache evicts blocks that are still warm.", "kv_block_idle_seconds",
                        empty=_NO_SAMPLES),
                heatmap("How long between two uses?", "If longer than blocks live, a larger cache would hit more often.", "kv_block_reuse_gap_seconds",
                        empty=_NO_SAMPLES),
            ),
            collapsed=True,
        ),
        Row(
            "Offloading to host memory",
            (
                lines("How much is stored and loaded back?", "Bytes per second of the offloading connector.", Unit.BYTES,
                      Query("sum(rate(~kv_offload_stored_bytes_total[$__rate_interval]))", "stored", Color.PROMPT),
                      Query("sum(rate(~kv_offload_loaded_bytes_total[$__rate_interval]))", "loaded", Color.CACHE), width=12, empty=_NO_OFFLOADING),
                lines("How full is the host's cache?", "Usage of the CPU blocks.", Unit.RATIO, Query("~kv_offload_cpu_cache_usage_ratio", ENGINE),
                      most=1.0, width=12, empty=_NO_OFFLOADING),
            ),
            collapsed=True,
        ),
    ),
)  # fmt: skip
