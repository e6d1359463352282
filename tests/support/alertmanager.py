"""Finds Alertmanager, which Debian calls prometheus-alertmanager, and starts one on a free loopback port."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from loopback import wait_for
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HINT = "Alertmanager is missing: apt-get install prometheus-alertmanager"


def installed() -> str | None:
    """Return the one on PATH."""
    return shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


def program() -> str:
    """Return the one on PATH; without it skip the test, or fail it with CI=true."""
    found = installed()
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(HINT)
    return found


@contextmanager
def alertmanager(folder: Path, binary: str) -> Iterator[str]:
    """Run Alertmanager with the alertmanager.yml of a folder; yield its host and port once it is ready."""
    address = f"127.0.0.1:{free_port()}"
    command = [binary, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alerts",
               f"--web.listen-address={address}", "--cluster.listen-address="]  # fmt: skip
    with (folder / "alertmanager.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_for(f"http://{address}/-/ready", seconds=60.0)
            yield address
        finally:
            process.kill()
