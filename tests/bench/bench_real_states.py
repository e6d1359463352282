"""What happened to a real vLLM, second by second, and what the running sidecar said of it.

    VLLM_SIDECAR_SERVE='vllm serve MODEL --served-model-name m --port 8000' python tests/bench/bench_real_states.py

The command must start a server on port 8000 that further flags can be added to; without it nothing is done. The
sidecar calls an engine stalled after 30 s, all else is as configured by default. Played are: steady load, whose
requests are counted; overload whose clients all leave at once; an engine that is stopped (SIGSTOP) while clients wait
and nobody else comes; kill -9 and a new start; and the first and the last again with two API servers.

    --sidecar PROGRAM    another vllm-sidecar to try, for what an older one said
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from bench_real_faults import URL, engine_core, model_name, server  # noqa: E402 - beside this file
from ports import free_port  # noqa: E402

if TYPE_CHECKING:
    import psutil

STALL_AFTER = 30.0
WORDS = " ".join(("tensor", "self", "return", "int", "size") * 12)


class Clients:
    """Requests to the server, and how many of them were answered in full."""

    def __init__(self, model: str) -> None:
        self.model, self.answered, self.failed = model, 0, 0
        self._open: set[asyncio.Task[None]] = set()
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=300), connector=aiohttp.TCPConnector(limit=0)
        )

    async def close(self) -> None:
        """Leave at once, all of them."""
        self.leave()
        await self._session.close()

    @property
    def waiting(self) -> int:
        """Requests without a whole answer."""
        return len(self._open)

    async def send(self, count: int, rate: float, tokens: int) -> None:
        """Send so many requests at a rate; does not wait for the answers."""
        for _ in range(count):
            task = asyncio.create_task(self._one(tokens))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            await asyncio.sleep(1.0 / rate)

    async def drain(self, seconds: float = 120.0) -> None:
        """Wait until all are answered, for so long at most."""
        if self._open:
            await asyncio.wait(self._open, timeout=seconds)

    def leave(self) -> None:
        """Disconnect all that wait."""
        for task in self._open:
            task.cancel()

    async def _one(self, tokens: int) -> None:
        body = {"model": self.model, "prompt": WORDS, "max_tokens": tokens, "ignore_eos": True}
        try:
            async with self._session.post(f"{URL}/v1/completions", json=body) as answer:
                await answer.read()
                if answer.status == 200:
                    self.answered += 1
                else:
                    self.failed += 1
        except (aiohttp.ClientError, TimeoutError):
            self.failed += 1


class Watched:
    """The sidecar as an operator sees it."""

    def __init__(self, base: str) -> None:
        self._base = base

    def get(self, path: str) -> str:
        """Return an answer."""
        with urllib.request.urlopen(self._base + path, timeout=5) as answer:  # noqa: S310 - loopback
            return str(answer.read().decode())

    def state(self) -> str:
        """Return the state in words."""
        state = json.loads(self.get("/api/v1/status"))["targets"][0]["state"]
        return f"{state['severity']}: {state['text']}"

    def values(self, name: str, *having: str) -> list[float]:
        """Return the values of a metric whose labels hold some texts."""
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(f"vllm_sidecar_{name}")]
        named = [line for line in lines if line.split("{")[0].split(" ")[0] == f"vllm_sidecar_{name}"]
        return [float(line.rsplit(" ", 1)[1]) for line in named if all(text in line for text in having)]

    def counted(self) -> float:
        """Return the requests that the objective of availability has counted."""
        return sum(self.values("slo_requests_total", 'slo="availability"'))

    def line(self) -> str:
        """Return all that in one line."""
        shown = {
            "stalled": self.values("stalled"), "restarts": self.values("server_restarts_total"),
            "counted": [self.counted()], "wait": self.values("live_queue_wait_seconds"),
            "saturation": self.values("saturation_ratio"),
        }  # fmt: skip
        return "; ".join([self.state(), *(f"{name} {values}" for name, values in shown.items())])


async def watch(watched: Watched, seconds: float, every: float = 10.0) -> None:
    """Print what is said, for a while."""
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        print(f"  {now:4.0f} s  {await asyncio.to_thread(watched.line)}", flush=True)
        await asyncio.sleep(every)


async def steady(watched: Watched, clients: Clients) -> None:
    """Count the requests of a steady load."""
    counted, answered = watched.counted(), clients.answered
    await clients.send(120, 4.0, 20)
    await clients.drain()
    await asyncio.sleep(3.0)
    print(f"steady load: {clients.answered - answered} answered, {watched.counted() - counted:.0f} counted", flush=True)


async def mass_abort(watched: Watched, clients: Clients) -> None:
    """Overload, then all clients leave at once."""
    await clients.send(120, 12.0, 600)
    print(f"overload: {clients.waiting} wait; {await asyncio.to_thread(watched.line)}")
    clients.leave()
    print("all of them left:", flush=True)
    await watch(watched, 75.0)


async def hang(watched: Watched, clients: Clients, core: psutil.Process) -> None:
    """Stop the engine while clients wait."""
    await clients.send(5, 10.0, 1500)
    await asyncio.sleep(2.0)
    core.suspend()
    print(f"SIGSTOP of the engine, {clients.waiting} wait:", flush=True)
    await watch(watched, 3 * STALL_AFTER)
    core.resume()
    await clients.drain(60.0)
    print(f"SIGCONT, {clients.waiting} wait: {await asyncio.to_thread(watched.line)}", flush=True)


async def played(command: str, program: list[str], *flags: str, whole: bool) -> None:
    """Play all to one server, kill it, and see its successor."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "sidecar.yaml"
        config.write_text(json.dumps({
            "web": {"listen_address": f"127.0.0.1:{port}"}, "vllm": {"url": URL}, "gpu": {"devices": "none"},
            "progress": {"stall_after": f"{STALL_AFTER:g}s"},
        }))  # fmt: skip
        with server(command, *flags) as api:
            running = await asyncio.create_subprocess_exec(
                *program, "serve", "--config.file", str(config), stderr=subprocess.DEVNULL
            )
            watched, clients = Watched(f"http://127.0.0.1:{port}"), Clients(await model_name())
            try:
                await asyncio.sleep(10.0)
                await steady(watched, clients)
                if whole:
                    await mass_abort(watched, clients)
                    await steady(watched, clients)
                    await hang(watched, clients, engine_core(api))
                before = watched.counted()
                for child in [*api.children(recursive=True), api]:
                    child.kill()
                await asyncio.sleep(15.0)
                print(f"kill -9: {await asyncio.to_thread(watched.line)}", flush=True)
                with server(command, *flags):
                    answered = clients.answered
                    await asyncio.sleep(10.0)
                    await steady(watched, clients)
                    counted = watched.counted() - before
                    print(f"a new process: {clients.answered - answered} answered since, {counted:.0f} counted")
                    print(f"  {await asyncio.to_thread(watched.line)}", flush=True)
            finally:
                await clients.close()
                with contextlib.suppress(ProcessLookupError):
                    running.terminate()
                await running.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="What a sidecar says of a real vLLM in trouble.")
    parser.add_argument("--sidecar", help="the program to try; this one by default")
    options = parser.parse_args()
    command = os.environ.get("VLLM_SIDECAR_SERVE")
    if not command:
        print("skipped: needs VLLM_SIDECAR_SERVE, a command that starts vLLM")
        return
    program = [options.sidecar] if options.sidecar else [sys.executable, "-m", "vllm_sidecar"]
    print("== one API server")
    asyncio.run(played(command, program, whole=True))
    print("== two API servers")
    asyncio.run(played(command, program, "--api-server-count", "2", whole=False))


if __name__ == "__main__":
    main()
