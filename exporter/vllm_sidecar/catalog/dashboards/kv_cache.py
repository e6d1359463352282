"""KV cache: how much room there is, what its lack costs, and what prefix caching saves."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.factories import ENGINE, NO_SIDECAR, NO_SIDECAR_SHORT, heatmap, lines, number
from vllm_sidecar.catalog.dashboards.panel import Colour, Dashboard, Query, Row
from vllm_sidecar.catalog.types import Unit

_NO_OFFLOADING = "No KV offloading: no such connector is configured."
_NO_SAMPLES = "Not measured: start vLLM with --kv-cache-metrics."
_NO_CACHE = "Prefix caching is not enabled, or nothing was asked for."


def _hit_ratio(window: str) -> str:
    return f"rate(~prefix_cache_hit_tokens_total[{window}]) / (rate(~prefix_cache_queried_tokens_total[{window}]) > 0)"


KV_CACHE = Dashboard(
    "vllm-kv-cache",
    "vLLM · KV cache and prefix caching",
    "Room in the KV cache, what its lack costs, and what prefix caching saves.",
    (
        Row(
            "Is there room?",
            (
                number("Highest peak", "Highest usage of any engine at any second of the last minute.", Unit.RATIO,
                       "max(~recent_kv_cache_usage_peak_ratio)", "max(~kv_cache_usage_ratio)", decimals=0, width=6),
                number("Tokens free", "Tokens that fit into the caches of all chosen engines now.", Unit.TOKENS, "sum(~kv_cache_free_tokens)",
                       width=6, empty="not told", decimals=0),
                number("Full in", "When the first engine's cache is full if it grows on as in the last minute.", Unit.SECONDS,
                       "min(~kv_cache_time_to_full_seconds)", width=6, empty="not growing", decimals=0),
                number("Worst pressure", "0 to 1; above 0.5 only with preempted or waiting requests.", Unit.RATIO, "max(~kv_cache_pressure_ratio)",
                       bad="VllmKvCachePressure.pressure", width=6, decimals=0, empty=NO_SIDECAR_SHORT),
                lines("How full is each engine's cache?", "Peak of each second of the last minute. One full and others empty: routing.", Unit.RATIO,
                      Query("~recent_kv_cache_usage_peak_ratio", ENGINE, plain="~kv_cache_usage_ratio"), most=1.0),
                lines("How many tokens fit in?", "Free tokens; a request needs its prompt and its answer.", Unit.TOKENS,
                      Query("~kv_cache_free_tokens", ENGINE), empty="vLLM does not tell the size of its cache."),
                lines("How large is the cache?", "Capacity in tokens: set by --gpu-memory-utilization, --kv-cache-dtype and what weights leave.",
                      Unit.TOKENS, Query("~kv_cache_capacity_tokens", ENGINE, Colour.CACHE), empty="vLLM does not tell the size of its cache."),
            ),
        ),
        Row(
            "What does its lack cost?",
            (
                lines("Does it do damage?", "Pressure: preempted requests, usage while requests waited, and usage above 0.9. Lower --max-num-seqs, "
                      "or give the cache more room.", Unit.RATIO, Query("~kv_cache_pressure_ratio", ENGINE), bad="VllmKvCachePressure.pressure",
                      most=1.0, empty=NO_SIDECAR),
                lines("How many are preempted?", "Preemptions per second: each request loses its blocks and is computed again.", Unit.PER_SECOND,
                      Query("rate(~preemptions_total[$__rate_interval])", ENGINE)),
                lines("How many wait for room?", "Requests waiting for capacity; while the cache is not full the batch is the limit.", Unit.NONE,
                      Query('~requests_waiting{reason=~"capacity|unspecified|swapped"}', f"{{{{reason}}}} {ENGINE}"), decimals=0,
                      empty="Nothing has a reason to wait that vLLM tells."),
            ),
        ),
        Row(
            "What does prefix caching save?",
            (
                lines("How much hits now, and in its past?", "Share of looked-up tokens that were found. A drop against the day before: the "
                      "beginning of the prompts changed, or the cache is too small.", Unit.RATIO,
                      Query('~recent_cache_hit_ratio{cache="local"}', f"now {ENGINE}", Colour.CACHE, _hit_ratio("$__rate_interval")),
                      Query(_hit_ratio("1d"), f"mean of a day {ENGINE}", Colour.HISTOGRAM, dashed=True), most=1.0, empty=_NO_CACHE),
                lines("How much of the prompts is computed?", "The rest came from a cache and cost no prefill.", Unit.RATIO,
                      Query("~recent_prompt_computed_ratio", ENGINE, Colour.PROMPT), most=1.0, empty="No prompts, or no sidecar."),
                lines("Where do prompt tokens come from?", "Computed here, found in the local cache, or transferred.", Unit.TOKENS_PER_SECOND,
                      Query("sum by (source) (rate(~prompt_tokens_by_source_total[$__rate_interval]))", "{{source}}"), stacked=True,
                      empty="This vLLM does not tell where prompt tokens come from."),
                lines("How many tokens are looked up and found?", "Both in tokens per second; the area between them is prefill.", Unit.TOKENS_PER_SECOND,
                      Query("sum(rate(~prefix_cache_queried_tokens_total[$__rate_interval]))", "looked up", Colour.PROMPT),
                      Query("sum(rate(~prefix_cache_hit_tokens_total[$__rate_interval]))", "found", Colour.CACHE), width=12, empty=_NO_CACHE),
                lines("Do external and multimodal caches hit?", "A KV connector's cache, and the cache of processed images.", Unit.RATIO,
                      Query('~recent_cache_hit_ratio{cache!="local"}', f"{{{{cache}}}} {ENGINE}"), most=1.0, width=12,
                      empty="Not enabled: no KV connector, and no images."),
            ),
        ),
        Row(
            "Life of KV blocks (needs --kv-cache-metrics)",
            (
                heatmap("How long do blocks live?", "Sampled blocks, from use to eviction.", "kv_block_lifetime_seconds", empty=_NO_SAMPLES),
                heatmap("How long were they idle before eviction?", "Short times: the cache evicts what is still warm.", "kv_block_idle_seconds",
                        empty=_NO_SAMPLES),
                heatmap("How long between two uses?", "Longer than blocks live: a larger cache would hit more.", "kv_block_reuse_gap_seconds",
                        empty=_NO_SAMPLES),
            ),
            collapsed=True,
        ),
        Row(
            "Offloading to memory of the host",
            (
                lines("How much is stored and loaded back?", "Bytes per second of the offloading connector.", Unit.BYTES,
                      Query("sum(rate(~kv_offload_stored_bytes_total[$__rate_interval]))", "stored", Colour.PROMPT),
                      Query("sum(rate(~kv_offload_loaded_bytes_total[$__rate_interval]))", "loaded", Colour.CACHE), width=12, empty=_NO_OFFLOADING),
                lines("How full is the host's cache?", "Usage of the CPU blocks.", Unit.RATIO, Query("~kv_offload_cpu_cache_usage_ratio", ENGINE),
                      most=1.0, width=12, empty=_NO_OFFLOADING),
            ),
            collapsed=True,
        ),
    ),
)  # fmt: skip
