"""Signals at every stage, streams that are closed, stuck or full, files that run out, and reloads of broken files."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from commands import environment
from configuration import write
from ports import free_port
from sidecar_process import started
from situations import PATIENCE, Situation, expect, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TARGET = "--vllm.url", "http://127.0.0.1:1"
F_SETPIPE_SZ = 1031


def get(base: str, path: str = "/metrics") -> str:
    """Return what the program answers."""
    with urllib.request.urlopen(f"{base}{path}", timeout=10) as answer:  # noqa: S310 - loopback
        return str(answer.read().decode())


@contextmanager
def serving(prefix: str = "", **streams: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the program behind a few lines of Python that change its surroundings; yield it when it answers."""
    port = free_port()
    arguments = [sys.executable, "-m", "vllm_sidecar", "serve", "--web.listen-address", f"127.0.0.1:{port}", *TARGET]
    command = [sys.executable, "-c", f"import os, resource\n{prefix}\nos.execv({sys.executable!r}, {arguments!r})"]
    with subprocess.Popen(command, env=environment(), **{"stderr": subprocess.DEVNULL, **streams}) as process:
        try:
            until(lambda: _healthy(f"http://127.0.0.1:{port}"), "200")
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _healthy(base: str) -> str:
    try:
        with urllib.request.urlopen(f"{base}/-/healthy", timeout=5) as answer:  # noqa: S310 - loopback
            return str(answer.status)
    except OSError as error:
        return str(error)


def _ends(process: subprocess.Popen[bytes], number: int, *codes: int) -> str:
    began = time.monotonic()
    process.send_signal(number)
    ended = process.wait(PATIENCE)
    return expect(f"exit code {ended}, {time.monotonic() - began:.1f} s", held=ended in codes)


def _signalled(number: signal.Signals, *codes: int) -> Callable[[], str]:
    def inject() -> str:
        with started(*TARGET) as (running, _):
            seen = _ends(running.process, number, *codes)
            return expect(seen, held="Traceback" not in running.log)

    return inject


_HOOK = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for jobs in the background
sys.argv = ["vllm-sidecar", "serve", "--web.listen-address", "127.0.0.1:{port}", "--vllm.url", "http://127.0.0.1:1"]
import vllm_sidecar.__main__ as program
class Finder:
    def find_spec(self, name, *_):
        if name == {stage!r}: os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
