"""Wrapper around amtool, the checker that comes with Alertmanager; a miss skips, and fails with CI=true."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

HINT = "amtool is not on PATH: apt-get install prometheus-alertmanager (Debian, Ubuntu) or unpack a release"


def amtool(*arguments: str) -> str:
    """Run it and return its standard output; a failure fails the test with all that it said."""
    program = shutil.which("amtool")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail(HINT)
        pytest.skip(HINT)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
