"""Programs that the demo starts: found or unpacked, watched while they run, ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections import deque
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / ".demo"
"""Where Debian's packages are unpacked; `make clean` removes it."""
START_SECONDS = 20.0
STOP_SECONDS = 5.0


class DemoError(Exception):
    """The demo cannot go on; the text is for the user."""


class Child:
    """One running program."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.log: deque[str] = deque(maxlen=20)
        self._ready = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self.found = ""
        """What the pattern of its first group matched."""

    @classmethod
    async def start(cls, name: str, command: list[str], ready: str) -> Child:
        """Start a program and wait until a line of its standard error matches `ready`.

        Raises:
            DemoError: it ended, or did not get ready in time; the text has the end of its log.
        """
        environment = os.environ | {"PYTHONPATH": str(ROOT / "exporter")}
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C goes to the demo, which ends its children
        )
        child = cls(name, process)
        child._reader = asyncio.create_task(child._read(re.compile(ready)))
        ended = asyncio.create_task(process.wait())
        waiting = asyncio.create_task(child._ready.wait())
        await asyncio.wait((ended, waiting), timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        was_ready = waiting.done()
        ended.cancel()
        waiting.cancel()
        if not was_ready:
            await child.stop()
            raise DemoError(f"{name} did not start:\n" + "".join(child.log).rstrip())
        return child

    async def _read(self, ready: re.Pattern[str]) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode(errors="replace")
            self.log.append(text)
            found = None if self._ready.is_set() else ready.search(text)
            if found:
                self.found = found[1] if found.groups() else ""
                self._ready.set()

    async def stop(self) -> None:
        """End it, and wait until it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        if self._reader:
            await self._reader


def own(*arguments: str) -> list[str]:
    """Return the command that runs this checkout's vllm-sidecar."""
    return [sys.executable, "-m", "vllm_sidecar", *arguments]


async def find_programs() -> tuple[str, str] | None:
    """Find Prometheus and Alertmanager; where apt has them, unpack them into the checkout, without installing."""
    found = _found()
    if found is None and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        await _unpack(("prometheus", "prometheus-alertmanager"))
        found = _found()
    return found


def _found() -> tuple[str, str] | None:
    path = os.pathsep.join((os.environ.get("PATH", ""), str(UNPACKED / "usr" / "bin")))
    prometheus = shutil.which("prometheus", path=path)
    names = ("prometheus-alertmanager", "alertmanager")
    alertmanager = next((one for name in names if (one := shutil.which(name, path=path))), None)
    return (prometheus, alertmanager) if prometheus and alertmanager else None


async def _unpack(packages: tuple[str, ...]) -> None:
    UNPACKED.mkdir(exist_ok=True)
    if _as_root_without_lists():
        await _quietly("apt-get", "update", "-qq")  # a fresh container has no lists
    await _quietly("apt-get", "download", "-qq", *packages)
    for package in sorted(UNPACKED.glob("*.deb")):
        await _quietly("dpkg-deb", "-x", str(package), str(UNPACKED))


def _as_root_without_lists() -> bool:
    return os.geteuid() == 0 and not list(Path("/var/lib/apt/lists").glob("*_Packages*"))


async def _quietly(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=UNPACKED, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await asyncio.wait_for(process.wait(), 120.0)
    except TimeoutError:
        process.kill()
        await process.wait()
