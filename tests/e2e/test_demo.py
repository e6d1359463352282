"""`make demo`: a simulated incident pages, it ends by itself or on Ctrl-C, and leaves nothing running."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

DEMO = Path(__file__).parents[1] / "demo"
PATIENCE = 60
MORE = 10.0
"""Seconds after the page in which no other one may arrive."""
QUICK = "healthy 5s -> sleep 120s -> healthy"


@contextmanager
def demo(**environment: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, DEMO],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Return the output up to the line with these words."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"{words!r} never came:\n{''.join(lines)}")


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_it_says_where_everything_is_shows_lines_and_ends_by_itself() -> None:
    with demo(DEMO_SECONDS="4") as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert re.search(r"^status page +http://127\.0\.0\.1:\d+/$", output, flags=re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d  healthy +\d+ +\d+ +\d+ %", output, flags=re.MULTILINE)
    assert output.endswith("The demo has ended.\n")


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not on PATH: apt-get install prometheus")
def test_an_incident_pages() -> None:
    with demo(SCENARIO=QUICK, DEMO_SECONDS="150") as process:
        output = read_until(process, "PAGE")
        time.sleep(MORE)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE)
    output += rest
    assert process.returncode == 0, output
    assert "It should raise VllmReplicasUnavailable, VllmAsleepWithRequests." in output
    pages = re.findall(r"^\S+ +PAGE  (\w+): (.*)$", output, flags=re.MULTILINE)
    assert [name for name, _ in pages] == ["VllmReplicasUnavailable"]
    assert pages[0][1].startswith("1 of 1 replicas of ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_all_that_it_started(number: signal.Signals) -> None:
    with demo() as process:
        read_until(process, "It plays")
        started = children(process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output.splitlines()[-1]) == (0, "The demo has ended.")
    assert len(started) >= 2
    assert not any(child.is_running() for child in started)


def test_it_says_so_when_the_sidecar_dies() -> None:
    with demo() as process:
        read_until(process, "Ctrl-C ends it")
        next(child for child in children(process) if "serve" in child.cmdline()).kill()
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "demo: the sidecar ended by itself with exit code -9:" in output


@pytest.mark.parametrize("seconds", ["soon", "0", "-1"])
def test_a_wrong_number_of_seconds_is_told_in_one_line(seconds: str) -> None:
    with demo(DEMO_SECONDS=seconds) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (1, f"demo: DEMO_SECONDS must be a number above 0, not '{seconds}'\n")


def test_a_scenario_that_does_not_exist_is_told_with_those_that_do() -> None:
    with demo(SCENARIO="stal") as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert output.startswith(
        'demo: the simulator did not start:\nvllm-sidecar: command line: phases.1: got "stal 150s"'
    )
    assert "did you mean stall?" in output
