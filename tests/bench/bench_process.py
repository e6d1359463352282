"""The running sidecar beside a real Prometheus that does the same job: CPU and memory; and /metrics under 50 scrapers.

A replaying server gives both the bodies of a real vLLM 0.32 under load. Prometheus scrapes it each second and
evaluates seven recording rules
(quantiles of TTFT, ITL and queue time, mean queue time, prefix-hit ratio) each second; the sidecar polls it each
second and is scraped each 5 s.

    python tests/bench/bench_process.py [SECONDS] [--before CHECKOUT]     120 s by default

With a checkout of another commit its sidecar runs beside, with and without GPUs. GPUs are those of the stub of the
driver's library, eight of them; a process counts with its children.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

import aiohttp  # noqa: E402 - the helpers of the tests are beside this folder
import psutil  # noqa: E402
import stub_nvml  # noqa: E402
from bodies import recorded  # noqa: E402
from ports import free_port  # noqa: E402
from prometheus_process import configuration, job, prometheus  # noqa: E402
from sidecar_process import started  # noqa: E402

SCRAPERS = 50
ROUNDS = 20
GPUS = 8
RULES = """
groups:
  - name: same job
    interval: 1s
    rules:
      - {record: ttft_p50, expr: 'histogram_quantile(0.50, sum by (le, model_name)
        (rate(vllm:time_to_first_token_seconds_bucket[1m])))'}
      - {record: ttft_p95, expr: 'histogram_quantile(0.95, sum by (le, model_name)
        (rate(vllm:time_to_first_token_seconds_bucket[1m])))'}
      - {record: ttft_p99, expr: 'histogram_quantile(0.99, sum by (le, model_name)
        (rate(vllm:time_to_first_token_seconds_bucket[1m])))'}
      - {record: itl_p95, expr: 'histogram_quantile(0.95, sum by (le, model_name)
        (rate(vllm:inter_token_latency_seconds_bucket[1m])))'}
      - {record: queue_p50, expr: 'histogram_quantile(0.50, sum by (le, model_name)
        (rate(vllm:request_queue_time_seconds_bucket[1m])))'}
      - {record: queue_mean, expr: 'rate(vllm:request_queue_time_seconds_sum[1m]) /
        rate(vllm:request_queue_time_seconds_count[1m])'}
      - {record: prefix_hits, expr: 'rate(vllm:prefix_cache_hits_total[1m]) /
        rate(vllm:prefix_cache_queries_total[1m])'}
"""


def replaying(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a server that replays the recorded bodies, one each second."""
    paths = []
    for number, body in enumerate(recorded()):
        paths.append(folder / f"{number:03}.prom")
        paths[-1].write_bytes(body)
    return subprocess.Popen([sys.executable, HERE.parent / "support" / "fake_vllm.py", *paths, "--port", str(port)])


def peer(stack: ExitStack, folder: Path, upstream: int) -> int | None:
    """Start a Prometheus with the rules; None where it is not installed."""
    if shutil.which("prometheus") is None:
        return None
    (folder / "rules.yml").write_text(RULES)
    config = configuration(1, job("vllm", f"127.0.0.1:{upstream}"), rules=folder / "rules.yml")
    return stack.enter_context(prometheus(folder, config, "--log.level=error")).process.pid


def cost(process: psutil.Process) -> tuple[float, float, float]:
    """Return CPU seconds so far, resident MB and private MB, of a process and its children."""
    cpu = resident = private = 0.0
    for each in (process, *process.children(recursive=True)):
        times, memory = each.cpu_times(), each.memory_full_info()
        cpu += times.user + times.system
        resident, private = resident + memory.rss / 1e6, private + memory.uss / 1e6
    return cpu, resident, private


def compare(names: list[tuple[str, int]], bases: list[str], seconds: float) -> None:
    """Print CPU per second and memory of the processes over some seconds, in which sidecars are scraped each 5 s."""
    processes = [(name, psutil.Process(pid)) for name, pid in names]
    time.sleep(10.0)  # start-up, which includes loading numpy for the first estimate, is not what this measures
    for base in bases:
        urllib.request.urlopen(f"{base}/metrics", timeout=5).read()  # noqa: S310 - loopback
    before = [cost(process)[0] for _, process in processes]
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        for base in bases:
            urllib.request.urlopen(f"{base}/metrics", timeout=5).read()  # noqa: S310 - loopback
        time.sleep(5.0)
    elapsed = time.monotonic() - began
    for (name, process), start in zip(processes, before, strict=True):
        cpu, resident, private = cost(process)
        print(f"{name:24} {1e3 * (cpu - start) / elapsed:7.2f} ms of CPU a second   {resident:6.1f} MB resident, "
              f"{private:6.1f} private")  # fmt: skip


async def scrapers(base: str) -> list[float]:
    """Return the latencies of rounds of scrapes, all scrapers at once in each."""
    seen: list[float] = []

    async def scrape(session: aiohttp.ClientSession) -> None:
        start = time.perf_counter()
        async with session.get(f"{base}/metrics") as answer:
            await answer.read()
        seen.append(time.perf_counter() - start)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(ROUNDS):
            await asyncio.gather(*(scrape(session) for _ in range(SCRAPERS)))
            await asyncio.sleep(0.25)
    return seen


def stub_variables(folder: Path) -> dict[str, str] | None:
    """Build the stub of the driver's library; return the variables that put it in its place, None without cc."""
    if shutil.which("cc") is None:
        return None
    library, script = stub_nvml.build(folder / "nvml"), folder / "nvml" / "script"
    script.write_text(f"gpus {GPUS}\n")
    return {"LD_LIBRARY_PATH": str(library.parent), "NVML_STUB_SCRIPT": str(script)}


def sidecars(stack: ExitStack, upstream: int, before: Path | None, folder: Path) -> list[tuple[str, int, str]]:
    """Start the sidecars to compare; return name, process and base URL of each."""
    stub = stub_variables(folder)
    found = []
    for name, checkout in {"now": HERE.parents[1], **({"before": before} if before else {})}.items():
        for devices, about, variables in (("none", "", {}), ("all", f", {GPUS} GPUs", stub)):
            if variables is None:
                continue
            config = folder / f"{devices}.yaml"
            # Each second whatever the answers take: on a busy machine polls would be fewer, and cost less.
            config.write_text(f"gpu: {{devices: {devices}}}\nscrape: {{max_interval: 1s}}\n")
            flags = ("--config.file", str(config), "--vllm.url", f"http://127.0.0.1:{upstream}")
            python = {"PYTHONPATH": str(checkout / "exporter")}
            running, base = stack.enter_context(started(*flags, variables=python | variables))
            found.append((f"sidecar {name}{about}", running.process.pid, base))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="The running sidecar beside a real Prometheus.")
    parser.add_argument("seconds", type=float, nargs="?", default=120.0)
    parser.add_argument("--before", type=Path, help="checkout of another commit to run beside")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, upstream = Path(name), free_port()
        server = replaying(folder, upstream)
        stack.callback(os.kill, server.pid, signal.SIGKILL)
        time.sleep(2.0)
        beside = peer(stack, folder, upstream)
        running = sidecars(stack, upstream, options.before, folder)
        names = [(about, pid) for about, pid, _ in running] + ([("prometheus", beside)] if beside else [])
        compare(names, [base for _, _, base in running], options.seconds)
        if not beside:
            print("prometheus is not installed: apt-get install prometheus for the comparison")
        latencies = asyncio.run(scrapers(running[0][2]))
        cuts = quantiles(latencies, n=100)
        print(f"/metrics with {SCRAPERS} scrapers at once, {len(latencies)} scrapes: "
              f"median {1e3 * median(latencies):.1f} ms, p99 {1e3 * cuts[98]:.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
