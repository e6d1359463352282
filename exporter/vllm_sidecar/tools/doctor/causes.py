"""The meaning of each finding: its symptom, the alert that has its cause, the next command, and the flag to turn.

DATA: states are those of `serve.state`, causes those of the alerts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Symptom(StrEnum):
    """Kinds of symptoms, as an incident is split into them."""

    AVAILABILITY = "outage"
    ERRORS = "errors"
    TTFT = "high TTFT"
    ITL = "slow ITL"
    MEMORY = "KV cache short"
    OUTPUT = "wrong output"
    MONITORING = "monitoring gap"


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of a finding; empty where there is nothing to say."""

    symptom: Symptom
    alert: str = ""
    """The alert with the same condition: its cause, and its runbook."""
    next: str = ""
    """The next command, or what to do. `{server}` is the address of vLLM, `{watch}` the arguments of `doctor` and
    `top` for what was diagnosed, `{model}` a name of the model."""
    look: str = ""
    """What to look for in its output."""
    flag: str = ""
    """The flag to turn, in which direction, and what that costs."""
    cause: str = ""
    """Instead of the cause of the alert."""
    shows: bool = True
    """It shows its symptom; otherwise it may only cause it, unless it is bad."""


_LOGS = "kubectl logs POD -c vllm --tail=200"
_LAST_ERROR = "its last errors; without Kubernetes journalctl -u vllm -n 200"
_TOP = "vllm-sidecar top {watch}"
COMPARE_DAYS = "vllm-sidecar compare --prometheus http://PROMETHEUS:9090 --at now-24h --at now"
_MORE_REQUESTS = "are there more requests than yesterday?"
_LONGER = "are prompts or answers longer than yesterday's?"
ONE_REQUEST = (
    """curl -m 60 {server}/v1/completions -H 'Content-Type: application/json' """
    """-d '{{"model": "{model}", "prompt": "1 2 3", "max_tokens": 1}}'"""
)
_MORE_SEATS = (
    "--max-num-seqs up, while the KV cache has room: costs ITL, because steps get larger, and KV blocks; "
    "otherwise one more replica"
)
_MORE_CACHE = (
    "--gpu-memory-utilization up (less reserve for peaks of activations), --kv-cache-dtype fp8 (some accuracy), or "
    "--max-num-seqs down (fewer preemptions, longer queue); --max-model-len down refuses the longest prompts"
)
QUEUES = ("queueing:batch", "queueing:kv_cache", "queueing:adapter", "queueing:transfer", "queueing")

