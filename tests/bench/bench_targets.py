"""One process that watches many servers: CPU, memory, how late polls are, and the size of /metrics.

One process plays all servers on the addresses 127.0.x.y: each replays the bodies of a real vLLM 0.32 under load, from
a place of its own. It also notes when each poll arrives. The sidecar finds the servers in a file and is scraped with
gzip each 15 s; CPU is measured with and without scrapes, because percentiles are computed at a scrape.

    python tests/bench/bench_targets.py [TARGETS...] [--shards N] [--run M] [--seconds S]    64 and 256, one process

With --run only the first M of N shards run, because a machine with few cores cannot run them all: every shard reads the
whole list, and costs the same whether the others run or not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

import psutil  # noqa: E402 - the helpers of the tests are beside this folder
from bodies import recorded  # noqa: E402
from ports import free_port  # noqa: E402
from sidecar_process import started  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

WARM_UP = 70.0
"""Seconds until windows of 60 s are full."""
SCRAPE_INTERVAL = 15.0
OTHERS = {
    b"/version": b'{"version":"0.32.0"}',
    b"/v1/models": b'{"object":"list","data":[{"id":"tiny","object":"model","max_model_len":2048}]}',
    b"/load": b'{"server_load":0}',
    b"/health": b"",
}


class Server(asyncio.Protocol):
    """A connection to one of the servers; answers are made before the measurement."""

    bodies: tuple[bytes, ...] = ()
    others: dict[bytes, bytes] = {}  # noqa: RUF012 - filled once
    arrivals: dict[str, list[float]] = {}  # noqa: RUF012
    """When the polls of each server arrived."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._host = transport.get_extra_info("sockname")[0]
        self._arrived = self.arrivals.setdefault(self._host, [])
        self._offset = hash(self._host)

    def data_received(self, data: bytes) -> None:
        path = data.split(b" ", 2)[1].partition(b"?")[0]
        if path == b"/metrics":
            now = time.monotonic()
            self._arrived.append(now)
            self._transport.write(self.bodies[(self._offset + int(now)) % len(self.bodies)])  # type: ignore[attr-defined]
        else:
            self._transport.write(self.others.get(path, self.others[b""]))  # type: ignore[attr-defined]


