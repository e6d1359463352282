"""Starts the real program as its users do, on a free loopback port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from places import EXPORTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

START_SECONDS = 60.0
STOP_SECONDS = 5.0


class Started:
    """A running sidecar: its process, its log and where it listens."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    def wait_until_listening(self) -> str:
        """Return the base URL once it listens."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            found = re.search(r'event=listening address=(\S+)|"event": "listening", "address": "([^"]+)"', self.log)
            if found:
                return f"http://{found[1] or found[2]}"
            if self.process.poll() is not None:
                raise AssertionError(f"the sidecar ended with {self.process.returncode}:\n{self.log}")
            time.sleep(0.02)
        raise AssertionError(f"the sidecar does not listen after {START_SECONDS} s:\n{self.log}")

    def stop(self) -> float:
        """End it with SIGTERM; return how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(STOP_SECONDS) == 0, self.log
        return time.monotonic() - began


@contextmanager
def started(
    *flags: str, variables: Mapping[str, str] | None = None, joins: Callable[[int], object] | None = None
) -> Iterator[tuple[Started, str]]:
    """Run `vllm-sidecar serve` with flags and environment variables; yield the process and its base URL.

    `joins` gets the process's number before the program starts, as for a cgroup.
    """
    before = None if joins is None else lambda: joins(os.getpid())
    command = [sys.executable, "-m", "vllm_sidecar", "serve", "--web.listen-address", "127.0.0.1:0", *flags]
    path = os.pathsep.join(filter(None, (str(EXPORTER), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, **(variables or {})}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with (
            log.open("wb") as stream,
            subprocess.Popen(
                command,
                stderr=stream,
                env=environment,
                preexec_fn=before,  # noqa: PLW1509 - nothing else runs yet
            ) as process,
        ):
            try:
                running = Started(process, log)
                yield running, running.wait_until_listening()
            finally:
                process.kill()


@contextmanager
def sidecar(*flags: str) -> Iterator[str]:
    """Run `vllm-sidecar serve` with flags; yield its base URL."""
    with started(*flags) as (_, base):
        yield base
