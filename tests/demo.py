"""The demo: replays the recorded metrics of a real vLLM under load, runs the sidecar on it, and shows what it says.

    python tests/demo.py

It runs until Ctrl-C, or for DEMO_SECONDS; then nothing that it started is left. Ports are free ones of the loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from bench.bodies import recorded
from fake_vllm import FakeVllm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

EXPORTER = Path(__file__).parents[1] / "exporter"
START_SECONDS = 20.0
STOP_SECONDS = 5.0
SAMPLE_SECONDS = 7.0
"""After so many polls there are enough observations for quantiles."""

SAMPLE = {
    "Queue": ("requests_running", "requests_waiting", "recent_requests_waiting_peak", "live_queue_wait_seconds"),
    "Latency of the last minute": (
        "recent_time_to_first_token_seconds",
        "recent_inter_token_latency_seconds",
        "recent_request_queue_seconds",
        "recent_time_to_first_token_share_ratio",
    ),
    "KV cache": ("recent_kv_cache_usage_peak_ratio", "kv_cache_free_tokens", "kv_cache_pressure_ratio"),
    "Throughput and prefix cache": (
        "recent_prompt_tokens_per_second",
        "recent_generation_tokens_per_second",
        "recent_cache_hit_ratio",
    ),
    "Health": ("up", "stalled", "progress_age_seconds", "saturation_ratio", "poll_server_time_ratio"),
}
"""Metrics (without vllm_sidecar_) of the printed excerpt, by heading."""


class DemoError(Exception):
    """The demo cannot go on; the text is for the user."""


def replay() -> Callable[[], bytes]:
    """Make a function that gives the recorded bodies, one each second, over and over."""
    bodies, start = list(recorded()), time.monotonic()
    return lambda: bodies[int(time.monotonic() - start) % len(bodies)]


@contextlib.asynccontextmanager
async def sidecar(url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run the sidecar on a server; yield its process and its address."""
    command = ("-m", "vllm_sidecar", "serve", "--vllm.url", url, "--web.listen-address", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(EXPORTER)},
        start_new_session=True,  # Ctrl-C goes to the demo, which ends the sidecar
    )
    log: deque[str] = deque(maxlen=20)
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def read() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            log.append(line.decode(errors="replace"))
            found = re.search(r"event=listening address=(\S+)", log[-1])
            if found and not address.done():
                address.set_result(f"http://{found[1]}")
        if not address.done():
            address.set_exception(DemoError("the sidecar did not start:\n" + "".join(log).rstrip()))

    reader = asyncio.create_task(read())
    try:
        yield process, await asyncio.wait_for(address, START_SECONDS)
    except TimeoutError:
        raise DemoError(f"the sidecar did not listen within {START_SECONDS:g} s:\n" + "".join(log).rstrip()) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        await reader


async def fetch(url: str) -> str:
    """Return the body at `url`."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session, session.get(url) as answer:
        return await answer.text()


def excerpt(metrics: str) -> str:
    """Pick the sample's lines out of a body of /metrics."""
    lines = metrics.splitlines()
    parts = []
    for heading, names in SAMPLE.items():
        pattern = re.compile(rf"vllm_sidecar_({'|'.join(names)})[{{ ]")
        parts += ["", f"# {heading}", *(line for line in lines if pattern.match(line))]
    return "\n".join(parts)


def seconds_from(text: str) -> float:
    """Read DEMO_SECONDS; nothing means for ever."""
    try:
        seconds = float(text) if text else math.inf
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise DemoError(f"DEMO_SECONDS must be a number above 0, not {text!r}")
    return seconds


async def demo(seconds: float) -> None:
    """Run for so many seconds, or until a signal."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with FakeVllm(replay()) as fake, sidecar(fake.url) as (process, url):
        say(f"A replay of a real vLLM 0.32 under load: {fake.url}/metrics")
        say(f"The sidecar that watches it:             {url}/metrics")
        first = min(SAMPLE_SECONDS, 0.8 * seconds)
        say(f"\nA sample follows in {first:.0f} s ...")
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(stop.wait())
        if not await pause(first, ended, stopped):
            body = await fetch(f"{url}/metrics")
            say(excerpt(body))
            samples = sum(not line.startswith("#") for line in body.splitlines())
            say(f"\nThat is a part of {samples} samples. Look further:")
            say(f"  curl {url}/metrics\n  curl {url}/api/v1/status")
            say("Ctrl-C ends it." if math.isinf(seconds) else f"It ends {seconds:g} s after it began.")
            await pause(seconds - first, ended, stopped)
        stopped.cancel()
        if ended.done() and not stop.is_set():
            raise DemoError(f"the sidecar ended by itself with exit code {process.returncode}")
        ended.cancel()
    say("The demo has ended.")


async def pause(seconds: float, *ends: asyncio.Task[object]) -> bool:
    """Wait; return True as soon as one of the tasks is done."""
    timeout = None if math.isinf(seconds) else seconds
    done, _ = await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)


def say(text: str) -> None:
    """Print without delay, also into a pipe."""
    print(text, flush=True)


def main() -> int:
    """Run the demo; return the exit code."""
    try:
        asyncio.run(demo(seconds_from(os.environ.get("DEMO_SECONDS", ""))))
    except BrokenPipeError:  # the reader of the output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DemoError, OSError, aiohttp.ClientError) as error:
        print(f"demo: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
