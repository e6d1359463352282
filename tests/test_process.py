"""The edge of the process: signals while it starts, standard streams that are closed, stuck or full, exit codes."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from loopback import wait_for
from places import EXPORTER
from ports import free_port
from sidecar_process import started

pytestmark = pytest.mark.io

PROGRAM = [sys.executable, "-m", "vllm_sidecar"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXPORTER), os.environ.get("PYTHONPATH", "")])}


def serving(port: int) -> list[str]:
    return [*PROGRAM, "serve", "--web.listen-address", f"127.0.0.1:{port}", "--vllm.url", "http://127.0.0.1:1"]


def closed(command: list[str], *streams: int) -> list[str]:
    """Return a command that starts another one with some standard streams closed."""
    text = f"import os\nfor n in {streams!r}: os.close(n)\nos.execv({command[0]!r}, {command!r})"
    return [sys.executable, "-c", text]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_while_modules_are_loaded_ends_the_program_quietly(number: signal.Signals, code: int) -> None:
    program = (
        "import os, signal, sys; sys.argv = ['vllm-sidecar', 'serve']; import vllm_sidecar.__main__ as m\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell ignores it for jobs in the background
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'vllm_sidecar.serve.app': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.exit(m.main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=ENVIRONMENT, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


@pytest.mark.parametrize("streams", [(1,), (0, 1, 2)], ids=["stdout", "all three"])
def test_it_runs_and_ends_as_usual_with_standard_streams_closed(streams: tuple[int, ...]) -> None:
    port = free_port()
    with subprocess.Popen(closed(serving(port), *streams), stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/-/healthy")
            opened = {number: Path(f"/proc/{process.pid}/fd/{number}").readlink() for number in streams}
            process.terminate()
            code = process.wait(10)
        finally:
            process.kill()

    assert opened == dict.fromkeys(streams, Path("/dev/null"))
    assert code == 0


def test_a_command_whose_output_is_closed_works_and_one_whose_output_is_full_says_so() -> None:
    into_nothing = subprocess.run(closed([*PROGRAM, "version"], 1), capture_output=True, env=ENVIRONMENT, check=False)
    with Path("/dev/full").open("w") as full:
        into_full = subprocess.run(
            [*PROGRAM, "version"], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False
        )

    assert (into_nothing.returncode, into_nothing.stderr) == (0, b"")
    assert into_full.returncode == 1
    assert into_full.stderr == b"vllm-sidecar: the output cannot be written: No space left on device\n"


def test_a_stuck_reader_of_the_log_stops_neither_scrapes_nor_the_end() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, 1031, 4096)  # F_SETPIPE_SZ
    port = free_port()
    command = [*serving(port), "--log.level", "debug"]
    with subprocess.Popen(command, stderr=writing, env=ENVIRONMENT) as process:
        os.close(writing)
        try:
            base = f"http://127.0.0.1:{port}"
            wait_for(f"{base}/-/healthy")
            for _ in range(40):
                with socket.create_connection(("127.0.0.1", port), timeout=2) as client, suppress(OSError):
                    client.sendall(b"NONSENSE\r\n\r\n")
                    client.recv(1000)
            with urllib.request.urlopen(f"{base}/metrics", timeout=5) as answer:  # noqa: S310 - loopback
                body = answer.read().decode()
            process.terminate()
            code = process.wait(10)
        finally:
            process.kill()
            os.close(reading)

    assert 'vllm_sidecar_web_requests_total{handler="malformed",code="400"} 40.0\n' in body
    assert code == 0


def test_malformed_requests_are_answered_and_logged_in_few_lines_without_tracebacks() -> None:
    kinds = (b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nA B: c\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
             b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n")  # fmt: skip
    with started("--vllm.url", "http://127.0.0.1:1") as (running, base):
        host, port = base.removeprefix("http://").split(":")
        before, heads = len(running.log), []
        for number in range(200):
            with socket.create_connection((host, int(port)), timeout=5) as client:
                client.sendall(kinds[number % len(kinds)])
                heads.append(client.recv(2000))
        log = running.log[before:]

    assert all(b" 400 " in head.partition(b"\r\n")[0] for head in heads)
    assert all(b"aiohttp" not in head for head in heads)
    assert "Traceback" not in log
    assert log.count("event=malformed_request") == 10
    assert len(log) < 4000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_without_threads_it_still_polls_and_answers() -> None:
    port = free_port()
    limited = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_override",
               "--ambient-caps=+dac_override", "prlimit", "--nproc=0"]  # fmt: skip
    try:
        process = subprocess.Popen([*limited, *serving(port)], stderr=subprocess.PIPE, env=ENVIRONMENT)
    except FileNotFoundError as error:
        pytest.skip(f"{error.filename} is missing: apt-get install util-linux")
    with process:
        try:
            base = f"http://127.0.0.1:{port}"
            wait_for(f"{base}/metrics", 'poll_failures_total{source="vllm",reason="refused"} ')
            process.terminate()
            _, log = process.communicate(timeout=10)
        finally:
            process.kill()

    assert process.returncode == 0, log
    assert b"Traceback" not in log


def test_it_has_one_thread_however_many_cores_there_are() -> None:
    with started("--vllm.url", "http://127.0.0.1:1") as (running, base):
        wait_for(f"{base}/metrics", "vllm_sidecar_up")
        time.sleep(0.5)  # threads that read a file have ended
        threads = list(Path(f"/proc/{running.process.pid}/task").iterdir())

    assert len(threads) == 1
