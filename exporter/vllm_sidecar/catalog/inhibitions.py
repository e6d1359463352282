"""Which alert makes which other ones superfluous: Alertmanager sends the cause and keeps the consequences back.

`equal` holds only labels that both sides have, or that no alert of an installation has (`cluster`, `namespace`):
Alertmanager takes a label that is missing on both sides as equal, and one that is missing on one side as different.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_sidecar.catalog.alerts import GROUPS

NODE = ("cluster", "namespace", "instance")
"""One sidecar, with the GPUs of its node."""
SERVER = (*NODE, "target")
ENGINE = (*SERVER, "model_name", "engine")
SLO = ("cluster", "namespace", "job", "model_name", "slo")


@dataclass(frozen=True, slots=True)
class Inhibition:
    """While a source fires, the targets with the same values of `equal` are not sent."""

    why: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    equal: tuple[str, ...]


def _names(*groups: str, but: tuple[str, ...] = ()) -> tuple[str, ...]:
    return tuple(alert.name for group in groups for alert in GROUPS[group] if alert.name not in but)


_DOWN = ("VllmTargetDown", "VllmMetricsMissing")
_LOOP = ("VllmCrashLoop",)
_HELD = ("VllmEngineStalled", "VllmAsleepWithRequests")
_OF_SERVER = (
    *_names("vllm-serving", "vllm-latency", "vllm-cache", "vllm-features", "vllm-change", but=_DOWN + _LOOP),
    *("VllmGaugesStale", "VllmSignalMissing", "VllmSidecarPollsFailing", "VllmSidecarBehind"),
)
_GPU_BROKEN = (
    *("VllmGpuXidCritical", "VllmGpuEccUncorrectable", "VllmGpuRowRemapFailure"),
    *("VllmGpuRecoveryNeeded", "VllmGpuLost", "VllmGpuHang"),
)
_WAITING = ("VllmQueueBacklog", "VllmCapacityWaiting")

INHIBITIONS: tuple[Inhibition, ...] = (
    Inhibition(
        "Without its sidecar nothing new is known of a server; what lingers is history.",
        ("VllmSidecarDown",), (*_DOWN, *_LOOP, *_OF_SERVER), NODE,
    ),
    Inhibition("A server that is down, or that cannot be read, explains all that is said about it.",
               _DOWN, _OF_SERVER, SERVER),
    Inhibition("A server that restarts again and again is down in between.",
               _LOOP, (*_DOWN, *_OF_SERVER), SERVER),
    Inhibition("A broken GPU explains a hung or slow engine of the same node.",
               _GPU_BROKEN, (*_HELD[:1], *_names("vllm-latency", "vllm-cache"), "VllmGpuThrottled", "VllmGpuStraggler"),
               NODE),
    Inhibition("A lost GPU is missing, and its XID says no more.",
               ("VllmGpuLost",), ("VllmGpuMissing", "VllmGpuXid", "VllmGpuUnreadable"), NODE),
    Inhibition("In an engine that hangs or sleeps everything waits.",
               _HELD, _names("vllm-latency", "vllm-cache"), ENGINE),
    Inhibition("Requests to an engine that hangs fail when their clients give up.",
               _HELD, ("VllmErrorRatioHigh",), SERVER),
    Inhibition("A full KV cache is the cause; the wait and the preemptions are what it does.",
               ("VllmKvCachePressure",), ("VllmPreemptionStorm", "VllmQueueWaitHigh", *_WAITING), ENGINE),
    Inhibition("Who is paged for the wait needs no ticket about the queue.",
               ("VllmQueueWaitHigh",), _WAITING, ENGINE),
)  # fmt: skip
"""Beside these a page about an objective keeps back its tickets, by `SLO`."""
