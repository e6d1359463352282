"""Features: speculation, LoRA, parallelism, KV transfer; each panel says so if its feature is not enabled."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.factories import ENGINE, SERVER, bars, heatmap, lines, number, states, table
from vllm_sidecar.catalog.dashboards.panel import YES, Color, Dashboard, Query, Row, Word
from vllm_sidecar.catalog.types import Unit

_OFF = "not enabled"
_NO_DRAFTS = "Speculative decoding is not enabled (--speculative-config), or nothing runs."
_NO_LORA = "LoRA is not enabled (--enable-lora), or no adapter has requests."
_ONE_ENGINE = "Not enabled: no model with more than one data-parallel engine."
_NO_CONNECTOR = "Not enabled: no KV connector with metrics, or nothing was transferred."
_NO_NIXL = "Not enabled: no NIXL connector."
_NO_TP = "No server with more than one GPU, or its GPUs are not read."
_SEVERAL = " and on (<<M>>) (~data_parallel_engines > 1)"
_ACTIVE = (Word(0, "no", Color.HISTOGRAM), Word(1, "active", Color.RUNNING))

FEATURES_DASHBOARD = Dashboard(
    "vllm-features",
    "vLLM · Speculation, LoRA, parallelism",
    "Optional features and their effect. Rows are collapsed: open the one whose number above is red.",
    (
        Row(
            "What is enabled, and is it healthy?",
            (
                number("Tokens per step", "1 + accepted / drafts, of the worst engine that speculates: near 1, drafts save nothing.", Unit.TOKENS,
                       "min(~recent_spec_decode_accepted_length_tokens)",
                       "min(1 + rate(~spec_decode_accepted_tokens_total[5m]) / (rate(~spec_decode_drafts_total[5m]) > 0))",
                       bad="VllmSpecDecodeAcceptanceLow.gain", below=True, decimals=1, empty=_OFF),
                number("LoRA slots in use", "Adapters in the batch, as a share of those that fit (--max-loras). All in use and requests deferred means thrashing.",
                       Unit.RATIO, "max(~lora_slots_used / (~lora_slots > 0))", decimals=0, empty=_OFF),
                number("Requests deferred", "Waiting for a LoRA slot, a grammar or a transfer.", Unit.NONE,
                       'sum(~requests_waiting{reason="deferred"})', decimals=0, empty="not reported"),
                number("Data-parallel imbalance", "1 - mean / max of the generated tokens over the engines of the worst model.", Unit.RATIO,
                       'max(~recent_data_parallel_imbalance_ratio{load="generation_tokens"})', bad="VllmDataParallelImbalance.imbalance",
                       decimals=0, empty=_OFF),
                number("Tensor-parallel straggling", "1 - min / max of the load over the GPUs of the worst group.", Unit.RATIO,
                       "max(~recent_gpu_imbalance_ratio)", bad="VllmGpuStraggler.imbalance", decimals=0, empty=_OFF),
                number("Failed KV transfers", "Failed or expired in ten minutes, of all connectors.", Unit.NONE,
                       'sum(increase(~kv_transfers_total{result=~"failed|expired"}[10m]))', bad="above_zero", decimals=0, empty=_OFF),
                table("Which server has which features?", "Sizes that each server was started with, as far as it exposes them.",
                      Query('max by (<<T>>) (~up{source="vllm"})', ""),
                      Query("max by (<<T>>) (~config_tensor_parallel_size)", "Tensor parallel"),
                      Query("max by (<<T>>) (~config_pipeline_parallel_size)", "Pipeline parallel"),
                      Query("sum by (<<T>>) (~data_parallel_engines)", "Engines"),
                      Query("max by (<<T>>) (~config_num_speculative_tokens)", "Draft tokens"),
                      Query("max by (<<T>>) (~lora_slots)", "LoRA slots"),
                      labels=("cluster", "namespace", "instance", "target"), links=("instance",), height=7, empty="No server exposes its flags."),
            ),
        ),
        Row(
            "Speculative decoding",
            (
                lines("How many drafts are accepted?", "The next panel shows the gain: a low share of many draft tokens can pay off, a high share of one may not.",
                      Unit.RATIO, Query("~recent_spec_decode_acceptance_ratio", ENGINE, None,
                      "rate(~spec_decode_accepted_tokens_total[$__rate_interval]) / (rate(~spec_decode_draft_tokens_total[$__rate_interval]) > 0)"),
                      most=1.0, empty=_NO_DRAFTS),
                lines("How many tokens does a step yield?", "1 + accepted / drafts: the speed-up before its cost. Below the threshold, choose another "
                      "draft model or fewer tokens.", Unit.TOKENS,
                      Query("~recent_spec_decode_accepted_length_tokens", ENGINE, Color.GENERATION),
                      bad="VllmSpecDecodeAcceptanceLow.gain", below=True, empty=_NO_DRAFTS),
                lines("How many draft tokens are rejected?", "Draft tokens that were computed for nothing.", Unit.TOKENS_PER_SECOND,
                      Query("~recent_spec_decode_wasted_tokens_per_second", ENGINE, Color.WAITING), empty=_NO_DRAFTS),
                bars("Up to which position do drafts pay off?", "Share of drafts whose token at the position was accepted; cut --num-speculative-tokens "
                     "where it is small.", Unit.RATIO,
                     Query("avg by (position) (~recent_spec_decode_position_acceptance_ratio)", "position {{position}}"), most=1.0, width=12,
                     empty=_NO_DRAFTS),
                lines("Are tokens still fast?", "Recent p95 per output token of a request, which includes the cost of rejected drafts.", Unit.SECONDS,
                      Query('~recent_time_per_output_token_seconds{quantile="0.95"}', ENGINE, Color.P95), bad="slo.time_per_output_token", width=12,
                      empty="Too few requests finished for quantiles."),
            ),
            collapsed=True,
        ),
        Row(
            "LoRA adapters",
            (
                states("Which adapters have requests?", "With more active adapters than slots they take turns, and requests are deferred.",
                       Query("max by (instance, target, lora_adapter) (~lora_adapter_active)", "{{lora_adapter}} {{instance}} {{target}}"),
                       words=_ACTIVE, width=12, empty=_NO_LORA),
                lines("How many slots are in use?", "Adapters with running requests, and how many fit (--max-loras).", Unit.NONE,
                      Query("~lora_slots_used", f"used {SERVER}", Color.RUNNING), Query("~lora_slots", f"slots {SERVER}", Color.BAD, dashed=True),
                      decimals=0, width=12, empty=_NO_LORA),
                lines("How many requests are deferred?", "Requests that wait although batch and KV cache have room.", Unit.NONE,
                      Query('~requests_waiting{reason="deferred"}', ENGINE, Color.WAITING), decimals=0, width=24, height=6,
                      empty="This vLLM does not report why requests wait."),
            ),
            collapsed=True,
        ),
        Row(
            "Data parallelism: do engines share the work?",
            (
                lines("How uneven is it?", "1 - mean / max over the engines of a model: 0 is balanced. If high, check the router.", Unit.RATIO,
                      Query("~recent_data_parallel_imbalance_ratio", f"{{{{load}}}} {{{{model_name}}}} {SERVER}"),
                      bad="VllmDataParallelImbalance.imbalance", most=1.0, empty=_ONE_ENGINE),
                lines("What does each engine generate?", "An engine far above the others gets too much; one at 0 is idle or dead.", Unit.TOKENS_PER_SECOND,
                      Query(f"~recent_generation_tokens_per_second{_SEVERAL}", ENGINE), empty=_ONE_ENGINE),
                lines("What runs and waits at each?", "Requests that wait at one engine while another has room are a routing problem.", Unit.NONE,
                      Query(f"~requests_running{_SEVERAL}", f"running {ENGINE}"),
                      Query(f"sum without (reason) (~requests_waiting){_SEVERAL}", f"waiting {ENGINE}", dashed=True), decimals=0, empty=_ONE_ENGINE),
            ),
            collapsed=True,
        ),
        Row(
            "Tensor and pipeline parallelism",
            (
                lines("Does a GPU of a group straggle?", "All wait for the slowest: see the GPU dashboard for heat and throttling.", Unit.RATIO,
                      Query("~recent_gpu_imbalance_ratio", f"{{{{load}}}} {SERVER}"), bad="VllmGpuStraggler.imbalance", most=1.0, width=12, empty=_NO_TP),
                states("Does a group hang?", "GPUs that are busy while the engine has work and makes no progress.",
                       Query("max by (<<T>>) (~gpu_busy_without_progress == 1)", SERVER), words=YES, width=12,
                       empty="No group hung in this range, as far as GPUs are read."),
            ),
            collapsed=True,
        ),
        Row(
            "KV transfer between servers",
            (
                lines("Do transfers fail?", "Failed transfers, requests whose blocks expired before they were fetched, and blocks that were refused because "
                      "the cache had no room, by connector.", Unit.PER_SECOND,
                      Query('rate(~kv_transfers_total{result!="completed"}[$__rate_interval])', f"{{{{connector}}}} {{{{result}}}} {ENGINE}"),
                      empty=_NO_CONNECTOR),
                lines("Which share fails?", "Failed and expired transfers of ten minutes, as a share of all that ended, by connector.", Unit.RATIO,
                      Query('sum without (result) (increase(~kv_transfers_total{result=~"failed|expired"}[10m])) '
                            '/ (sum without (result) (increase(~kv_transfers_total{result!="refused"}[10m])) > 0)',
                            f"{{{{connector}}}} {ENGINE}"),
                      bad="VllmKvTransferFailures.failures", most=1.0, empty=_NO_CONNECTOR),
                heatmap("How long do transfers of NIXL take?", "Transfers by duration.", "nixl_transfer_seconds", empty=_NO_NIXL),
                lines("How many requests wait for blocks?", "By stage.", Unit.NONE, Query("sum by (stage) (~requests_kv_fetching)", "{{stage}}"),
                      empty="Not enabled: no KV connector.", decimals=0),
            ),
            collapsed=True,
        ),
    ),
)  # fmt: skip
