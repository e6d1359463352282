"""The running sidecar beside a real Prometheus that does the same job: CPU and memory; and /metrics under 50 scrapers.

A replaying server gives both the bodies of a real vLLM 0.32 under load. Prometheus scrapes it each second and
evaluates seven recording rules
(quantiles of TTFT, ITL and queue time, mean queue time, prefix-hit ratio) each second; the sidecar polls it each
second and is scraped each 5 s.

    python tests/bench/bench_process.py [SECONDS]     120 by default
"""

from __future__ import annotations

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
sys.path.insert(0, str(HERE.parent))

import aiohttp  # noqa: E402 - the helpers of the tests are beside this folder
import psutil  # noqa: E402
from bodies import recorded  # noqa: E402

from loopback import free_port  # noqa: E402
from prometheus_process import configuration, job, prometheus  # noqa: E402
from sidecar_process import started  # noqa: E402

SCRAPERS = 50
ROUNDS = 20
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
    return subprocess.Popen([sys.executable, HERE.parent / "fake_vllm.py", *paths, "--port", str(port)])


def peer(stack: ExitStack, folder: Path, upstream: int) -> int | None:
    """Start a Prometheus with the rules; None where it is not installed."""
    if shutil.which("prometheus") is None:
        return None
    (folder / "rules.yml").write_text(RULES)
    config = configuration(1, job("vllm", f"127.0.0.1:{upstream}"), rules=folder / "rules.yml")
    return stack.enter_context(prometheus(folder, config, "--log.level=error")).process.pid


def cost(process: psutil.Process) -> tuple[float, float]:
    """Return CPU seconds so far and resident MB."""
    times = process.cpu_times()
    return times.user + times.system, process.memory_info().rss / 1e6


def compare(names: list[tuple[str, int]], base: str, seconds: float) -> None:
    """Print CPU per second and memory of the processes over some seconds, in which the sidecar is scraped each 5 s."""
    processes = [(name, psutil.Process(pid)) for name, pid in names]
    time.sleep(10.0)  # start-up is not what this measures
    before = [cost(process)[0] for _, process in processes]
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        urllib.request.urlopen(f"{base}/metrics", timeout=5).read()  # noqa: S310 - loopback
        time.sleep(5.0)
    elapsed = time.monotonic() - began
    for (name, process), start in zip(processes, before, strict=True):
        cpu, memory = cost(process)
        print(f"{name:12} {1e3 * (cpu - start) / elapsed:7.2f} ms of CPU a second   {memory:6.1f} MB resident")


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


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, upstream = Path(name), free_port()
        server = replaying(folder, upstream)
        stack.callback(os.kill, server.pid, signal.SIGKILL)
        time.sleep(2.0)
        beside = peer(stack, folder, upstream)
        running, base = stack.enter_context(started("--vllm.url", f"http://127.0.0.1:{upstream}"))
        names = [("sidecar", running.process.pid)] + ([("prometheus", beside)] if beside else [])
        compare(names, base, seconds)
        if not beside:
            print("prometheus is not installed: apt-get install prometheus for the comparison")
        latencies = asyncio.run(scrapers(base))
        cuts = quantiles(latencies, n=100)
        print(f"/metrics with {SCRAPERS} scrapers at once, {len(latencies)} scrapes: "
              f"median {1e3 * median(latencies):.1f} ms, p99 {1e3 * cuts[98]:.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
