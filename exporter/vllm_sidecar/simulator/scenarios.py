"""The scenarios: their conditions, and the alerts that they should raise."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_sidecar.simulator.settings import Conditions


@dataclass(frozen=True, slots=True)
class Scenario:
    """One incident of a server.

    `changes` are the conditions that differ from a healthy server's, `server` the settings that it needs from the
    start; `alerts` are those that it should raise if it lasts long enough.
    """

    name: str
    description: str
    changes: Mapping[str, float | bool | str] = field(default_factory=dict)
    server: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)
    """Conditions that also apply in the healthy phases around it."""
    alerts: tuple[str, ...] = ()

    def conditions(self, traffic: Mapping[str, float]) -> Conditions:
        """Return the conditions while it lasts, in addition to its permanent traffic."""
        return Conditions.model_validate({**traffic, **self.changes})


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("healthy", "Four chats a second with shared system prompts; nothing waits."),
        Scenario(
            "queue-buildup",
            "More requests than --max-num-seqs admits: the queue grows, but the KV cache has room.",
            {"rate": 10.3},
            alerts=(
                "VllmQueueWaitHigh",
                "VllmTimeToFirstTokenSloBurn",
                "VllmQueueBacklog",
                "VllmCapacityWaiting",
            ),
        ),
        Scenario(
            "kv-exhaustion",
            "Long prompts and long answers fill the KV cache: requests are preempted and computed again.",
            {"rate": 1.9, "prompt_tokens": 2500.0, "output_tokens": 700.0},
            alerts=(
                "VllmKvCachePressure",
                "VllmPreemptionStorm",
                "VllmQueueWaitHigh",
                "VllmTimeToFirstTokenSloBurn",
                "VllmQueueBacklog",
                "VllmCapacityWaiting",
            ),
        ),
        Scenario(
            "slow-decode",
            "The GPU throttles because of heat: every step takes three times as long at normal traffic.",
            {"slowdown": 3.0},
            alerts=(
                "VllmQueueWaitHigh",
                "VllmTimeToFirstTokenSloBurn",
                "VllmInterTokenLatencyRegressed",
                "VllmQueueBacklog",
                "VllmCapacityWaiting",
            ),
        ),
        Scenario(
            "stall",
            "The engine hangs in a collective: /health answers 200, clients still connect, but no token arrives.",
            {"stalled": True},
            alerts=("VllmReplicasUnavailable", "VllmEngineStalled"),
        ),
        Scenario(
            "crash-loop",
            "The server crashes every 20 seconds and needs 8 seconds to listen again.",
            {"crash_seconds": 20.0},
            alerts=("VllmCrashLoop",),
        ),
        Scenario(
            "prefix-drop",
            "The system prompt begins with the current time: no request shares its prefix with another. "
            "VllmPrefixHitRatioDropped fires after 75 minutes, given a day of history.",
            {"shared_ratio": 0.0},
        ),
        Scenario(
            "spec-collapse",
            "The draft model no longer fits the traffic: most draft tokens are rejected.",
            {"acceptance_ratio": 0.1},
            {"speculative_tokens": 4},
            alerts=("VllmSpecDecodeAcceptanceLow",),
        ),
        Scenario(
            "error-burst",
            "Three of ten requests end with an internal error.",
            {"failing_ratio": 0.3},
            alerts=("VllmErrorRatioHigh", "VllmAvailabilitySloBurn"),
        ),
        Scenario(
            "stale-gauges",
            "All clients leave at once and none arrives: the gauges of an idle server still show requests.",
            {"clients_gone": True, "rate": 0.0},
            alerts=("VllmGaugesStale",),
        ),
        Scenario(
            "dp-imbalance",
            "The router sends nearly all requests to one of four data-parallel engines.",
            {"skew_ratio": 0.9},
            {"data_parallel_size": 4},
            {"rate": 10.0},
            alerts=("VllmDataParallelImbalance",),
        ),
        Scenario(
            "lora-thrash",
            "Eight adapters compete for two slots: requests wait although the batch has room.",
            {"rate": 6.0, "adapters_wanted": 8},
            {"max_loras": 2, "adapters": 8},
            alerts=(
                "VllmQueueWaitHigh",
                "VllmTimeToFirstTokenSloBurn",
                "VllmLoraSlotsExhausted",
                "VllmQueueBacklog",
            ),
        ),
        Scenario(
            "wrong-output",
            "Answers are garbage with status 200, as with damaged weights: only the canary notices.",
            {"answers": "garbage"},
        ),
        Scenario(
            "sleep",
            "The engine sleeps at level 1, but the router still sends requests.",
            {"sleeping": True, "rate": 1.0, "patience_seconds": 600.0},
            alerts=("VllmReplicasUnavailable", "VllmAsleepWithRequests"),
        ),
    )
}
