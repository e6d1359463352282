"""Alerts that make other alerts redundant: Alertmanager sends the source and not its targets.

A page is never inhibited by a ticket: somebody must be notified of what affects users, whatever its cause. `equal`
holds only labels that both sides have, or that no alert of an installation has (`cluster`, `namespace`): Alertmanager
treats a label that is missing on both sides as equal, and one that is missing on one side as different. A label of
`present` must exist on both sides: otherwise all alerts without it would be equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_sidecar.catalog.alerts import GROUPS, Severity

MODEL = ("cluster", "namespace", "model_name")
"""All replicas of a model; alerts of one replica have the labels too."""
SIDECAR = ("cluster", "namespace", "instance")
"""One sidecar, with the GPUs of its pod or host."""
REPLICA = (*SIDECAR, "target")
ENGINE = (*REPLICA, "model_name", "engine")
SLO = (*MODEL, "slo")


@dataclass(frozen=True, slots=True)
class Inhibition:
    """While a source fires, the targets with the same values of `equal` are not sent."""

    why: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    equal: tuple[str, ...]
    present: tuple[str, ...] = ()
    paging: bool = False
    """Sources inhibit only while they page: a slow burn is a ticket that lasts for days."""


def _tickets(*groups: str, but: tuple[str, ...] = ()) -> tuple[str, ...]:
    found = (alert for group in GROUPS for alert in group.alerts if group.name in groups)
    return tuple(alert.name for alert in found if alert.severity is Severity.TICKET and alert.name not in but)


_UNAVAILABLE = ("VllmModelGone", "VllmReplicasUnavailable")
_DOWN = ("VllmTargetDown", "VllmMetricsMissing")
_LOOP = ("VllmCrashLoop",)
_HUNG = ("VllmEngineStalled", "VllmAsleepWithRequests")
_BURNS = (
    *("VllmTimeToFirstTokenSloBurn", "VllmInterTokenLatencySloBurn"),
    *("VllmRequestDurationSloBurn", "VllmAvailabilitySloBurn"),
)
_SLOW = (*_tickets("vllm-queue"), "VllmKvCachePressure", "VllmPreemptionStorm")
"""Symptoms of overload on one replica."""
_SLOWER = ("VllmInterTokenLatencyRegressed", "VllmSaturationSustained")
"""Symptoms of overload on a model."""
_OF_REPLICA = (
    *_tickets("vllm-queue", "vllm-cache", "vllm-features"),
    *_tickets("vllm-replicas", but=(*_DOWN, *_LOOP, "VllmHostMemoryNearLimit")),
    *("VllmGaugesStale", "VllmSignalMissing", "VllmSidecarPollsFailing", "VllmSidecarBehind"),
    *("VllmReplicaSlow", "VllmReplicaLoadUneven"),
)
_GPU_BROKEN = ("VllmGpuLost", "VllmGpuXidCritical")
"""Without alerts that last for weeks: a GPU that waits for replacement must not hide a server that dies meanwhile."""
_BY_BROKEN_GPU = (
    *("VllmEngineStalled", "VllmReplicaSlow", "VllmGpuHang", "VllmGpuMissing", "VllmGpuStarved", "VllmGpuUnreadable"),
    *_tickets("vllm-queue"),
)
_OF_GPU = ("VllmGpuXid", "VllmGpuEccUncorrectable", "VllmGpuThrottled")

INHIBITIONS: tuple[Inhibition, ...] = (
    Inhibition(
        "The page for a model without enough replicas lists them; their tickets repeat it.",
        _UNAVAILABLE, (*_DOWN[:1], *_HUNG, *_SLOW, *_SLOWER, "VllmGaugesStale"), MODEL,
    ),
    Inhibition("Users are paged for already: the canary fails for the same reason.",
               (*_UNAVAILABLE, "VllmQueueWaitHigh", "VllmErrorRatioHigh", "VllmRejectionRatioHigh"),
               ("VllmCanaryFailing",), MODEL),
    Inhibition("NaN in the logits, or a wrong answer, explains a changed one.",
               ("VllmRequestsCorrupted", "VllmCanaryOutputWrong"), ("VllmCanaryOutputChanged",), MODEL),
    Inhibition("NaN in the logits explains wrong answers.",
               ("VllmRequestsCorrupted",), ("VllmCanaryOutputWrong",), MODEL),
    Inhibition("Too few replicas make the others slow.", _UNAVAILABLE, ("VllmQueueWaitHigh",), MODEL),
    Inhibition("A page reports what users notice; queues and pressure have the same cause.",
               (*_BURNS, "VllmQueueWaitHigh", "VllmRejectionRatioHigh"), (*_SLOW, *_SLOWER), MODEL, paging=True),
    Inhibition(
        "Without its sidecar a server is not monitored; remaining alerts are outdated.",
        ("VllmSidecarDown",), (*_DOWN, *_LOOP, *_OF_REPLICA), SIDECAR, ("instance",),
    ),
    Inhibition("A server that is down, or that cannot be read, explains its other alerts.",
               _DOWN, _OF_REPLICA, REPLICA, ("instance",)),
    Inhibition("A server that keeps restarting is down in between.",
               _LOOP, (*_DOWN, *_OF_REPLICA), REPLICA, ("instance",)),
    Inhibition("kube-state-metrics has the pod of a server that restarts, and not its sidecar.",
               _LOOP, _DOWN, ("cluster", "namespace", "pod"), ("pod",)),
    Inhibition("In an engine that hangs or sleeps all requests wait.",
               _HUNG, (*_tickets("vllm-queue", "vllm-cache"), "VllmGaugesStale", "VllmDataParallelRankIdle"),
               ENGINE, ("instance",)),
    Inhibition("A hung engine explains GPUs that spin or idle.",
               _HUNG, ("VllmGpuHang", "VllmGpuStarved"), REPLICA, ("instance",)),
    Inhibition("A full KV cache is the cause; the wait and the preemptions are its effects.",
               ("VllmKvCachePressure",), ("VllmPreemptionStorm", *_tickets("vllm-queue")), ENGINE, ("instance",)),
    Inhibition("A broken GPU explains a dead, hung or slow server of its pod or host.",
               _GPU_BROKEN, _BY_BROKEN_GPU, SIDECAR, ("instance",)),
    Inhibition("The GPUs of a node are watched by a DaemonSet in another namespace: only the node is a label of both.",
               _GPU_BROKEN, ("VllmEngineStalled", "VllmGpuHang", "VllmGpuMissing", "VllmGpuStarved"),
               ("cluster", "node"), ("node",)),
    Inhibition("A lost GPU explains its recovery action and its XIDs.",
               ("VllmGpuLost",), ("VllmGpuRecoveryNeeded", "VllmGpuXidCritical", *_OF_GPU),
               ("cluster", "uuid"), ("uuid",)),
    Inhibition("The driver's recovery action is more specific than the XID that caused it.",
               ("VllmGpuRecoveryNeeded",), ("VllmGpuXidCritical", "VllmGpuXid"), ("cluster", "uuid"), ("uuid",)),
    Inhibition("A critical XID explains the others of its GPU.",
               ("VllmGpuXidCritical",), ("VllmGpuXid",), ("cluster", "uuid"), ("uuid",)),
)  # fmt: skip
"""In addition, a page about an objective inhibits its tickets, by `SLO`."""