def answer(body: bytes, status: str = "200 OK", kind: str = "text/plain") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def serve(port: int) -> None:
    """Play all servers until the input ends; then write the intervals between polls, of which each line asks."""
    Server.bodies = tuple(map(answer, recorded()))
    Server.others = {path: answer(body, kind="application/json") for path, body in OTHERS.items()}
    Server.others[b""] = answer(b"{}", "404 Not Found")
    loop = asyncio.get_running_loop()
    await loop.create_server(Server, "0.0.0.0", port, backlog=2000)
    print("ready", flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        gaps = [[later - one for one, later in pairwise(at)] for at in Server.arrivals.values()]
        print(json.dumps(gaps), flush=True)
        for at in Server.arrivals.values():
            at.clear()


class Servers:
    """The process of all servers."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process, self.port = process, port

    def gaps(self) -> list[float]:
        """Return the seconds between the polls of each server since the last call."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [gap for server in json.loads(self._process.stdout.readline()) for gap in server]


def servers(stack: ExitStack) -> Servers:
    port = free_port()
    command = [sys.executable, __file__, "--serve", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(process.kill)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return Servers(process, port)


def addresses(count: int, port: int) -> list[str]:
    return [f"127.0.{1 + number // 250}.{1 + number % 250}:{port}" for number in range(count)]


def scrape(base: str) -> tuple[int, float]:
    """Return the bytes of a scrape as they are sent, and how long it took; no bytes if it is not answered."""
    request = urllib.request.Request(f"{base}/metrics", headers={"Accept-Encoding": "gzip"})  # noqa: S310 - loopback
    began = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=60) as found:  # noqa: S310 - loopback
            return len(found.read()), time.monotonic() - began
    except OSError:
        return 0, time.monotonic() - began


def pause(seconds: float, bases: list[str]) -> Iterator[tuple[int, float]]:
    """Let time pass; scrape every base each 15 s, if there are any."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not bases:
            time.sleep(left)
            return
        began = time.monotonic()
        for base in bases:
            yield scrape(base)
        time.sleep(max(0.0, min(SCRAPE_INTERVAL - (time.monotonic() - began), end - time.monotonic())))


def cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(count: int, shards: int, run: int, seconds: float) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        played = servers(stack)
        (folder / "list.json").write_text(json.dumps([{"targets": addresses(count, played.port)}]))
        running = []
        for shard in range(run):
            config = folder / f"{shard}.yaml"
            discovery = {"shard": f"{shard}/{shards}", "limit": count, "file": [{"files": ["list.json"]}]}
            config.write_text(json.dumps({"gpu": {"devices": "none"}, "discovery": discovery}))
            running.append(stack.enter_context(started("--config.file", str(config))))
        processes = [psutil.Process(sidecar.process.pid) for sidecar, _ in running]
        bases = [base for _, base in running]
        time.sleep(WARM_UP)
        results = []
        for scraped in ([], bases):
            list(pause(1.0, scraped))  # the first scrape makes what later ones share
            played.gaps()
            began, used = time.monotonic(), cpu(processes)
            scrapes = list(pause(seconds, scraped))
            took = time.monotonic() - began
            results.append(((cpu(processes) - used) / took, played.gaps(), scrapes))
        watched = count if run == shards else sum(watched_by(base) for base in bases)
        title = f"{count} targets in {shards} process{'es' if shards > 1 else ''}"
        print(title if run == shards else f"{title}, of which {run} ran, with {watched} targets")
        report(watched, processes, results, bases)


def watched_by(base: str) -> int:
    """Return how many targets a gateway watches."""
    with urllib.request.urlopen(f"{base}/metrics", timeout=60) as found:  # noqa: S310 - loopback
        lines = found.read().decode().splitlines()
    name = 'vllm_sidecar_discovery_targets{discovery="file.0",state="watched"} '
    return next(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))


def report(count: int, processes: list[psutil.Process], results: list[object], bases: list[str]) -> None:
    sizes, shards = [], len(processes)
    for base in bases:
        with urllib.request.urlopen(f"{base}/metrics", timeout=60) as found:  # noqa: S310 - loopback
            sizes.append(len(found.read()))
    memory = [process.memory_info().rss / 2**20 for process in processes]
    for text, (used, gaps, scrapes) in zip(("without scrapes", "a scrape each 15 s"), results, strict=True):
        late, of_each = quantiles(gaps, n=100), 1000 * used / count
        print(f"  {text:18}  {used / shards:.3f} s of CPU a second in each process, {of_each:.2f} ms per target")
        print(f"{'':22}polls: median {median(gaps):.3f} s, p99 {late[98]:.3f} s, longest {max(gaps):.3f} s apart")
        unanswered = sum(not size for size, _ in scrapes)
        if unanswered:
            print(f"{'':22}{unanswered} of {len(scrapes)} scrapes were not answered")
        if scrapes:
            sent, took = max(size for size, _ in scrapes) / 2**20, [seconds for _, seconds in scrapes]
            print(f"{'':22}/metrics: {max(sizes) / 2**20:.1f} MiB, {sent:.2f} MiB gzipped, answered in "
                  f"{median(took):.2f} s, at most {max(took):.2f} s")  # fmt: skip
    print(f"  memory              {max(memory):.0f} MiB, {max(memory) * shards / count:.2f} MiB per target")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", type=int, default=[64, 256])
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--run", type=int, help="how many of the shards run")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for count in options.targets:
        measure(count, options.shards, options.run or options.shards, options.seconds)


if __name__ == "__main__":
    main()
