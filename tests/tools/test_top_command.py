"""The command `top`: in a terminal, once for scripts, and its mistakes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from places import EXPORTER
from sidecar_process import sidecar
from simulator_process import simulator

from vllm_sidecar.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.io
UP, DOWN, LEAVES_SCREEN, SHOWS_CURSOR = b"\x1bOA", b"\x1bOB", b"\x1b[?1049l", b"\x1b[?25h"


class Terminal:
    """A pseudo-terminal with the command in it."""

    def __init__(self, process: int, descriptor: int) -> None:
        self.process, self._descriptor = process, descriptor
        self.output = b""

    def read(self, seconds: float) -> bytes:
        """Return what is written within some seconds, or until the command ends."""
        before, end = len(self.output), time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self._descriptor], [], [], 0.05)[0]:
                try:
                    self.output += os.read(self._descriptor, 65536)
                except OSError:
                    break
        return self.output[before:]

    def wait_for(self, text: bytes, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < end, self.output[-3000:]
            self.read(0.2)

    def press(self, key: bytes, seconds: float = 0.5) -> bytes:
        os.write(self._descriptor, key)
        return self.read(seconds)

    def resize(self, columns: int, lines: int) -> bytes:
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        return self.read(1.0)

    def echoes(self) -> bool:
        """Return whether the terminal shows what is typed, as it does outside of the screen."""
        return bool(termios.tcgetattr(self._descriptor)[3] & termios.ECHO)

    def close(self) -> None:
        """Close the terminal, as its window is closed."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, self._descriptor)
        os.close(null)

    def end(self) -> int:
        """Wait for the end; return the exit code."""
        self.read(10.0)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


@contextmanager
def top(*arguments: str, size: tuple[int, int] = (100, 24), **variables: str) -> Iterator[Terminal]:
    process, descriptor = pty.fork()
    if process == 0:
        environment = {**os.environ, "PYTHONPATH": str(EXPORTER), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        environment.update(variables)
        os.execve(sys.executable, [sys.executable, "-m", "vllm_sidecar", "top", *arguments], environment)  # noqa: S606
    try:
        terminal = Terminal(process, descriptor)
        terminal.resize(*size)
        yield terminal
    finally:
        try:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(descriptor)


@pytest.mark.slow
def test_a_fleet_is_shown_opened_and_left_and_the_terminal_is_restored() -> None:
    with simulator() as (_, url), top(url, "http://127.0.0.1:1") as terminal:
        terminal.wait_for(b"healthy")
        terminal.wait_for(b"1 bad")
        terminal.press(DOWN)
        assert b"LAST MINUTE" in terminal.press(b"\r", 1.5)
        assert b"STATE" in terminal.press(b"\x1b", 1.0)
        assert b"order by the next" in terminal.press(b"?")
        assert b"PAUSED" in terminal.press(b"p")
        assert b"vllm-sidecar top" in terminal.resize(60, 12)
        os.write(terminal._descriptor, b"q")
        assert terminal.end() == 0
    assert LEAVES_SCREEN in terminal.output[-200:]
    assert SHOWS_CURSOR in terminal.output[-200:]
    assert b"Traceback" not in terminal.output


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
def test_signals_leave_a_clean_terminal(sent: signal.Signals, code: int) -> None:
    with top("http://127.0.0.1:1") as terminal:
        terminal.wait_for(b"down: refused")
        assert not terminal.echoes()
        os.kill(terminal.process, sent)
        terminal.wait_for(LEAVES_SCREEN)
        assert terminal.echoes(), "typed text is shown again"
        assert terminal.end() == code
    assert LEAVES_SCREEN in terminal.output[-200:]


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_the_command() -> None:
    with top("http://127.0.0.1:1") as terminal:
        terminal.wait_for(b"down: refused")
        terminal.close()
        end = time.monotonic() + 10.0
        while os.waitpid(terminal.process, os.WNOHANG) == (0, 0):
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.mark.slow
def test_a_server_that_dies_and_starts_again_is_shown_as_it_is() -> None:
    with simulator() as (first, url), top(url) as terminal:
        terminal.wait_for(b"running")
        first.terminate()
        first.wait()
        terminal.wait_for(b"refused")
        with simulator("--port", url.rpartition(":")[2]):
            terminal.output = b""
            terminal.wait_for(b"1 restart seen")


@pytest.mark.slow
def test_without_color_and_unicode_the_screen_is_plain() -> None:
    with simulator() as (_, url), top(url, LC_ALL="C", PYTHONUTF8="0", NO_COLOR="1") as terminal:
        terminal.wait_for(b"healthy: ")
        terminal.read(2.0)
        assert terminal.output.isascii()
        assert not re.search(rb"\x1b\[3[0-7]m", terminal.output), "colors"


@pytest.mark.slow
def test_a_sidecar_has_the_minutes_and_a_row_of_its_own_when_it_does_not_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with simulator() as (_, url), sidecar("--vllm.url", url) as base:
        time.sleep(6.0)
        assert main(["top", "--from", base, "--from", "http://127.0.0.1:1", "--once", "--format", "json"]) == 0
        servers = json.loads(capsys.readouterr().out)["servers"]
        assert [server["state"]["name"] for server in servers] == ["healthy", "no_answer"]
        assert servers[0]["values"]["running"] > 0.0
        assert main(["top", "--from", base, "--once"]) == 0
        out = capsys.readouterr().out
        assert out.splitlines()[1].startswith("healthy: ")
        assert "\x1b" not in out
        assert main(["top", "--from", url, "--once"]) == 1
        assert "this is not a sidecar" in " ".join(capsys.readouterr().out.split()), "lines are as wide as the terminal"


@pytest.mark.parametrize(("terminal", "complaint"), [("dumb", b"cannot move its cursor"), ("no-such", b"is unknown")])
@pytest.mark.slow
def test_a_terminal_that_cannot_be_drawn_on_is_named(terminal: str, complaint: bytes) -> None:
    with top("--from", "http://127.0.0.1:1", TERM=terminal) as shown:
        assert shown.end() == 1
    assert complaint in shown.output
    assert b"--once" in shown.output


def test_no_answer_is_an_error_of_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--from", "http://127.0.0.1:1", "--once"]) == 1
    printed = capsys.readouterr()
    assert "no answer of the sidecar: refused" in printed.out
    assert printed.err == "vllm-sidecar: no server answered\n"


def test_columns_of_the_environment_hold_where_the_output_is_not_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["top", "--from", "http://127.0.0.1:1", "--once"]) == 1
    assert max(map(len, capsys.readouterr().out.splitlines()[1:])) <= 40


def test_credentials_of_the_configuration_are_not_sent_to_sidecars(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm_sidecar.cli import parser
    from vllm_sidecar.tools.targets import other_server

    monkeypatch.setenv("VLLM_SIDECAR_VLLM_BEARER_TOKEN", "secret")
    arguments = parser("top").parse_args(["top", "--from", "http://h:1"])
    assert other_server(arguments, "http://h:1").vllm.bearer_token is None


@pytest.mark.parametrize("arguments", [("h:8000",), ("--from", "h:10190")])
def test_a_mistaken_address_is_named(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", *arguments]) == 1
    assert 'vllm.url: got "h:' in capsys.readouterr().err
