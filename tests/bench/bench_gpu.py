"""What a poll of eight GPUs costs the sidecar, and how many NVML calls each tier takes; with the stub in NVML's place.

    python tests/bench/bench_gpu.py

The stub's own time is measured too, by calling it without nvidia-ml-py, and is part of what is shown.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from pathlib import Path

from vllm_sidecar.gpu import nvml as binding
from vllm_sidecar.gpu import samples
from vllm_sidecar.gpu.driver import Driver, Plan
from vllm_sidecar.gpu.nvml import Nvml
from vllm_sidecar.health import Health

STUB = Path(__file__).parents[1] / "nvml_stub" / "stub.c"
GPUS = 8
POLLS = 300


def cpu(work: object, times: int = POLLS) -> float:
    """Return the CPU time in seconds of one of many calls."""
    began = time.process_time()
    for _ in range(times):
        work()  # type: ignore[operator]
    return (time.process_time() - began) / times


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libnvidia-ml.so.1"
        subprocess.run(["cc", "-std=gnu11", "-shared", "-fPIC", "-O1", "-pthread", "-o", library, STUB], check=True)
        script = Path(folder) / "script"
        script.write_text(f"gpus {GPUS}\n")
        os.environ["NVML_STUB_SCRIPT"] = str(script)
        binding.LIBRARY = str(library)
        began = time.process_time()
        nvml = Nvml()
        loaded = time.process_time() - began
        driver = Driver(nvml, Plan(slow_interval=1e9))
        poll = driver.poll(1.0)
        fast = cpu(lambda: driver.poll(2.0))
        both = Driver(nvml, Plan(slow_interval=0.0))
        both.poll(1.0)
        slow = cpu(lambda: both.poll(2.0), 50) - fast
        everything = both.poll(3.0)
        health = Health("nvml")
        shown = cpu(lambda: samples.make(everything, health, samples.EventLog(), 1, GPUS), 50)
        stub = ctypes.CDLL(str(library))
        energy, handle = ctypes.c_ulonglong(), ctypes.c_void_p()
        stub.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
        alone = cpu(lambda: stub.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy)), 20000)
        series = sum(map(len, samples.make(everything, health, samples.EventLog(), 1, GPUS).values()))
        calls = everything.calls
        print(f"loading nvidia-ml-py and NVML, once: {loaded * 1e3:.0f} ms of CPU")
        print(f"fast tier: {calls['fast']} calls, {fast * 1e3:.2f} ms of CPU a poll of {GPUS} GPUs")
        print(f"slow tier: {calls['slow']} calls, {slow * 1e3:.2f} ms")
        print(f"of which the stub itself, about: {alone * 1e6:.1f} us a call")
        print(f"series after a poll: {series}, {shown * 1e3:.2f} ms")
        second = fast / 5.0 + slow / 60.0
        print(f"as it runs, each 5 s and 60 s: {second * 1e3:.2f} ms of CPU a second")
        assert poll.readings


if __name__ == "__main__":
    main()
