"""The parent's view of one process that calls NVML: its frames, its current call, and how it ended."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import vllm_sidecar
from vllm_sidecar.gpu.nvml.call_page import SIZE, CallPage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = Path(__file__).parent / "nvml" / "__main__.py"
MAX_FRAME = 4 << 20
"""Most bytes of an unfinished line; a frame of eight GPUs with all fields has 60 kB."""
MAX_STDERR = 2000
"""Last bytes of standard error, from the child or a library in it, that are stored."""


class Child(asyncio.SubprocessProtocol):
    """Passes frames to `took`, which returns whether one is the last, and raises ValueError for an invalid frame."""

    def __init__(self, page: CallPage, took: Callable[[bytes], bool]) -> None:
        self.page = page
        self.fault = ""
        """The error in its frames; reading stops at an error."""
        self.over = asyncio.Event()
        """Its frames have ended, or contained an error."""
        self.exited = asyncio.Event()
        self._took = took
        self._buffer = bytearray()
        self._errors = bytearray()
        self._transport: asyncio.SubprocessTransport | None = None

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._transport.get_pid() if self._transport else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.SubprocessTransport)  # noqa: S101 - for the type checker
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take its output: frames, or standard error."""
        if fd == 2:
            self._errors = (self._errors + data)[-MAX_STDERR:]
        elif not self.fault:
            self._buffer += data
            self._read()

    def _read(self) -> None:
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        try:
            for line in lines:
                if self._took(bytes(line)):
                    self.over.set()
            if len(rest) > MAX_FRAME:
                raise ValueError(f"a frame of more than {MAX_FRAME} bytes")  # noqa: TRY301 - faults end up in one place
        except Exception as error:  # noqa: BLE001 - also a bug in what takes them costs this child, not the program
            self.fault = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            self._buffer.clear()
            self.over.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Note the end of its frames."""
        if fd == 1:
            self.over.set()

    def process_exited(self) -> None:
        """Note the end of the process."""
        self.over.set()
        self.exited.set()

    def send(self, kind: str, content: object) -> None:
        """Write one request; a request that cannot be written is dropped, because the child is about to end."""
        pipe = self._transport.get_pipe_transport(0) if self._transport else None
        if isinstance(pipe, asyncio.WriteTransport) and not pipe.is_closing():
            pipe.write(json.dumps([kind, content]).encode() + b"\n")

    def close_input(self) -> None:
        """Request its end."""
        pipe = self._transport.get_pipe_transport(0) if self._transport else None
        if pipe is not None:
            pipe.close()

    def kill(self) -> None:
        """Kill it; in an uninterruptible call the process continues to exist."""
        if self._transport is not None and not self.exited.is_set():
            with suppress(ProcessLookupError):
                self._transport.kill()

    def release(self) -> None:
        """Release pipes and page; the process may outlive that."""
        if self._transport is not None:
            self._transport.close()
        self.page.close()

    @property
    def ending(self) -> str:
        """How it ended, for the log: the signal or the exit code, and the last line of its standard error."""
        code = self._transport.get_returncode() if self._transport else None
        how = "end of its output" if code is None else f"signal {_signal(-code)}" if code < 0 else f"exit code {code}"
        lines = self._errors.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {last}" if last else how


def command(file: int) -> list[str]:
    """Return the command line of the child; `file` is the descriptor of its call page.

    Without `site` and the user's variables, so that other installed packages have no effect.
    """
    folders = [str(Path(vllm_sidecar.__file__).parents[1])]
    binding = importlib.util.find_spec("pynvml")
    if binding is not None and binding.origin is not None:
        folders.append(str(Path(binding.origin).parent))
    return [sys.executable, "-I", "-S", str(PROGRAM), str(file), *dict.fromkeys(folders)]


async def start(program: Callable[[int], Sequence[str]], took: Callable[[bytes], bool]) -> Child:
    """Start a child.

    Raises:
        OSError: the program does not exist, or the process cannot be created.
    """
    file = os.memfd_create("vllm-sidecar-nvml")
    try:
        os.ftruncate(file, SIZE)
        page = CallPage(file)
        try:
            # In a separate session, so that only the parent receives Ctrl-C from a terminal, and ends the child in
            # order.
            _, child = await asyncio.get_running_loop().subprocess_exec(
                lambda: Child(page, took), *program(file), pass_fds=(file,), start_new_session=True
            )
        except BaseException:
            page.close()
            raise
    finally:
        os.close(file)
    return child


def watch_without_threads() -> None:
    """Make asyncio learn the end of processes from the kernel; before Python 3.12 it starts a thread for each."""
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError:  # an old kernel, or a sandbox without pidfd
            return
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
