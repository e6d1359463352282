"""The demo: a simulated vLLM gets into trouble, the sidecar watches it, Prometheus and Alertmanager page.

    python tests/demo

SCENARIO names what happens (default kv-exhaustion; `vllm-sidecar simulate --list` tells them all), or a whole script
such as 'healthy 20s -> stall 90s -> healthy'. It runs until Ctrl-C, or for DEMO_SECONDS; then nothing that it started
is left. All ports are free ones of the loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from children import ROOT, Child, DemoError, find_programs, own
from pager import Pager, write_configurations
from status_lines import HEAD, line

sys.path.append(str(ROOT / "tests" / "support"))
from ports import free_port

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

DEFAULT = "kv-exhaustion"
AROUND = "healthy 45s -> {} 150s -> healthy"
LINE_SECONDS = 5.0
LINES_PER_HEAD = 12
STALL_AFTER = "30s"
"""The default of two minutes is right for pagers, and too long for a demo."""


def say(text: str) -> None:
    """Print without delay, also into a pipe."""
    print(text, flush=True)


def seconds_from(text: str) -> float:
    """Read DEMO_SECONDS; nothing means for ever."""
    try:
        seconds = float(text) if text else math.inf
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise DemoError(f"DEMO_SECONDS must be a number above 0, not {text!r}")
    return seconds


def script_from(text: str) -> str:
    """Read SCENARIO: a scenario gets calm phases around it, a script stays as it is."""
    text = text.strip() or DEFAULT
    return text if " " in text or text == "healthy" else AROUND.format(text)


class Demo:
    """All that runs."""

    def __init__(self, stack: AsyncExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self.children: list[Child] = []
        self.vllm = self.sidecar = ""

    async def _start(self, name: str, command: list[str], ready: str) -> Child:
        child = await Child.start(name, command, ready)
        self._stack.push_async_callback(child.stop)
        self.children.append(child)
        return child

    async def start(self, script: str) -> None:
        """Start everything, and say where it is."""
        simulate = own("simulate", "--port", "0", "--scenario", script)
        self.vllm = (await self._start("the simulator", simulate, r"event=listening address=(\S+)")).found
        config = self._folder / "sidecar.yaml"
        config.write_text(f"progress:\n  stall_after: {STALL_AFTER}\n")
        serve = own("serve", "--config.file", str(config), "--vllm.url", f"http://{self.vllm}")
        serve += ["--web.listen-address", "127.0.0.1:0", "--gpu.simulate"]
        self.sidecar = (await self._start("the sidecar", serve, r"event=listening address=(\S+)")).found
        say(f"simulated vLLM  http://{self.vllm}/metrics")
        say(f"status page     http://{self.sidecar}/")
        say(f"metrics         http://{self.sidecar}/metrics")
        await self._start_alerting()
        say(f"\nIt plays: {script}")

    async def _start_alerting(self) -> None:
        programs = await find_programs()
        if programs is None:
            say("Prometheus and Alertmanager are not there, so nothing pages:")
            say("  apt-get install prometheus prometheus-alertmanager")
            return
        pager = Pager(say)
        await pager.start()
        self._stack.push_async_callback(pager.stop)
        ports = [free_port(), free_port()]
        prometheus, alertmanager = (f"127.0.0.1:{port}" for port in ports)
        folder = self._folder
        write_configurations(
            folder, rules=ROOT / "rules", sidecar=self.sidecar, alertmanager=alertmanager, pager=pager.url
        )
        await self._start(
            "Alertmanager",
            [programs[1], f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'alerts'}",
             f"--web.listen-address={alertmanager}", "--cluster.listen-address="],
            r"Listening on|[Ll]istening",
        )  # fmt: skip
        await self._start(
            "Prometheus",
            [programs[0], f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={prometheus}"],
            r"ready to receive web requests",
        )  # fmt: skip
        say(f"Prometheus      http://{prometheus}/alerts")
        say(f"Alertmanager    http://{alertmanager}/")

    async def follow(self, session: aiohttp.ClientSession) -> None:
        """Print what happens, for ever."""
        told, number = "", 0
        while True:
            phase = await self._ask(session, f"http://{self.vllm}/simulate/phase")
            if phase and phase["phase"] != told:
                told = phase["phase"]
                alerts = f" It should raise {', '.join(phase['alerts'])}." if phase["alerts"] else ""
                say(f"\n{told}: {phase['description']}{alerts}")
                number = 0
            status = await self._ask(session, f"http://{self.sidecar}/api/v1/status")
            if number % LINES_PER_HEAD == 0:
                say(HEAD)
            if status:
                say(line(status, told))
            number += 1
            await asyncio.sleep(LINE_SECONDS)

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> Any:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # the simulator may be in a crash
            async with session.get(url) as answer:
                return await answer.json()
        return None


async def demo(seconds: float, script: str) -> None:
    """Run for so many seconds, or until a signal."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    folder = Path(tempfile.mkdtemp(prefix="vllm-sidecar-demo-"))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(_remove, folder)
        running = Demo(stack, folder)
        starting = asyncio.create_task(running.start(script))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        else:
            await starting
            say("Ctrl-C ends it." if math.isinf(seconds) else f"It ends after {seconds:g} s.")
            await _watch(running, seconds, stopped)
        stopped.cancel()
    say("The demo has ended.")


async def _watch(running: Demo, seconds: float, stopped: asyncio.Task[bool]) -> None:
    """Follow until the time is over or it is stopped; a child that ends by itself is an error."""
    ends = {asyncio.create_task(child.process.wait()): child for child in running.children}
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        following = asyncio.create_task(running.follow(session))
        try:
            limit = None if math.isinf(seconds) else seconds
            done, _ = await asyncio.wait(
                (stopped, following, *ends), timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
            if following in done:
                await following
            for task, child in ends.items():
                if task in done and not stopped.done():
                    raise DemoError(
                        f"{child.name} ended by itself with exit code {child.process.returncode}:\n"
                        + "".join(child.log).rstrip()
                    )
        finally:
            following.cancel()
            for task in ends:
                task.cancel()
            await asyncio.gather(following, *ends, return_exceptions=True)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run the demo; return the exit code."""
    try:
        asyncio.run(demo(seconds_from(os.environ.get("DEMO_SECONDS", "")), script_from(os.environ.get("SCENARIO", ""))))
    except BrokenPipeError:  # the reader of the output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DemoError, OSError, aiohttp.ClientError) as error:
        print(f"demo: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
