"""What eight GPUs cost the sidecar, with the stub in NVML's place: calls, CPU and memory of both processes.

    python tests/bench/bench_gpu.py [COMMIT]

With a commit of this repository the same program of that commit is measured in the same run, for comparison.
The stub's own time is measured too, by calling it without nvidia-ml-py, and is part of what is shown.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vllm_sidecar.gpu import samples
from vllm_sidecar.gpu.frames import FrameReader
from vllm_sidecar.gpu.nvml.binding import Nvml
from vllm_sidecar.gpu.nvml.driver import Driver, DriverSettings
from vllm_sidecar.gpu.polls import GpuPoll
from vllm_sidecar.series.health import Health

ROOT = Path(__file__).parents[2]
STUB = ROOT / "tests" / "nvml_stub" / "stub.c"
GPUS = 8
POLLS = 300
SECONDS = 24.0
"""How long a whole program is measured; its intervals are a tenth of the default ones."""
FASTER = 10.0


def cpu(work: object, times: int = POLLS) -> float:
    """Return the CPU time in seconds of one of many calls."""
    began = time.process_time()
    for _ in range(times):
        work()  # type: ignore[operator]
    return (time.process_time() - began) / times


def stages(library: Path) -> None:
    """Measure the stages of a poll in this process."""
    stub = ctypes.CDLL(str(library))
    nvml = Nvml()
    driver = Driver(nvml, DriverSettings(slow_interval=1e9))
    driver.poll(1.0)
    fast = cpu(lambda: driver.poll(2.0))
    both = Driver(nvml, DriverSettings(slow_interval=0.0))
    both.poll(1.0)
    slow = cpu(lambda: both.poll(2.0), 50) - fast
    reader = FrameReader(processes=False)
    frames = {name: json.dumps(["poll", each.poll(3.0)]).encode() for name, each in (("fast", driver), ("slow", both))}
    read = {name: cpu(lambda frame=frame: reader.read(frame), 50) for name, frame in frames.items()}
    everything = reader.read(frames["slow"])
    assert isinstance(everything, GpuPoll)
    health = Health("nvml")
    shown = cpu(lambda: samples.make(everything, health, samples.EventLog(), 1, GPUS), 50)
    energy, handle = ctypes.c_ulonglong(), ctypes.c_void_p()
    stub.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
    alone = cpu(lambda: stub.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy)), 20000)
    series = sum(map(len, samples.make(everything, health, samples.EventLog(), 1, GPUS).values()))
    calls = everything.calls
    print(f"fast tier: {calls['fast']} calls, {fast * 1e3:.2f} ms of CPU a poll of {GPUS} GPUs")
    print(f"slow tier: {calls['slow']} calls, {slow * 1e3:.2f} ms")
    print(f"of which the stub itself, about: {alone * 1e6:.1f} us a call")
    for name, frame in frames.items():
        print(f"a frame ({name}): {len(frame)} bytes, {read[name] * 1e3:.2f} ms to read")
    print(f"series after a poll: {series}, {shown * 1e3:.2f} ms")
    second = (fast + read["fast"]) / 5.0 + (slow + read["slow"]) / 60.0
    print(f"as it runs, each 5 s and 60 s: {second * 1e3:.2f} ms of CPU a second")


def memory(pid: int) -> tuple[int, int]:
    """Return the resident kB of a process, and those that it shares with nobody."""
    found = dict.fromkeys(("Rss:", "Private_Clean:", "Private_Dirty:"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, kilobytes = line.split()[:2]
        if name in found:
            found[name] = int(kilobytes)
    return found["Rss:"], found["Private_Clean:"] + found["Private_Dirty:"]


def seconds_of(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def child_of(pid: int) -> int | None:
    """Return the only child of a process, None where it has none."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else None


def program(name: str, exporter: Path, folder: Path, devices: str) -> None:
    """Run a whole sidecar for a while and print what it and its child used."""
    config = folder / "config.yaml"
    gpu = {"devices": devices, "interval": f"{5000 / FASTER:.0f}ms", "slow_interval": f"{60000 / FASTER:.0f}ms"}
    config.write_text(json.dumps({"gpu": gpu, "web": {"listen_address": "127.0.0.1:0"}}))
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm_sidecar", "serve", "--config.file", str(config)],
        env={**os.environ, "PYTHONPATH": str(exporter), "LD_LIBRARY_PATH": str(folder)},
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(4.0)
        child = child_of(process.pid)
        pids = [process.pid] if child is None else [process.pid, child]
        before = [seconds_of(pid) for pid in pids]
        time.sleep(SECONDS)
        for pid, began, which in zip(pids, before, ("itself", "its child"), strict=False):
            resident, private = memory(pid)
            used = (seconds_of(pid) - began) / SECONDS / FASTER
            print(f"{name}, {which}: {resident / 1024:.1f} MiB resident, {private / 1024:.1f} MiB private, "
                  f"about {used * 1e3:.2f} ms of CPU a second at the usual intervals")  # fmt: skip
    finally:
        process.terminate()
        process.wait(5.0)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library, script = folder / "libnvidia-ml.so.1", folder / "script"
        flags = ["-std=gnu11", "-shared", "-fPIC", "-O1", "-pthread", "-Wl,-soname,libnvidia-ml.so.1"]
        subprocess.run(["cc", *flags, "-o", library, STUB], check=True)
        script.write_text(f"gpus {GPUS}\n")
        os.environ["NVML_STUB_SCRIPT"] = str(script)
        stages(library)
        versions = {"now": ROOT / "exporter"}
        for commit in sys.argv[1:]:
            made = subprocess.run(
                ["git", "-C", ROOT, "archive", commit, "exporter"], check=True, stdout=subprocess.PIPE
            )
            (folder / commit).mkdir()
            subprocess.run(["tar", "-x", "-C", folder / commit], input=made.stdout, check=True)
            versions[commit] = folder / commit / "exporter"
        for version, exporter in versions.items():
            program(f"{version}, {GPUS} GPUs", exporter, folder, "all")
            program(f"{version}, no GPUs", exporter, folder, "none")


if __name__ == "__main__":
    main()
