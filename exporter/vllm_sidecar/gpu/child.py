"""One process that calls NVML, as its parent sees it: its frames, the call that it is in, and how it ended."""

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
"""Bytes of a line without an end; eight GPUs with everything take 60 kB."""
MAX_STDERR = 2000
"""Last bytes kept of what the child, or a library in it, wrote to its standard error."""


class Child(asyncio.SubprocessProtocol):
    """Frames go to `took`, which tells whether one is the last, and raises ValueError for one that is none."""

    def __init__(self, page: CallPage, took: Callable[[bytes], bool]) -> None:
        self.page = page
        self.fault = ""
        """What was wrong with its frames; nothing more is read of it then."""
        self.over = asyncio.Event()
        """It says nothing more, or nothing more that makes sense."""
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
        """Keep the transport."""
        assert isinstance(transport, asyncio.SubprocessTransport)  # noqa: S101 - for the type checker
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take what it wrote: frames, or the end of a text."""
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
        """Write one request; one that cannot be written is lost, for the child is about to end."""
        pipe = self._transport.get_pipe_transport(0) if self._transport else None
        if isinstance(pipe, asyncio.WriteTransport) and not pipe.is_closing():
            pipe.write(json.dumps([kind, content]).encode() + b"\n")

    def close_input(self) -> None:
        """Ask it to end."""
        pipe = self._transport.get_pipe_transport(0) if self._transport else None
        if pipe is not None:
            pipe.close()

    def kill(self) -> None:
        """End it; in a call that cannot be interrupted it goes on all the same."""
        if self._transport is not None and not self.exited.is_set():
            with suppress(ProcessLookupError):
                self._transport.kill()

    def release(self) -> None:
        """Let go of pipes and page; the process may outlive that."""
        if self._transport is not None:
            self._transport.close()
        self.page.close()

    @property
    def ending(self) -> str:
        """How it ended, for the log: the signal or the code, and the last line of its standard error."""
        code = self._transport.get_returncode() if self._transport else None
        how = "end of its output" if code is None else f"signal {_signal(-code)}" if code < 0 else f"exit code {code}"
        lines = self._errors.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {last}" if last else how


def command(file: int) -> list[str]:
    """Return the command line of the child; `file` is that of its call page.

    Without `site` and the user's variables: nothing but what it needs is imported, whatever is installed beside it.
    """
    folders = [str(Path(vllm_sidecar.__file__).parents[1])]
    binding = importlib.util.find_spec("pynvml")
    if binding is not None and binding.origin is not None:
        folders.append(str(Path(binding.origin).parent))
    return [sys.executable, "-I", "-S", str(PROGRAM), str(file), *dict.fromkeys(folders)]


async def start(program: Callable[[int], Sequence[str]], took: Callable[[bytes], bool]) -> Child:
    """Start a child.

    Raises:
        OSError: there is no such program, or no room for one more process.
    """
    file = os.memfd_create("vllm-sidecar-nvml")
    try:
        os.ftruncate(file, SIZE)
        page = CallPage(file)
        try:
            # A session of its own: Ctrl-C in a terminal is for the parent, which ends it in order.
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
    """Have asyncio learn of the end of processes from the kernel; before Python 3.12 it starts a thread for each."""
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError:  # an old kernel, or a sandbox without
            return
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
