"""Real faults of a real vLLM, and the seconds until the right page: a hung engine, overload, a full KV cache, a kill.

    VLLM_SIDECAR_SERVE='vllm serve MODEL --served-model-name m --port 8000' python tests/bench/bench_real_faults.py

The command must start a server on port 8000 that any of its flags can be added to; without it nothing is done. The
rules run at a twentieth of their times, and the sidecar calls an engine stalled after 6 s (see tests/alert_run.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import alert_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

URL = "http://127.0.0.1:8000"
START_SECONDS, PATIENCE, CALM, MOST_OPEN = 300.0, 120.0, 25.0, 150
SMALL_CACHE = ("--num-gpu-blocks-override", "40")
"""Blocks for a few of the long requests at once: on CPUs a block is of 128 tokens."""


class Load:
    """Requests a second and their lengths, changed while it runs; bounded to what is open at once."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.rate, self.words, self.tokens = 2.0, 60, 250
        self.shared = 0
        """Words that all prompts begin with, for the prefix cache."""
        self._open: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send requests until cancelled."""
        dice = random.Random(1)
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            while True:
                await asyncio.sleep(dice.expovariate(self.rate))
                if len(self._open) < MOST_OPEN:
                    task = asyncio.create_task(self._one(session, dice))
                    self._open.add(task)
                    task.add_done_callback(self._open.discard)

    def leave(self) -> None:
        """Disconnect all clients that wait."""
        for task in self._open:
            task.cancel()

    async def _one(self, session: aiohttp.ClientSession, dice: random.Random) -> None:
        own = [dice.choice(("tensor", "self", "return", "int", "size")) for _ in range(self.words)]
        prompt = " ".join(["import"] * self.shared + own)
        body = {"model": self.model, "prompt": prompt, "max_tokens": self.tokens, "ignore_eos": True}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.post(f"{URL}/v1/completions", json=body) as answer:
                await answer.read()


@contextmanager
def server(command: str, *flags: str) -> Iterator[psutil.Process]:
    """Run vLLM until healthy; yield its process, and end it with all its children."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen([*shlex.split(command), *flags], stdout=log, stderr=log, start_new_session=True) as started,
    ):
        try:
            end = time.monotonic() + START_SECONDS
            while not _healthy():
                if started.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(f"vLLM did not start:\n{log.read().decode(errors='replace')[-2000:]}")
                time.sleep(1.0)
            yield psutil.Process(started.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)


def _healthy() -> bool:
    try:
        with urllib.request.urlopen(f"{URL}/health", timeout=2) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)
    except OSError:
        return False


def engine_core(api: psutil.Process) -> psutil.Process:
    """Return the process of the scheduler and the model."""
    for child in api.children(recursive=True):
        if "EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline()):
            return child
    raise SystemExit("no process of vLLM is called EngineCore")


async def fault(name: str, played: alert_run.AlertRun, begin: Callable[[], None], wanted: set[str]) -> None:
    """Let it be calm, begin a fault, and print what pages arrive until one that is wanted does."""
    await asyncio.sleep(CALM)
    before = len(played.notices)
    calm = sorted(played.unresolved("vllm-page"))
    began = played.seconds()
    begin()
    seen: dict[str, float] = {}
    while not wanted & set(seen) and played.seconds() < began + PATIENCE:
        await asyncio.sleep(0.5)
        for notice in played.notices[before:]:
            if notice.firing and notice.receiver == "vllm-page":
                seen.setdefault(notice.alert, notice.seconds - began)
    shown = ", ".join(f"{alert} after {seconds:.0f} s" for alert, seconds in seen.items()) or "no page"
    print(f"{name:24} {shown}{f'; firing before: {calm}' if calm else ''}", flush=True)


async def resolved(name: str, played: alert_run.AlertRun) -> None:
    """Print how long the pages of a fault that ended go on."""
    began = played.seconds()
    while played.unresolved("vllm-page") and played.seconds() < began + PATIENCE:  # noqa: ASYNC110 - another thread
        await asyncio.sleep(0.5)
    left = sorted(alert for _, alert in played.unresolved("vllm-page"))
    print(f"{name:24} all resolved after {played.seconds() - began:.0f} s" if not left else f"{name:24} still {left}")


async def model_name() -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{URL}/v1/models") as answer:
        return str((await answer.json())["data"][0]["id"])


async def with_normal_cache(command: str) -> None:
    """Hang, overload and kill."""
    with server(command) as api, tempfile.TemporaryDirectory() as folder:
        load = Load(await model_name())
        with alert_run.watching({"real": URL}, Path(folder)) as played:
            sending = asyncio.create_task(load.run())
            core = engine_core(api)
            await fault("SIGSTOP of the engine", played, core.suspend, {"VllmEngineStalled"})
            core.resume()
            await resolved("SIGCONT", played)

            def overload() -> None:
                load.rate, load.tokens = 15.0, 250

            await fault("overload", played, overload, {"VllmQueueWaitHigh"})
            load.rate, load.tokens = 1.0, 20
            await resolved("load is normal again", played)
            await fault("kill -9 of the server", played, api.kill, {"VllmTargetDown"})
            sending.cancel()


async def with_small_cache(command: str) -> None:
    """Fill a KV cache that is too small for the requests."""
    with server(command, *SMALL_CACHE) as _, tempfile.TemporaryDirectory() as folder:
        load = Load(await model_name())
        with alert_run.watching({"real": URL}, Path(folder)) as played:
            sending = asyncio.create_task(load.run())

            def long_requests() -> None:
                load.rate, load.words, load.tokens = 4.0, 200, 600

            wanted = {"VllmKvCachePressure", "VllmPreemptionStorm"}
            await fault("KV cache too small", played, long_requests, wanted)
            sending.cancel()


def main() -> None:
    command = os.environ.get("VLLM_SIDECAR_SERVE")
    if not command or alert_run.programs() is None:
        print("skipped: needs VLLM_SIDECAR_SERVE (a command that starts vLLM), prometheus and prometheus-alertmanager")
        return
    asyncio.run(with_normal_cache(command))
    asyncio.run(with_small_cache(command))


if __name__ == "__main__":
    main()
