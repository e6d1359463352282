"""`make demo`: its script shows a sample, ends by itself or on Ctrl-C, and leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

DEMO = Path(__file__).parents[1] / "demo.py"
PATIENCE = 40


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


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_it_shows_a_sample_and_ends_by_itself() -> None:
    with demo(DEMO_SECONDS="9") as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert re.search(r"^The sidecar that watches it: +http://127\.0\.0\.1:\d+/metrics$", output, flags=re.MULTILINE)
    assert re.search(r'^vllm_sidecar_up\{source="vllm"\} 1\.0$', output, flags=re.MULTILINE)
    assert re.search(r"^vllm_sidecar_recent_time_to_first_token_seconds\{.*quantile=", output, flags=re.MULTILINE)
    assert output.endswith("The demo has ended.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_the_sidecar(number: signal.Signals) -> None:
    with demo() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "A sample follows" in line:
                break
        started = children(process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output.splitlines()[-1]) == (0, "The demo has ended.")
    assert len(started) == 1
    assert not any(child.is_running() for child in started)


def test_it_says_so_when_the_sidecar_dies() -> None:
    with demo() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "A sample follows" in line:
                break
        children(process)[0].kill()
        output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output.splitlines()[-1]) == (1, "demo: the sidecar ended by itself with exit code -9")


@pytest.mark.parametrize("seconds", ["soon", "0", "-1"])
def test_a_wrong_number_of_seconds_is_told_in_one_line(seconds: str) -> None:
    with demo(DEMO_SECONDS=seconds) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (1, f"demo: DEMO_SECONDS must be a number above 0, not '{seconds}'\n")
