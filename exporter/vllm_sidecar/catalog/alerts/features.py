"""Optional features of servers: speculation, adapters, data parallelism, transfer of KV blocks."""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import ENGINE, LOGS, OF_MODEL, REPLICA, SERVED, Alert, Severity, number, ratio

FEATURES: tuple[Alert, ...] = (
    Alert(
        name="VllmSpecDecodeAcceptanceLow",
        severity=Severity.TICKET,
        hold="10m",
        expr=(
            "~recent_spec_decode_accepted_length_tokens < <<gain>> "
            "and on (<<E>>) (increase(~spec_decode_drafts_total[10m]) >= <<least_drafts>>)"
        ),
        thresholds=(
            number("gain", 1.5, "Tokens per step of the model below which drafts cost more than they save."),
            number("least_drafts", 300, "Below this many drafts in ten minutes it does not fire."),
        ),
        summary=f"{ENGINE} rejects most of its draft tokens",
        description="A step of the model yields {{ $value | humanize }} tokens, less than <<gain>> (without "
        "speculation it is 1): drafts cost more than they save. The share of accepted draft tokens matters less.",
        cause="the draft model does not fit the traffic or the new model, or too many tokens are drafted",
        first="PromQL: vllm_sidecar_recent_spec_decode_position_acceptance_ratio"
        "{" + OF_MODEL + "}: draft only up to the positions that are still accepted",
        dashboard="vllm-features",
    ),
    Alert(
        name="VllmLoraSlotsExhausted",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            "~lora_slots_used >= ~lora_slots and on (<<T>>) ("
            '(max by (<<T>>) (~admission_limit{limit="adapter"}) == 1) or '
            '(count by (<<T>>) (~lora_adapter_active{state="waiting"} == 1 '
            'unless on (<<T>>, lora_adapter) (~lora_adapter_active{state="running"} == 1)) > <<waiting>>))'
        ),
        thresholds=(number("waiting", 0, "Adapters that may wait for a slot."),),
        summary=f"requests to {REPLICA} wait for a LoRA slot",
        description="All {{ $value }} slots hold an adapter in use, and requests for other adapters wait. Requests "
        "that wait for a transfer of KV blocks do not count.",
        cause="requests for more adapters at once than --max-loras",
        first='PromQL: vllm_sidecar_lora_adapter_active{state="waiting"} == 1: raise --max-loras, or give adapters '
        "replicas of their own",
        dashboard="vllm-features",
    ),
    Alert(
        name="VllmDataParallelImbalance",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            '~recent_data_parallel_imbalance_ratio{load="generation_tokens"} > <<imbalance>> '
            "and on (<<M>>) (sum by (<<M>>) (~requests_running) "
            ">= on (<<M>>) (<<running>> * max by (<<M>>) (~data_parallel_engines)))"
        ),
        thresholds=(
            ratio("imbalance", 0.5, "1 - mean / max of the generated tokens of the engines."),
            number(
                "running", 2, "Below this many running requests per engine it does not fire, because chance decides."
            ),
        ),
        summary=f"the data-parallel engines of {SERVED} are unevenly loaded",
        description="The busiest engine does far more than the mean (imbalance {{ $value | humanizePercentage }}).",
        cause="sticky sessions, or a router that looks at one engine only",
        first="PromQL: sum by (pod, instance, engine) (vllm_sidecar_requests_running{" + OF_MODEL + "})",
        dashboard="vllm-features",
    ),
    Alert(
        name="VllmDataParallelRankIdle",
        severity=Severity.TICKET,
        hold="2m",
        expr=(
            "increase(~generation_tokens_total[5m]) == 0 "
            "and on (<<M>>) (sum by (<<M>>) (~requests_waiting) > <<waiting>>) "
            "and on (<<M>>) (sum by (<<M>>) (increase(~generation_tokens_total[5m])) > 0) "
            "and on (<<M>>) (~data_parallel_engines > 1) unless on (<<E>>) (~engine_sleeping == 1)"
        ),
        thresholds=(number("waiting", 4, "Requests that wait for the engines of the model."),),
        summary=f"{ENGINE} does nothing while requests wait for its model",
        description="It generated no token in five minutes, and more than <<waiting>> requests wait for the model.",
        cause="the router does not see the rank, or the rank hangs",
        first="PromQL: sum by (pod, instance, engine) "
        "(rate(vllm_sidecar_generation_tokens_total{" + OF_MODEL + "}[5m]))",
        dashboard="vllm-features",
    ),
    Alert(
        name="VllmKvTransferFailures",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            'sum without (result) (increase(~kv_transfers_total{result=~"failed|expired"}[10m])) '
            '/ (sum without (result) (increase(~kv_transfers_total{result=~"completed|failed|expired"}[10m])) > 0) '
            "> <<failures>> "
            'and sum without (result) (increase(~kv_transfers_total{result=~"failed|expired"}[10m])) '
            ">= <<least_failures>>"
        ),
        thresholds=(
            ratio("failures", 0.01, "Share of the KV transfers of ten minutes that failed or expired."),
            number(
                "least_failures", 10, "Below this many failed or expired KV transfers in ten minutes it does not fire."
            ),
        ),
        summary=f"KV transfers ({{{{ $labels.connector }}}}) of {ENGINE} fail",
        description="{{ $value | humanizePercentage }} of the transfers of ten minutes failed or expired, more than "
        "<<failures>>: these prompts are computed again.",
        cause="the network between prefill and decode, a store that is down or full, or a decode side that fetches too "
        "late",
        first=f"{LOGS}, and look for {{{{ $labels.connector }}}}: the peer or the store that it names",
        dashboard="vllm-features",
    ),
)
