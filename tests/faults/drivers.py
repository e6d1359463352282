"""A stand-in for the driver's library that fails as real drivers do, below the running program."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar_process import started
from situations import Situation, expect, until
from stub_nvml import LOST, MISMATCH, NO_PERMISSION, NOT_LOADED, UNKNOWN, Stub, build
from surroundings import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLAGS = {"VLLM_SIDECAR_GPU_INTERVAL": "200ms", "VLLM_SIDECAR_GPU_SLOW_INTERVAL": "1s", "VLLM_SIDECAR_GPU_TIMEOUT": "1s"}
UP = 'vllm_sidecar_up{source="nvml"}'
_BROKEN: dict[str, tuple[str, str]] = {
    "the driver and the library differ": (f"ret.nvmlInitWithFlags {MISMATCH}", "driver_mismatch"),
    "the driver is not loaded": (f"ret.nvmlInitWithFlags {NOT_LOADED}", "driver_not_loaded"),
    "permission is refused": (f"ret.nvmlInitWithFlags {NO_PERMISSION}", "no_permission"),
    "an unknown error at the start": (f"ret.nvmlInitWithFlags {UNKNOWN}", "nvml_error"),
    "no GPUs": ("gpus 0", "no_gpu"),
    "a GPU that is lost": (f"ret.nvmlDeviceGetUUID {LOST}", "gpu_lost"),
    "a crash at the start": ("crash.nvmlInitWithFlags 1", "crashed"),
    "the library ends the process": ("exit.nvmlInitWithFlags 3", "crashed"),
    "a hang at the start": ("hang.nvmlInitWithFlags 1", "hung"),
    "a crash while GPUs are read": ("crash.nvmlDeviceGetUtilizationRates 1", "crashed"),
    "a hang while GPUs are read": ("hang.nvmlDeviceGetUtilizationRates 1", "hung"),
    "a GPU without a name": (f"ret.nvmlDeviceGetName {UNKNOWN}", "nvml_error"),
    "every call fails": (f"ret {UNKNOWN}", "nvml_error"),
}
_ODD: dict[str, str] = {
    "power of 2^63 milliwatts": "power 9223372036854775807",
    "a temperature of 2^31": "temperature 2147483648",
    "utilization of 4,000,000,000 %": "utilization 4000000000",
    "text on its standard streams": "print.nvmlDeviceGetUtilizationRates oh no",
    "utilization that is not supported": "ret.nvmlDeviceGetUtilizationRates 3",
    "fields that are not supported": "fieldret.186 3",
    "a driver without a version": f"ret.nvmlSystemGetDriverVersion {UNKNOWN}",
}


@functools.cache
def _library() -> Path:
    return build(Path(tempfile.mkdtemp(prefix="nvml-")))


def _reason(line: str, reason: str) -> Callable[[], str]:
    def inject() -> str:
        with tempfile.TemporaryDirectory() as folder:
            stub = Stub(_library(), Path(folder) / "script")
            stub.script(line)
            with started("--vllm.url", "http://127.0.0.1:1", variables={**stub.variables, **FLAGS}) as (running, base):
                until(lambda: get(base), f'poll_failures_total{{source="nvml",reason="{reason}"}} ')
                stub.script()
                until(lambda: get(base), f"{UP} 1.0")
                expect("traceback", held="Traceback" not in running.log)
                return f"{reason}, and GPUs again when it is over; ended within {running.stop():.1f} s"

    return inject


def _others(line: str) -> Callable[[], str]:
    def inject() -> str:
        with tempfile.TemporaryDirectory() as folder:
            stub = Stub(_library(), Path(folder) / "script")
            stub.script(line)
            with started("--vllm.url", "http://127.0.0.1:1", variables={**stub.variables, **FLAGS}) as (running, base):
                until(lambda: get(base), f"{UP} 1.0")
                until(lambda: get(base), "vllm_sidecar_gpu_memory_used_bytes{")
                expect("traceback", held="Traceback" not in running.log)
                return f"the other values are exported; ended within {running.stop():.1f} s"

    return inject


def drivers() -> Iterator[Situation]:
    """Yield drivers that fail."""
    for what, (line, reason) in _BROKEN.items():
        yield Situation(f"The driver: {what}", f"{reason}, scrapes continue, and GPUs return", _reason(line, reason))
    for what, line in _ODD.items():
        yield Situation(f"The driver: {what}", "the other values are exported", _others(line))
