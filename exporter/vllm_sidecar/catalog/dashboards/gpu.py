"""GPU: the engine and its GPUs side by side."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.factories import ENGINE, GPU, SERVER, lines, number, states, table
from vllm_sidecar.catalog.dashboards.panel import YES, Color, Dashboard, Query, Row
from vllm_sidecar.catalog.types import Unit

_NO_GPU = "None of the selected sidecars reads GPUs."
_UNSUPPORTED = "Not supported by this GPU or its driver."
_QUIET = "None in this range."

GPU_DASHBOARD = Dashboard(
    "vllm-gpu",
    "vLLM · GPU",
    "The engine and its GPUs in the same seconds: busy, starved, throttled, straggling, broken.",
    (
        Row(
            "Is a GPU in trouble?",
            (
                number("GPUs that answer", "Devices that NVML reports; fewer than expected raises a ticket.", Unit.NONE, "sum(~gpu_devices)",
                       decimals=0, empty="no GPUs"),
                number("Missing", "GPUs that are expected but do not answer.", Unit.NONE, "sum(~gpu_missing_devices)", bad="one", decimals=0, empty="no GPUs"),
                number("Lost", "GPUs that NVML reports as lost, or that wait for a reset.", Unit.NONE, "sum(~gpu_lost)", bad="one", decimals=0, empty="no GPUs"),
                number("Critical XIDs in an hour", "Errors after which a GPU cannot be trusted; the table below names them.", Unit.NONE,
                       'sum(increase(~gpu_xid_errors_total{severity="critical"}[1h]))', bad="one", decimals=0, empty="no GPUs"),
                number("Need a reset or worse", "GPUs whose driver asks for a reset, a reboot or draining.", Unit.NONE,
                       'count(~gpu_recovery_action{action!="none"} == 1) or vector(0)', bad="one", decimals=0),
                number("Throttled now", "GPUs whose clocks are reduced by heat, power brake or hardware.", Unit.NONE,
                       'count(max by (<<G>>) (~gpu_throttled{reason=~"hw_.*|sw_thermal"}) == 1) or vector(0)', bad="one", decimals=0),
            ),
        ),
        Row(
            "The engine, and its GPUs at the same time",
            (
                lines("How many tokens come out?", "Generated tokens per second of each engine.", Unit.TOKENS_PER_SECOND,
                      Query("~recent_generation_tokens_per_second", ENGINE, Color.GENERATION, "rate(~generation_tokens_total[$__rate_interval])"),
                      width=12),
                lines("How much work is there?", "Running requests. Look for GPUs that are busy without any, or idle with many.",
                      Unit.NONE, Query("~requests_running", ENGINE, Color.RUNNING), width=12, decimals=0),
                lines("How much power do they draw?", "Power compared with the limit. Busy at low power is typical of a dead collective.", Unit.WATTS,
                      Query("~gpu_power_watts", GPU, Color.GPU), Query("max(~gpu_power_limit_watts)", "highest limit",
                      Color.BAD, dashed=True), empty=_NO_GPU),
                lines("How busy are they?", "Share of time with any kernel. Near 1 means little, because a hung kernel spins at 1 too.", Unit.RATIO,
                      Query("~gpu_utilization_ratio", GPU, Color.HISTOGRAM), most=1.0, empty=_NO_GPU),
                lines("How much of each GPU works?", "Share of active streaming multiprocessors, which utilization does not show.", Unit.RATIO,
                      Query("~gpu_sm_active_ratio", GPU, Color.GPU), most=1.0, empty=_UNSUPPORTED),
                states("Do they spin for nothing, or starve?",
                       "Busy without progress: a hung collective. Starved: requests wait 10 s while every GPU is idle; check the front end.",
                       Query("max by (<<T>>) (~gpu_busy_without_progress == 1)", f"busy without progress {SERVER}"),
                       Query("max by (<<T>>) (~gpu_starved == 1)", f"starved {SERVER}"), words=YES, width=24, height=5,
                       empty="No GPU spun for nothing or starved in this range."),
            ),
        ),
        Row(
            "Is one slower than the others? Throttling and stragglers",
            (
                states("What reduces clocks?", "Heat, power brake and hardware slowdown cost tokens; idle and a power cap are normal states.",
                       Query('max by (instance, gpu, reason) (~gpu_throttled{reason!~"idle|application_clocks|display_clocks"} == 1)',
                             f"{GPU} {{{{reason}}}}"), words=YES, empty="Nothing reduced clocks in this range.", width=12),
                lines("Does one of a tensor-parallel group straggle?", "1 - min / max over the GPUs of a group: all wait for the slowest.", Unit.RATIO,
                      Query("~recent_gpu_imbalance_ratio", f"{{{{load}}}} {SERVER}"), most=1.0, bad="VllmGpuStraggler.imbalance", width=12,
                      empty="No server with more than one GPU."),
                lines("How fast are the clocks?", "Clock of the streaming multiprocessors; a lower clock under load means throttling.", Unit.HERTZ,
                      Query("~gpu_sm_clock_hertz", GPU, Color.GPU), empty=_NO_GPU),
                lines("How hot are they?", "Temperature; the margin in the next panel matters more.", Unit.CELSIUS, Query("~gpu_temperature_celsius", GPU, Color.WAITING),
                      empty=_NO_GPU),
                lines("How many degrees are left?", "Margin until the GPU slows itself down; at 0 it does.", Unit.CELSIUS,
                      Query("~gpu_temperature_margin_celsius", GPU, Color.GPU), least=None, empty=_UNSUPPORTED),
            ),
        ),
        Row(
            "What does a token cost?",
            (
                lines("How many tokens per joule?", "Prompt and generated tokens for the energy of the server's GPUs.", Unit.TOKENS_PER_JOULE,
                      Query("~recent_gpu_tokens_per_joule", f"{{{{tokens}}}} {SERVER}"), empty=_NO_GPU),
                lines("How much power per running request?", "Small batches cost the most power per request.", Unit.WATTS, Query("~recent_gpu_request_watts", SERVER),
                      empty="Nothing runs, or no GPUs are read."),
                lines("How many tokens per second and GPU?", "Generated tokens of a server, divided by the number of its GPUs.", Unit.TOKENS_PER_SECOND,
                      Query("~recent_gpu_generation_tokens_per_second", SERVER, Color.GENERATION), empty=_NO_GPU),
            ),
        ),
        Row(
            "Memory",
            (
                lines("How much memory is in use?", "vLLM reserves its share at the start, so high usage is normal and raises no alert.", Unit.BYTES,
                      Query("~gpu_memory_used_bytes", GPU, Color.CACHE),
                      Query("max(~gpu_memory_total_bytes)", "total of the largest", Color.HISTOGRAM, dashed=True), empty=_NO_GPU, width=12),
                lines("Does it grow since the server warmed up?", "A steady rise is a leak, and ends in out of memory.", Unit.BYTES,
                      Query("~gpu_memory_growth_bytes", GPU), least=None, width=12, empty="Not warmed up yet, or no GPUs are read."),
            ),
        ),
        Row(
            "Errors of the hardware",
            (
                table("Which XIDs occurred?", "By code and severity, in the range above. The driver's recovery action decides what to do.",
                      Query("sum by (instance, gpu, uuid, xid, severity) (increase(~gpu_xid_errors_total[$__range])) > 0", "Count"),
                      labels=("instance", "gpu", "uuid", "xid", "severity"), width=12, height=7, empty=_QUIET),
                table("What does the driver ask for?", "Recovery action: reset, reboot or drain. It remains after the error.",
                      Query('max by (instance, gpu, uuid, action) (~gpu_recovery_action{action!="none"}) == 1', "Now"),
                      labels=("instance", "gpu", "uuid", "action"), width=12, height=7, empty="Nothing, or the driver does not report it."),
                lines("Are there ECC errors?", "Errors of the last hour. Uncorrectable ones kill requests; growing correctable ones announce them.", Unit.NONE,
                      Query("sum by (instance, gpu, error) (increase(~gpu_ecc_volatile_errors_total[1h]))", f"{{{{error}}}} {GPU}"), empty=_UNSUPPORTED),
                lines("Are memory rows remapped?", "Rows remapped in the GPU's lifetime; pending ones wait for a reset.", Unit.NONE,
                      Query("sum by (instance, gpu, error) (~gpu_remapped_rows_total)", f"{{{{error}}}} {GPU}"), empty=_UNSUPPORTED),
                lines("Do NVLinks have errors?", "Errors and recoveries per second over all links.", Unit.NONE,
                      Query("sum by (instance, gpu, error) (rate(~gpu_nvlink_errors_total[$__rate_interval]))", f"{{{{error}}}} {GPU}"), empty=_UNSUPPORTED),
            ),
            collapsed=True,
        ),
    ),
)  # fmt: skip