MEANINGS: dict[str, Meaning] = {
    "down": Meaning(Symptom.AVAILABILITY, "VllmTargetDown", _LOGS, _LAST_ERROR),
    "several_servers": Meaning(
        Symptom.MONITORING, "VllmTargetNotOneServer", "vllm-sidecar doctor http://POD_IP:8000",
        "the address of one pod: kubectl get pods -o wide",
    ),
    "not_an_engine": Meaning(
        Symptom.MONITORING, "VllmTargetNotOneServer", "vllm-sidecar doctor http://ENGINE:8000",
        "the address of one engine; of a sidecar, vllm-sidecar doctor --from {server}",
    ),
    "unhealthy": Meaning(Symptom.AVAILABILITY, "VllmEngineStalled", _LOGS, _LAST_ERROR),
    "stalled": Meaning(
        Symptom.AVAILABILITY, "VllmEngineStalled", "pgrep VLLM | xargs -n 1 py-spy dump --pid",
        "on the machine of the server; keep the stacks and the output of nvidia-smi, then restart the server",
    ),
    "no_progress": Meaning(
        Symptom.AVAILABILITY, "VllmEngineStalled", "vllm-sidecar doctor {watch} --for 150s",
        "after 120 s without progress it is called a stall, or the gauges are called frozen",
        cause="a hang, a very long step, or an idle server whose gauges froze when all clients left at once",
        shows=False,
    ),
    "asleep": Meaning(
        Symptom.AVAILABILITY, "VllmAsleepWithRequests", "curl -X POST {server}/wake_up",
        "is the queue served? It needs VLLM_SERVER_DEV_MODE=1; after level 2 the weights must be loaded again",
        shows=False,
    ),
    "gauges_stale": Meaning(
        Symptom.MONITORING, "VllmGaugesStale", ONE_REQUEST, "if it is answered, the server is idle; otherwise it hangs"
    ),
    "kv_cache_full": Meaning(
        Symptom.MEMORY, "VllmKvCachePressure", COMPARE_DAYS, _LONGER, _MORE_CACHE,
    ),
    "kv_cache_held": Meaning(
        Symptom.MEMORY, "VllmKvCacheHeld", ONE_REQUEST,
        "if blocks are still held afterwards (vllm-sidecar top {watch}), search the log of vLLM for transfer",
    ),
    "queueing:batch": Meaning(
        Symptom.TTFT, "VllmQueueWaitHigh", COMPARE_DAYS, _MORE_REQUESTS, _MORE_SEATS,
        "more requests at a time than --max-num-seqs: more traffic, longer answers, or slower steps", shows=False,
    ),
    "queueing:kv_cache": Meaning(
        Symptom.TTFT, "VllmQueueWaitHigh", COMPARE_DAYS, _LONGER, _MORE_CACHE,
        "more or longer requests at a time than the KV cache holds", shows=False,
    ),
    "queueing:adapter": Meaning(
        Symptom.TTFT, "VllmLoraSlotsExhausted",
        "curl -s {server}/metrics | grep lora_requests_info", "the adapters that run and wait",
        "--max-loras up: costs GPU memory for each slot; or replicas of their own for some adapters", shows=False,
    ),
    "queueing:transfer": Meaning(
        Symptom.TTFT, "VllmKvTransferFailures", "kubectl logs POD -c vllm --tail=1000 | grep -i connector",
        "failed or slow transfers", cause="KV blocks of another server, or a grammar, that are not ready", shows=False,
    ),
    "queueing": Meaning(
        Symptom.TTFT, "VllmQueueWaitHigh",
        _TOP, "does running stay at --max-num-seqs, or is KV-cache usage near 100 %?",
        cause="more load than the server takes; which limit it meets is unknown", shows=False,
    ),
    "failing": Meaning(Symptom.ERRORS, "VllmErrorRatioHigh", _LOGS, _LAST_ERROR),
    "rejecting": Meaning(
        Symptom.ERRORS, "VllmRejectionRatioHigh", COMPARE_DAYS, _MORE_REQUESTS,
        "--max-num-queued-reqs up (a longer queue, higher TTFT), or more replicas",
    ),
    "aborting": Meaning(Symptom.ERRORS, "VllmAbortRatioHigh", "compare the timeouts of clients with request times"),
    "restarting": Meaning(
        Symptom.AVAILABILITY, "VllmCrashLoop", "kubectl logs POD -c vllm --previous --tail=200",
        "the error before the exit; without Kubernetes journalctl -u vllm -n 200", shows=False,
    ),
    "slow_first_token": Meaning(
        Symptom.TTFT, "VllmTimeToFirstTokenSloBurn",
        _TOP, "if queue time is near TTFT it is the queue, otherwise the prefill",
        "--max-num-batched-tokens up shortens the prefill of long prompts: costs ITL",
    ),
    "prefix_hits_dropped": Meaning(
        Symptom.TTFT, "VllmPrefixHitRatioDropped", "compare the first 200 characters of two prompts of the same client",
        "a time, an id, or another template at the beginning", shows=False,
    ),
    "slow_decode": Meaning(
        Symptom.ITL, "VllmInterTokenLatencySloBurn", "nvidia-smi -q -d PERFORMANCE",
        "are the GPUs throttled? If not, are more requests running than before?",
        "--max-num-batched-tokens down (slower prefill) or --max-num-seqs down (longer queue); where requests also "
        "wait, one more replica",
    ),
    "corrupted": Meaning(
        Symptom.OUTPUT, "VllmRequestsCorrupted", "nvidia-smi -q -d ECC",
        "errors of the memory; take the replica out of the router first",
    ),
    "canary_wrong": Meaning(
        Symptom.OUTPUT, "VllmCanaryOutputWrong", "compare template, generation config and adapter with the last release"
    ),
    "canary_changed": Meaning(
        Symptom.OUTPUT, "VllmCanaryOutputChanged", "compare the hashes of the answer with those of other replicas"
    ),
    "canary_failing": Meaning(
        Symptom.AVAILABILITY, "VllmCanaryFailing", "send one short request through the address of users"
    ),
    "drafts_rejected": Meaning(
        Symptom.ITL, "VllmSpecDecodeAcceptanceLow",
        "curl -s {server}/metrics | grep accepted_tokens_per_pos", "which positions are still accepted",
        "num_speculative_tokens in --speculative-config down, or no speculation: costs ITL at low load", shows=False,
    ),
    "engines_uneven": Meaning(
        Symptom.TTFT, "VllmDataParallelImbalance", _TOP, "the running requests of each engine", shows=False
    ),
    "gpu_throttled": Meaning(
        Symptom.ITL, "VllmGpuThrottled", "nvidia-smi -q -d PERFORMANCE,TEMPERATURE",
        "which GPU is throttled, and its temperature", shows=False,
    ),
    "gpu_lost": Meaning(Symptom.AVAILABILITY, "VllmGpuLost", "dmesg | grep -i xid", "its code; drain the node"),
    "gpu_starved": Meaning(
        Symptom.TTFT, "VllmGpuStarved", "top -b -n 1 | head -n 20", "is a process of vLLM at 100 % of a CPU?"
    ),
}  # fmt: skip
"""By the name of a finding: a state, with the limit of a queue after a colon, or one of `findings`."""

FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "queueing:batch": ("engines_uneven", "gpu_throttled"),
    "queueing:kv_cache": ("engines_uneven",),
    "kv_cache_full": ("engines_uneven",),
    "slow_first_token": ("kv_cache_full", *QUEUES),
    "slow_decode": ("gpu_throttled", "drafts_rejected", "kv_cache_full"),
    "prefix_hits_dropped": ("kv_cache_full",),
    "failing": ("stalled", "no_progress"),
    "aborting": ("asleep", "stalled", "no_progress", "kv_cache_full", *QUEUES),
    "canary_failing": ("down", "asleep", "stalled", "no_progress", "failing", "kv_cache_full", *QUEUES),
    "down": ("restarting",),
}
"""Findings that likely follow from others of the same engine, or of the whole server: the first of these."""

RATHER: Mapping[tuple[str, str], str] = {
    ("queueing:batch", "slow_decode"): "one more replica: --max-num-seqs up would make the ITL, which is above its "
    "objective, worse",
}
"""The flag of a finding while there is another one, to which its own flag would be harmful."""
