"""GPU: the engine and its GPUs side by side."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.factories import ENGINE, GPU, SERVER, lines, number, states, table
from vllm_sidecar.catalog.dashboards.panel import YES, Colour, Dashboard, Query, Row
from vllm_sidecar.catalog.types import Unit

_NO_GPU = "No sidecar that is chosen reads GPUs."
_NOT_GIVEN = "This GPU or its driver does not give it."
_QUIET = "None in this range."

GPU_DASHBOARD = Dashboard(
    "vllm-gpu",
    "vLLM · GPU",
    "What the engine does and what its GPUs do, at the same seconds: busy, starved, throttled, straggling, broken.",
    (
        Row(
            "Is a GPU in trouble?",
            (
                number("GPUs that answer", "Devices that NVML gives; fewer than expected raises a ticket.", Unit.NONE, "sum(~gpu_devices)",
                       decimals=0, empty="no GPUs"),
                number("Missing", "Expected and not there.", Unit.NONE, "sum(~gpu_missing_devices)", bad="one", decimals=0, empty="no GPUs"),
                number("Lost", "NVML says that they are gone, or wait for a reset.", Unit.NONE, "sum(~gpu_lost)", bad="one", decimals=0, empty="no GPUs"),
                number("Critical XIDs in an hour", "Errors after which a GPU is not to be trusted; the table below names them.", Unit.NONE,
                       'sum(increase(~gpu_xid_errors_total{severity="critical"}[1h]))', bad="one", decimals=0, empty="no GPUs"),
                number("Want a reset or worse", "GPUs whose driver asks for a reset, a reboot or draining.", Unit.NONE,
                       'count(~gpu_recovery_action{action!="none"} == 1) or vector(0)', bad="one", decimals=0),
                number("Throttled now", "GPUs whose clocks are kept down by heat, power brake or hardware.", Unit.NONE,
                       'count(max by (<<G>>) (~gpu_throttled{reason=~"hw_.*|sw_thermal"}) == 1) or vector(0)', bad="one", decimals=0),
            ),
        ),
        Row(
            "The engine, and its GPUs at the same time",
            (
                lines("How many tokens come out?", "Generated tokens per second of each engine.", Unit.TOKENS_PER_SECOND,
                      Query("~recent_generation_tokens_per_second", ENGINE, Colour.GENERATION, "rate(~generation_tokens_total[$__rate_interval])"),
                      width=12),
                lines("How much work is there?", "Running requests. GPUs that are busy without any, or idle with many, are what to look for.",
                      Unit.NONE, Query("~requests_running", ENGINE, Colour.RUNNING), width=12, decimals=0),
                lines("How much power do they draw?", "Beside the limit. Busy at little power is how a dead collective looks.", Unit.WATTS,
                      Query("~gpu_power_watts", GPU, Colour.GPU), Query("max(~gpu_power_limit_watts)", "highest limit",
                      Colour.BAD, dashed=True), empty=_NO_GPU),
                lines("How busy are they?", "Share of time with any kernel; near 1 says little, for a hanging one spins at 1 too.", Unit.RATIO,
                      Query("~gpu_utilization_ratio", GPU, Colour.HISTOGRAM), most=1.0, empty=_NO_GPU),
                lines("How much of them works?", "Streaming multiprocessors that are active: what busy does not say.", Unit.RATIO,
                      Query("~gpu_sm_active_ratio", GPU, Colour.GPU), most=1.0, empty=_NOT_GIVEN),
                states("Do they spin for nothing, or starve?",
                       "Busy without progress: a hanging collective. Starved: requests wait 10 s while every GPU is idle, look at the front end.",
                       Query("max by (<<T>>) (~gpu_busy_without_progress == 1)", f"busy without progress {SERVER}"),
                       Query("max by (<<T>>) (~gpu_starved == 1)", f"starved {SERVER}"), words=YES, width=24, height=5,
                       empty="No GPU spins for nothing or starves in this range."),
            ),
        ),
        Row(
            "Is one slower than its siblings? Throttling and stragglers",
            (
                states("What keeps clocks down?", "Heat, power brake and hardware slowdown cost tokens; idle and a power cap are normal states.",
                       Query('max by (instance, gpu, reason) (~gpu_throttled{reason!~"idle|application_clocks|display_clocks"} == 1)',
                             f"{GPU} {{{{reason}}}}"), words=YES, empty="Nothing keeps clocks down in this range.", width=12),
                lines("Does one of a tensor-parallel group straggle?", "1 - min / max over the GPUs of a group: all wait for the slowest.", Unit.RATIO,
                      Query("~recent_gpu_imbalance_ratio", f"{{{{load}}}} {SERVER}"), most=1.0, bad="VllmGpuStraggler.imbalance", width=12,
                      empty="No server with more than one GPU."),
                lines("How fast are the clocks?", "Clock of the streaming multiprocessors; lower under load is throttling.", Unit.HERTZ,
                      Query("~gpu_sm_clock_hertz", GPU, Colour.GPU), empty=_NO_GPU),
                lines("How hot are they?", "Temperature; what counts is the margin beside.", Unit.CELSIUS, Query("~gpu_temperature_celsius", GPU, Colour.WAITING),
                      empty=_NO_GPU),
                lines("How many degrees are left?", "Until the GPU slows itself down; at 0 it does.", Unit.CELSIUS,
                      Query("~gpu_temperature_margin_celsius", GPU, Colour.GPU), least=None, empty=_NOT_GIVEN),
            ),
        ),
        Row(
            "What does a token cost?",
            (
                lines("How many tokens per joule?", "Prompt and generated tokens for the energy of the server's GPUs.", Unit.TOKENS_PER_JOULE,
                      Query("~recent_gpu_tokens_per_joule", f"{{{{tokens}}}} {SERVER}"), empty=_NO_GPU),
                lines("How much power per running request?", "Small batches cost most.", Unit.WATTS, Query("~recent_gpu_request_watts", SERVER),
                      empty="Nothing runs, or no GPUs are read."),
                lines("How many tokens per second and GPU?", "Generated tokens of a server by the number of its GPUs.", Unit.TOKENS_PER_SECOND,
                      Query("~recent_gpu_generation_tokens_per_second", SERVER, Colour.GENERATION), empty=_NO_GPU),
            ),
        ),
        Row(
            "Memory",
            (
                lines("How much memory is in use?", "vLLM takes its share at the start, so high is normal and no alert asks for it.", Unit.BYTES,
                      Query("~gpu_memory_used_bytes", GPU, Colour.CACHE),
                      Query("max(~gpu_memory_total_bytes)", "total of the largest", Colour.HISTOGRAM, dashed=True), empty=_NO_GPU, width=12),
                lines("Does it grow since the server warmed up?", "A steady rise is a leak, and ends in out of memory.", Unit.BYTES,
                      Query("~gpu_memory_growth_bytes", GPU), least=None, width=12, empty="Not warmed up yet, or no GPUs are read."),
            ),
        ),
        Row(
            "Errors of the hardware",
            (
                table("Which XIDs came?", "By code and severity, in the range above. The driver's recovery action decides what to do.",
                      Query("sum by (instance, gpu, uuid, xid, severity) (increase(~gpu_xid_errors_total[$__range])) > 0", "Count"),
                      labels=("instance", "gpu", "uuid", "xid", "severity"), width=12, height=7, empty=_QUIET),
                table("What does the driver ask for?", "none, reset, reboot, drain: a state that outlives the error.",
                      Query('max by (instance, gpu, uuid, action) (~gpu_recovery_action{action!="none"}) == 1', "Now"),
                      labels=("instance", "gpu", "uuid", "action"), width=12, height=7, empty="Nothing, or the driver does not say."),
                lines("Do ECC errors come?", "Uncorrectable ones in the last hour kill requests; correctable ones that grow foretell them.", Unit.NONE,
                      Query("sum by (instance, gpu, error) (increase(~gpu_ecc_volatile_errors_total[1h]))", f"{{{{error}}}} {GPU}"), empty=_NOT_GIVEN),
                lines("Are memory rows remapped?", "Rows in the GPU's life; pending ones wait for a reset.", Unit.NONE,
                      Query("sum by (instance, gpu, error) (~gpu_remapped_rows_total)", f"{{{{error}}}} {GPU}"), empty=_NOT_GIVEN),
                lines("Do NVLinks have errors?", "Errors and recoveries per second over all links.", Unit.NONE,
                      Query("sum by (instance, gpu, error) (rate(~gpu_nvlink_errors_total[$__rate_interval]))", f"{{{{error}}}} {GPU}"), empty=_NOT_GIVEN),
            ),
            collapsed=True,
        ),
    ),
)  # fmt: skip
