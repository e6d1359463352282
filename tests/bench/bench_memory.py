"""The sidecar in a memory cgroup: 64 MiB next to one engine, 128 MiB next to 64 engines, both without GPUs.

    sudo python tests/bench/bench_memory.py [SECONDS]     120 by default, for each

A server replays a real vLLM 0.32 under load, one body each second, and the sidecar is scraped each second with and
without gzip. It needs to make cgroups (v1 or v2), which root may do; otherwise nothing is done.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

import psutil  # noqa: E402 - the helpers of the tests are beside this folder
from bodies import recorded, with_engines  # noqa: E402
from ports import free_port  # noqa: E402
from sidecar_process import started  # noqa: E402

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
BODIES = 120
"""The server restarts after them, and windows start over."""
CASES = ((1, 64), (64, 128))
"""Engines, and MiB."""


class Group:
    """A memory cgroup with a limit."""

    def __init__(self, mebibytes: int) -> None:
        self._old = V1.is_dir()
        self._path = (V1 if self._old else V2) / f"sidecar-bench-{os.getpid()}"
        self._path.mkdir()
        (self._path / ("memory.limit_in_bytes" if self._old else "memory.max")).write_text(str(mebibytes * 2**20))

    def add(self, pid: int) -> None:
        (self._path / "cgroup.procs").write_text(str(pid))

    @property
    def peak(self) -> float:
        """The most MiB that were charged."""
        return int((self._path / ("memory.max_usage_in_bytes" if self._old else "memory.peak")).read_text()) / 2**20

    @property
    def kills(self) -> int:
        """Processes that were ended because memory was missing."""
        text = (self._path / ("memory.oom_control" if self._old else "memory.events")).read_text()
        return int((re.findall(r"^oom_kill (\d+)$", text, re.MULTILINE) or ["0"])[0])

    def remove(self) -> None:
        while (self._path / "cgroup.procs").read_text():
            time.sleep(0.1)
        self._path.rmdir()


def get(url: str, *, gzip: bool) -> float:
    """Scrape once; return how long it took."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"} if gzip else {})  # noqa: S310 - loopback
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
        answer.read()
    return time.monotonic() - began


def measure(engines: int, mebibytes: int, seconds: float) -> None:
    with ExitStack() as stack:
        group = Group(mebibytes)
        stack.callback(group.remove)
        folder, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        files = []
        for number, body in enumerate(islice(recorded(), BODIES)):
            files.append(folder / f"{number:03}.prom")
            files[-1].write_bytes(with_engines(body, engines))
        server = subprocess.Popen(
            [sys.executable, HERE.parent / "support" / "fake_vllm.py", *files, "--port", str(port)]
        )
        stack.callback(os.kill, server.pid, signal.SIGKILL)
        # Python's own start is charged to the group, too: the process joins it before it runs.
        os.environ["VLLM_SIDECAR_GPU_DEVICES"] = "none"
        sidecar, base = stack.enter_context(started("--vllm.url", f"http://127.0.0.1:{port}", joins=group.add))
        end, took = time.monotonic() + seconds, [0.0]
        process = psutil.Process().memory_full_info()
        while time.monotonic() < end and sidecar.process.poll() is None:
            try:
                took += [get(f"{base}/metrics", gzip=gzip) for gzip in (True, False)]
                process = psutil.Process(sidecar.process.pid).memory_full_info()
            except (OSError, psutil.Error):  # it was killed; the line below says so
                break
            time.sleep(1.0)
        print(f"{engines} engines, limit {mebibytes} MiB: at most {group.peak:.0f} MiB charged, {group.kills} killed; "
              f"resident {process.rss / 2**20:.0f} MiB, own {process.uss / 2**20:.0f} MiB; "
              f"{len(took)} scrapes, the longest {max(took):.2f} s", flush=True)  # fmt: skip


def main() -> None:
    if os.geteuid() != 0:
        print("skipped: only root may make a cgroup")
        return
    for engines, mebibytes in CASES:
        measure(engines, mebibytes, float(sys.argv[1]) if len(sys.argv) > 1 else 120.0)


if __name__ == "__main__":
    main()
