"""The meaning of each finding: its symptom, the alert that has its cause, the next command, and the flag to turn.

DATA: states are those of `serve.state`, causes those of the alerts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    """The next command or look."""
    flag: str = ""
    """The flag to turn, in which direction, and what that costs."""


_LOGS = "read the last lines of vLLM's log (kubectl logs POD -c vllm --tail=200, or journalctl -u vllm)"
_TOP = "vllm-sidecar top http://HOST:8000"
_COMPARED = "vllm-sidecar compare --prometheus URL --at now-24h --at now: "
_MORE_REQUESTS = f"{_COMPARED}are there more requests than yesterday?"
_LONGER = f"{_COMPARED}are prompts or answers longer than yesterday's?"
_MORE_SEATS = (
    "--max-num-seqs up, while the KV cache has room: costs ITL, because steps get larger, and KV blocks; "
    "otherwise one more replica"
)
_MORE_CACHE = (
    "--gpu-memory-utilization up (less reserve for peaks of activations), --kv-cache-dtype fp8 (some accuracy), or "
    "--max-num-seqs down (fewer preemptions, longer queue); --max-model-len down refuses the longest prompts"
)

MEANINGS: dict[str, Meaning] = {
    "down": Meaning(Symptom.AVAILABILITY, "VllmTargetDown", _LOGS),
    "several_servers": Meaning(Symptom.MONITORING, "VllmTargetNotOneServer", "run doctor on the address of one pod"),
    "not_an_engine": Meaning(
        Symptom.MONITORING, "VllmTargetNotOneServer",
        "run doctor on the address of one engine; of a sidecar, doctor --from URL",
    ),
    "unhealthy": Meaning(Symptom.AVAILABILITY, "VllmEngineStalled", _LOGS),
    "stalled": Meaning(
        Symptom.AVAILABILITY, "VllmEngineStalled", "py-spy dump --pid PID of EngineCore and nvidia-smi, then restart"
    ),
    "no_progress": Meaning(
        Symptom.AVAILABILITY, "VllmEngineStalled", "run doctor --for 150s: after 120 s without progress it is a stall"
    ),
    "asleep": Meaning(Symptom.AVAILABILITY, "VllmAsleepWithRequests", "curl -X POST http://HOST:8000/wake_up"),
    "gauges_stale": Meaning(
        Symptom.MONITORING, "VllmGaugesStale", "send one short request: if it is answered, the server is idle"
    ),
    "kv_cache_full": Meaning(
        Symptom.MEMORY, "VllmKvCachePressure", _LONGER,
        _MORE_CACHE,
    ),
    "kv_cache_held": Meaning(
        Symptom.MEMORY, "VllmKvCacheHeld", "send one short request, look again, then search the log for transfer"
    ),
    "queueing:batch": Meaning(
        Symptom.TTFT, "VllmQueueWaitHigh", _MORE_REQUESTS, _MORE_SEATS
    ),
    "queueing:kv_cache": Meaning(
        Symptom.TTFT, "VllmQueueWaitHigh", _LONGER, _MORE_CACHE
    ),
    "queueing:adapter": Meaning(
        Symptom.TTFT, "VllmLoraSlotsExhausted",
        "curl -s http://HOST:8000/metrics | grep lora_requests_info: the adapters that run and wait",
        "--max-loras up: costs GPU memory for each slot; or replicas of their own for some adapters",
    ),
    "queueing:transfer": Meaning(
        Symptom.TTFT, "VllmKvTransferFailures", "kubectl logs POD -c vllm --tail=1000 | grep -i connector"
    ),
    "queueing": Meaning(
        Symptom.TTFT, "VllmQueueWaitHigh",
        f"{_TOP}: does running stay at --max-num-seqs, or is KV-cache usage near 100 %?",
    ),
    "failing": Meaning(Symptom.ERRORS, "VllmErrorRatioHigh", _LOGS),
    "rejecting": Meaning(
        Symptom.ERRORS, "VllmRejectionRatioHigh", _MORE_REQUESTS,
        "--max-num-queued-reqs up (a longer queue, higher TTFT), or more replicas",
    ),
    "aborting": Meaning(Symptom.ERRORS, "VllmAbortRatioHigh", "compare the timeouts of clients with request times"),
    "restarting": Meaning(Symptom.AVAILABILITY, "VllmCrashLoop", "kubectl logs POD -c vllm --previous --tail=200"),
    "slow_first_token": Meaning(
        Symptom.TTFT, "VllmTimeToFirstTokenSloBurn",
        f"{_TOP}: if queue time is near TTFT it is the queue, otherwise the prefill",
        "--max-num-batched-tokens up shortens the prefill of long prompts: costs ITL",
    ),
    "slow_decode": Meaning(
        Symptom.ITL, "VllmInterTokenLatencySloBurn",
        "nvidia-smi -q -d PERFORMANCE: are the GPUs throttled? If not, are more requests running than before?",
        "--max-num-batched-tokens or --max-num-seqs down: costs throughput and TTFT",
    ),
    "corrupted": Meaning(Symptom.OUTPUT, "VllmRequestsCorrupted", "take the replica out of the router, check its GPU"),
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
        "curl -s http://HOST:8000/metrics | grep accepted_tokens_per_pos: which positions are still accepted",
        "num_speculative_tokens in --speculative-config down, or no speculation: costs ITL at low load",
    ),
    "engines_uneven": Meaning(
        Symptom.TTFT, "VllmDataParallelImbalance", f"{_TOP}: the running requests of each engine"
    ),
    "gpu_throttled": Meaning(Symptom.ITL, "VllmGpuThrottled", "nvidia-smi -q -d PERFORMANCE,TEMPERATURE"),
    "gpu_lost": Meaning(Symptom.AVAILABILITY, "VllmGpuLost", "dmesg | grep -i xid; drain the node"),
    "gpu_starved": Meaning(Symptom.TTFT, "VllmGpuStarved", "top: is a CPU of the API server at 100 %?"),
}  # fmt: skip
"""By the name of a finding: a state, with the limit of a queue after a colon, or one of `findings`."""
