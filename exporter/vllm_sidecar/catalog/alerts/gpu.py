"""GPUs that fail, hang, slow down or are missing; never their memory usage, because vLLM reserves memory on purpose."""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import GPU, REPLICA, Alert, Measure, Severity, Threshold, number, ratio

_ON_NODE = (
    "{{ with $labels.node }}kubectl debug node/{{ . }} -it --profile=sysadmin --image=busybox -- chroot /host {{ end }}"
)
"""Runs a command on the machine of a GPU."""
_DMESG = f"{_ON_NODE}dmesg -T, and look for Xid and NVRM; then nvidia-smi -q -i {{{{ $labels.gpu }}}}"


def _smi(sections: str) -> str:
    return f"{_ON_NODE}nvidia-smi -q -d {sections} -i {{{{ $labels.gpu }}}}"


def _appeared(counter: str) -> str:
    """Write the condition that a counter of XIDs rose in ten minutes, or started above 0, which increase() misses.

    A counter that Prometheus did not scrape for a while starts above 0 too: the time of the last XID shows which it is.
    """
    rose = f"(increase({counter}[10m]) > 0 or ({counter} > 0 unless {counter} offset 10m))"
    return f"{rose} and on (<<G>>) (time() - ~gpu_xid_last_timestamp_seconds < <<recent>>)"


_RECENT = Threshold("recent", Measure.SECONDS, 900, "Age up to which the last XID is new.")


