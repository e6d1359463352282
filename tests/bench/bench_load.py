"""Scrapers and others at the sidecar's port: do they delay its polls, and is a scrape answered meanwhile?

A server with the recorded bodies of a real vLLM under load is polled each second, and notes when. The load comes
from a process of its own. For each kind of load the table has the requests that were answered in a second, the longest
time between two polls, the time that one scraper waits (which asks each half second, each time over a new connection),
and what the sidecar used; the longest hold of the event loop follows.

    python tests/bench/bench_load.py [SECONDS]     8 s for each kind by default
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import re
import sys
import tempfile
import time
import urllib.request
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

import psutil  # noqa: E402 - the helpers of the tests are beside this folder
from bodies import recorded  # noqa: E402
from sidecar_process import started  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CLIENTS = 200
WARM_SECONDS = 20.0
REQUEST = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: {}\r\nConnection: {}\r\n\r\n"


class Polled:
    """A server that is polled, and when."""

    def __init__(self) -> None:
        self._bodies = list(recorded())
        self.at: list[float] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer each request of a connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body, status = b"", "404 Not Found"
                if head.startswith(b"GET /metrics"):
                    self.at.append(time.monotonic())
                    body, status = self._bodies[(len(self.at) - 1) % len(self._bodies)], "200 OK"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()

    def longest_gap(self, begin: float) -> float:
        """Return the longest time between two polls since a moment."""
        at = [each for each in self.at if each >= begin]
        return max((later - earlier for earlier, later in pairwise(at)), default=float("nan"))


async def read_answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    await reader.readexactly(int(found[1]) if found else 0)


async def scraper(port: int, counted: list[int], *, encoding: str, keep: bool, path: str = "/metrics") -> None:
    """Scrape again and again."""
    request = REQUEST.format(path, encoding, "keep-alive" if keep else "close").encode()
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while True:
                    writer.write(request)
                    await read_answer(reader)
                    counted[0] += 1
                    if not keep:
                        break
            finally:
                writer.close()


async def slow_reader(port: int, counted: list[int]) -> None:
    """Ask for everything, and read nothing."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.transport.pause_reading()
            for _ in range(50):
                writer.write(REQUEST.format("/metrics", "identity", "keep-alive").encode())
            await writer.drain()
            counted[0] += 1
            await asyncio.sleep(60)
            del reader


async def malformed(port: int, counted: list[int]) -> None:
    """Send what is not HTTP."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"NONSENSE\r\n\r\n")
            await read_answer(reader)
            counted[0] += 1
            writer.close()


async def idle(port: int, counted: list[int]) -> None:
    """Connect five times, and send nothing."""
    writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(5)]
    counted[0] += len(writers)
    await asyncio.sleep(60)
    del writers


Load: TypeAlias = "Callable[[int, list[int]], Coroutine[object, object, None]]"
KINDS: dict[str, Load | None] = {
    "nothing": None,
    "200 scrapers, keep-alive, gzip": lambda port, n: scraper(port, n, encoding="gzip", keep=True),
    "200 scrapers, keep-alive, no gzip": lambda port, n: scraper(port, n, encoding="identity", keep=True),
    "200 scrapers, new connections, gzip": lambda port, n: scraper(port, n, encoding="gzip", keep=False),
    "200 scrapers, new connections, no gzip": lambda port, n: scraper(port, n, encoding="identity", keep=False),
    "200 clients that do not read 50 answers": slow_reader,
    "1,000 connections that stay idle": idle,
    "200 clients for a path that does not exist": lambda port, n: scraper(
        port, n, encoding="identity", keep=True, path="/none"
    ),
    "200 clients that send nonsense": malformed,
}


def run_load(kind: str, port: int, seconds: float, answered: multiprocessing.Queue[int]) -> None:
    """Be the process of one kind of load."""

    async def main() -> None:
        counted, load = [0], KINDS[kind]
        tasks = [asyncio.create_task(load(port, counted)) for _ in range(CLIENTS)]
        await asyncio.sleep(seconds)
        answered.put(counted[0])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


async def waits(port: int, seconds: float) -> list[float]:
    """Scrape each half second over new connections; return how long each took, at most ten seconds."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(REQUEST.format("/metrics", "gzip", "close").encode())
                await read_answer(reader)
                writer.close()
            found.append(time.monotonic() - began)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            found.append(10.0)
        await asyncio.sleep(0.5)
    return found


async def measure(base: str, polled: Polled, process: psutil.Process, seconds: float) -> None:
    """Play each kind of load, and print its row."""
    port = int(base.rsplit(":", 1)[1])
    print("| Load | Requests/s | Longest time between polls | A scrape: median, longest | CPU | RSS |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, load in KINDS.items():
        answered: multiprocessing.Queue[int] = multiprocessing.get_context("spawn").Queue()
        child = multiprocessing.get_context("spawn").Process(target=run_load, args=(kind, port, seconds, answered))
        if load:
            child.start()
            await asyncio.sleep(2.0)  # it starts
        begin, cpu = time.monotonic(), sum(process.cpu_times()[:2])
        times = await waits(port, seconds - 3.0)
        used = (sum(process.cpu_times()[:2]) - cpu) / (time.monotonic() - begin)
        gap, rss = polled.longest_gap(begin), process.memory_info().rss / 2**20
        count = 0
        if load:
            count = await asyncio.to_thread(answered.get)
            await asyncio.to_thread(child.join)
        wait = f"{median(times) * 1e3:.0f} ms, {max(times) * 1e3:.0f} ms"
        print(f"| {kind} | {count / seconds:,.0f} | {gap:.2f} s | {wait} "
              f"| {used:.0%} | {rss:.0f} MiB |", flush=True)  # fmt: skip
        await asyncio.sleep(1.0)
    with urllib.request.urlopen(f"{base}/metrics", timeout=10) as answer:  # noqa: ASYNC210, S310 - loopback
        text = answer.read().decode()
    for line in re.findall(r"^vllm_sidecar_(?:event_loop|web_connections_closed|log_lines).*", text, re.MULTILINE):
        print(line)


async def main() -> None:
    """Run everything."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    polled = Polled()
    server = await asyncio.start_server(polled.answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text("scrape: {server_time_ratio: 1.0}\nintrospection: {enabled: false}\ngpu: {devices: none}\n")
        with started("--vllm.url", url, "--config.file", str(config)) as (running, base):
            await asyncio.sleep(WARM_SECONDS)
            await measure(base, polled, psutil.Process(running.process.pid), seconds)
            print(f"log: {len(running.log):,} bytes")
            print(f"SIGTERM to exit: {running.stop():.2f} s")
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