sys.exit(program.main())
"""


def _while_starting(number: signal.Signals, stage: str, codes: tuple[int, ...]) -> Callable[[], str]:
    def inject() -> str:
        port = free_port()
        command = [sys.executable, "-c", _HOOK.format(port=port, stage=stage, number=int(number))]
        with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE) as process:
            try:
                if codes:
                    _, log = process.communicate(timeout=PATIENCE)
                    code = process.returncode
                    return expect(f"exit code {code}, {len(log)} bytes of output", held=code in codes and not log)
                until(lambda: _healthy(f"http://127.0.0.1:{port}"), "200")
                return f"runs; at SIGTERM {_ends(process, signal.SIGTERM, 0)}"
            finally:
                process.kill()

    return inject


def _streams(*closed: int) -> Callable[[], str]:
    def inject() -> str:
        with serving(f"for n in {closed!r}: os.close(n)") as (process, base):
            get(base)
            return _ends(process, signal.SIGTERM, 0)

    return inject


def _stuck() -> str:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    with serving(stderr=writing) as (process, base):
        os.close(writing)
        try:
            for _ in range(60):
                with socket.create_connection(("127.0.0.1", int(base.rpartition(":")[2])), timeout=2) as client:
                    client.sendall(b"NONSENSE\r\n\r\n")
                    client.recv(1000)
            expect("scraped", held="vllm_sidecar_up" in get(base))
            return _ends(process, signal.SIGTERM, 0)
        finally:
            os.close(reading)


def _reader_gone() -> str:
    reading, writing = os.pipe()
    with serving(stderr=writing) as (process, base):
        os.close(writing)
        os.close(reading)
        time.sleep(1.5)
        expect("scraped", held="vllm_sidecar_up" in get(base))
        return _ends(process, signal.SIGTERM, 0)


def _full_disk() -> str:
    with Path("/dev/full").open("wb") as full, serving(stderr=full.fileno()) as (process, base):
        expect("scraped", held="vllm_sidecar_up" in get(base))
        return _ends(process, signal.SIGTERM, 0)


def _few_files() -> str:
    with serving("resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))") as (process, base), ExitStack() as stack:
        address = "127.0.0.1", int(base.rpartition(":")[2])
        for _ in range(300):
            stack.enter_context(socket.create_connection(address, timeout=5))
        began = time.monotonic()
        expect("scraped", held="vllm_sidecar_up" in get(base))
        return f"scraped within {time.monotonic() - began:.1f} s, {_ends(process, signal.SIGTERM, 0)}"


def _limited(what: str, limit: str) -> Callable[[], str]:
    def inject() -> str:
        with serving(f"resource.setrlimit(resource.{what}, {limit})") as (process, base):
            expect("scraped", held="vllm_sidecar_up" in get(base))
            return _ends(process, signal.SIGTERM, 0)

    return inject


def _stopped() -> str:
    with serving() as (process, base):
        process.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        process.send_signal(signal.SIGCONT)
        expect("scraped", held="vllm_sidecar_up" in get(base))
        return _ends(process, signal.SIGTERM, 0)


def _many_signals() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        write(path, "vllm: {url: 'http://127.0.0.1:1'}\ngpu: {devices: none}\n")
        with started("--config.file", str(path)) as (running, base):
            for _ in range(200):
                running.process.send_signal(signal.SIGHUP)
            expect("scraped", held="vllm_sidecar_up" in get(base))
            return f"ended within {running.stop():.1f} s"


def _reloaded(change: Callable[[Path], object], *, successful: bool) -> Callable[[], str]:
    def inject() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.yaml"
            write(path, "vllm: {url: 'http://127.0.0.1:1'}\ngpu: {devices: none}\n")
            with started("--config.file", str(path)) as (running, base):
                change(path)
                running.process.send_signal(signal.SIGHUP)
                event = until(
                    lambda: running.log, "event=config_reloaded" if successful else "event=config_reload_failed"
                )
                line = f"vllm_sidecar_config_last_reload_successful {float(successful)}"
                until(lambda: get(base), line)
                return expect(f"{event}, polls continue", held="Traceback" not in running.log)

    return inject


def _replaced(text: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def _other(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def made(path: Path) -> None:
        path.unlink()
        change(path)

    return made


_LAUGHS = "a: &a [x]\n" + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]\n" for n in range(12))
_RELOADS: dict[str, tuple[Callable[[Path], object], bool]] = {
    "became empty": (_replaced(""), False), "is half-written": (_replaced("vllm: {url: 'http"), False), "is a billion laughs": (_replaced(_LAUGHS), False),
    "became a pipe": (_other(os.mkfifo), False), "became a folder": (_other(Path.mkdir), False), "was deleted": (Path.unlink, False), "is not UTF-8": (_replaced(b"\xff\xfe"), False),
    "has a tag that does not fit": (_replaced("vllm: {url: !!bool maybe}"), False), "became an endless device": (_other(lambda path: path.symlink_to("/dev/zero")), False),
    "has an unknown key": (_replaced("vllm: {url: 'http://127.0.0.1:1'}\nnonsense: 1\n"), False), "names no server any more": (_replaced("log: {level: info}\n"), False),
    "has 200 servers": (_replaced("gpu: {devices: none}\ntargets:\n" + "".join(f"  - {{name: a{n}, url: 'http://127.0.0.1:1'}}\n" for n in range(200))), True),
    "has another label": (_replaced("vllm: {url: 'http://127.0.0.1:1', labels: {team: a}}\ngpu: {devices: none}\n"), True),
}  # fmt: skip


def surroundings() -> Iterator[Situation]:
    """Yield signals, streams and limits of the process."""
    end = "it ends with exit code 0, without a traceback"
    yield Situation("SIGTERM", end, _signalled(signal.SIGTERM, 0))
    starting = "it ends with exit code 0, or 130 while it starts, without a traceback"
    yield Situation("Ctrl-C", starting, _signalled(signal.SIGINT, 0, 130))
    for number, codes in ((signal.SIGTERM, (0,)), (signal.SIGINT, (130,)), (signal.SIGHUP, ())):
        for stage in ("vllm_sidecar.cli", "vllm_sidecar.config", "aiohttp", "vllm_sidecar.serve.app"):
            promise = "quiet: the exit code of the signal" if codes else "it waits: the program starts and runs"
            yield Situation(f"{number.name} while {stage} is loaded", promise, _while_starting(number, stage, codes))
    works = "scrapes and the end work as usual"
    for closed in ((0,), (1,), (2,), (0, 1, 2)):
        yield Situation(f"Closed standard streams: {', '.join(map(str, closed))}", works, _streams(*closed))
    yield Situation("The reader of the log is stuck", works, _stuck)
    yield Situation("The reader of the log is gone", works, _reader_gone)
    yield Situation("The disk of the log is full", works, _full_disk)
    yield Situation("300 connections with 128 files", works, _few_files)
    for what, name, limit in (("no core files", "RLIMIT_CORE", "(0, 0)"), ("a stack of 1 MB", "RLIMIT_STACK", "(1 << 20, 1 << 20)"), ("files of 1 MB at most", "RLIMIT_FSIZE", "(1 << 20, 1 << 20)"),
                              ("2 GB of address space", "RLIMIT_AS", "(2 << 30, 2 << 30)")):  # fmt: skip
        yield Situation(f"A limit: {what}", works, _limited(name, limit))
    yield Situation("SIGSTOP for 3 s", works, _stopped)
    yield Situation("200 SIGHUP at once", works, _many_signals)
    for what, (change, successful) in _RELOADS.items():
        promise = (
            "the reload is applied"
            if successful
            else "the running configuration stays, and the metric of the last reload is 0"
        )
        yield Situation(f"At a reload the file {what}", promise, _reloaded(change, successful=successful))