GPU_ALERTS: tuple[Alert, ...] = (
    Alert(
        name="VllmGpuXidCritical",
        severity=Severity.TICKET,
        hold="30s",
        keep="10m",
        expr=_appeared('~gpu_xid_errors_total{severity="critical"}'),
        thresholds=(_RECENT,),
        summary=f"XID {{{{ $labels.xid }}}} on {GPU}",
        description="The driver reports an error after which the GPU needs a reset or a new node.",
        cause="failing hardware: memory, bus or firmware of the GPU",
        first=_DMESG + "; drain the node; vllm_sidecar_gpu_recovery_action shows what it needs",
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuXid",
        severity=Severity.TICKET,
        hold="30s",
        keep="10m",
        expr=_appeared('~gpu_xid_errors_total{severity="warning"}'),
        thresholds=(_RECENT,),
        summary=f"XID {{{{ $labels.xid }}}} on {GPU}",
        description="The driver reports an error that the application may survive.",
        cause="a link or a memory page with errors; twice in a day means failing hardware",
        first=_DMESG,
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuEccUncorrectable",
        severity=Severity.TICKET,
        hold="30s",
        keep="10m",
        expr='increase(~gpu_ecc_volatile_errors_total{error="uncorrected"}[10m]) > <<errors>>',
        thresholds=(number("errors", 0, "Uncorrectable errors in ten minutes that are accepted."),),
        summary=f"{GPU} has uncorrectable memory errors",
        description="{{ $value | humanize }} in ten minutes: results computed with this memory may be wrong.",
        cause="failing memory of the GPU",
        first=_smi("ECC,ROW_REMAPPER") + "; drain the node and reset the GPU",
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuRowRemapFailure",
        severity=Severity.TICKET,
        hold="1m",
        expr="~gpu_row_remap_failure == 1",
        summary=f"{GPU} must be replaced",
        description="A memory row could not be remapped: the spare rows are used up.",
        cause="failing memory of the GPU",
        first=_smi("ROW_REMAPPER") + "; drain the node and open a case with the vendor",
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuRowRemapPending",
        severity=Severity.TICKET,
        hold="5m",
        expr="~gpu_row_remap_pending == 1 or ~gpu_retired_pages_pending == 1",
        summary=f"{GPU} waits for a reset",
        description="Memory that failed is replaced at the next reset; until then it stays in use.",
        cause="an earlier memory error",
        first=_smi("ROW_REMAPPER") + "; reset the GPU when its server is drained",
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuRecoveryNeeded",
        severity=Severity.TICKET,
        hold="1m",
        expr='~gpu_recovery_action{action!="none"} == 1',
        summary=f"{GPU} needs: {{{{ $labels.action }}}}",
        description="The driver requests this action; the alert fires until it is done.",
        cause="an error from which the GPU does not recover by itself",
        first=_DMESG + "; drain the node, then take that action",
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuLost",
        severity=Severity.TICKET,
        hold="1m",
        expr="~gpu_lost == 1",
        summary=f"{GPU} is lost",
        description="The driver no longer reaches it, or it waits for a reset; its server cannot continue.",
        cause="the GPU fell off the bus (XID 79): power, heat or a loose card",
        first=_DMESG + "; the node needs a reboot",
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuHang",
        severity=Severity.TICKET,
        hold="1m",
        expr="~gpu_busy_without_progress == 1",
        summary=f"the GPUs of {REPLICA} are busy and its engine makes no progress",
        description="Kernels are resident all the time and no token is generated (power: {{ $labels.power }}).",
        cause="a collective in which one rank is missing: low power means that all others only wait for it",
        first="py-spy dump --pid PID of each worker: the rank that is not in the collective is the broken one; restart",
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuMissing",
        severity=Severity.TICKET,
        hold="5m",
        expr="~gpu_missing_devices > <<missing>>",
        thresholds=(number("missing", 0, "Missing GPUs that are accepted."),),
        summary=f"{{{{ $value }}}} GPUs of {REPLICA} are missing",
        description="Fewer answer than expected (by gpu.expected, vLLM's parallel sizes, or the largest number so "
        "far).",
        cause="a GPU that fell off the bus, or a container that no longer gets all of them",
        first=_ON_NODE + "nvidia-smi -L, next to vllm_sidecar_gpu_info",
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuThrottled",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            "max without (reason) ("
            'avg_over_time(~gpu_throttled{reason=~"hw_slowdown|hw_thermal|hw_power_brake"}[5m]) > <<share>> or '
            '(avg_over_time(~gpu_throttled{reason="sw_thermal"}[30m]) > <<share>> and on (<<G>>) '
            "(~gpu_sm_clock_hertz < <<clock>> * ~gpu_sm_clock_max_hertz)))"
        ),
        thresholds=(
            ratio("share", 0.5, "Share of five minutes (for sw_thermal: of half an hour) for which it is throttled."),
            ratio("clock", 0.75, "Share of the maximum SM clock below which a thermal limit of the software counts."),
        ),
        summary=f"{GPU} is throttled",
        description="For {{ $value | humanizePercentage }} of the time its clocks are reduced by heat or by the "
        "power supply: every step of the engine is slower.",
        cause="heat (a fan, a filter, the room) or the power supply; the software power cap is normal and does not "
        "count",
        first=_smi("PERFORMANCE,TEMPERATURE,POWER"),
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuStraggler",
        severity=Severity.TICKET,
        hold="10m",
        expr='avg_over_time(~recent_gpu_imbalance_ratio{load=~"power|sm_activity"}[10m]) > <<imbalance>>',
        thresholds=(ratio("imbalance", 0.3, "1 - min / max over the GPUs of one engine."),),
        summary=f"one GPU of {REPLICA} is out of step with the others",
        description="Their {{ $labels.load }} differs by {{ $value | humanizePercentage }}: the GPUs of an engine all "
        "wait for the slowest.",
        cause="one GPU is throttled, shares its node with another job, or has a slower link",
        first="PromQL: vllm_sidecar_gpu_power_watts and vllm_sidecar_gpu_sm_clock_hertz of the instance",
        dashboard="vllm-gpu",
    ),
    Alert(
        name="VllmGpuUnreadable",
        severity=Severity.TICKET,
        hold="10m",
        expr='~gpu_failing{reason!="library_not_found"} == 1',
        summary=f"the GPUs of {REPLICA} cannot be read: {{{{ $labels.reason }}}}",
        description="vLLM may still work; its GPUs are not monitored.",
        cause="a driver that was updated under a running container, or device files that disappeared after a reload of "
        "systemd",
        first="nvidia-smi in the sidecar's container; docs/troubleshooting.md has a hint for each reason",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmGpuStarved",
        severity=Severity.TICKET,
        hold="3m",
        expr="~gpu_starved == 1 unless on (<<T>>) (max by (<<T>>) (~gauges_stale) == 1)",
        summary=f"requests to {REPLICA} wait while its GPUs are idle",
        description="Requests have waited for ten seconds or more and every GPU of the server is idle: something in "
        "front of the engine is slow.",
        cause="too little CPU for tokenization or the API server, a slow transfer of KV blocks, grammars that are "
        "being compiled, or the beginning of a stall",
        first="{{ with $labels.pod }}kubectl -n {{ $labels.namespace }} top pod {{ . }} --containers{{ else }}top"
        "{{ end }}: is the API server short of CPU?",
        dashboard="vllm-gpu",
    ),
)

GPU_HISTORY: tuple[Alert, ...] = (
    Alert(
        name="VllmGpuEccCorrectable",
        severity=Severity.TICKET,
        hold="5m",
        expr='increase(~gpu_remapped_rows_total{error="corrected"}[1d]) > <<rows>>',
        thresholds=(number("rows", 8, "Rows remapped for correctable errors in a day."),),
        summary=f"{GPU} remaps its memory",
        description="{{ $value | humanize }} rows in a day were replaced because of correctable errors.",
        cause="memory that begins to fail",
        first=_smi("ROW_REMAPPER") + "; plan to replace it",
        dashboard="vllm-gpu",
    ),
)
