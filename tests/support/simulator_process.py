"""Starts the real simulator as its users do, on a free loopback port."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from places import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def simulator(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `vllm-sidecar simulate` on a free port; yield the process and its address."""
    command = [sys.executable, "-m", "vllm_sidecar", "simulate", "--port", "0", *flags]
    with subprocess.Popen(command, cwd=ROOT / "exporter", stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"event=listening address=(\S+)", line):
                    yield process, f"http://{found[1]}"
                    break
            else:
                pytest.fail("it did not listen")
        finally:
            process.kill()
