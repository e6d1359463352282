"""`make gpu` itself, with the stub in the driver's place: it passes, and it does not pass whatever happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("stub")]
PROGRAM = Path(__file__).parents[1] / "hardware"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def test_with_the_stub_all_checks_pass() -> None:
    done = run("--stub")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agree with NVML read by another program" in done.stdout
    assert "0 failed" in done.stdout


def test_a_value_that_is_another_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other program reads power in another way than the sidecar, and here the two do not say the same."""
    monkeypatch.setenv("STUB_LINES", "power 90000")
    done = run("--stub")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "power_watts: 612.0, should be between 90.0 and 90.0" in done.stdout
