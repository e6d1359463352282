"""The services of docker-compose.yml, started natively with their own commands and files: no Docker is needed here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import alertmanager
import promtool
import pytest
import yaml
from loopback import wait_for
from ports import free_port

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
RESEND = "--rules.alert.resend-delay=5s"
"""An alert that fires before Prometheus knows the Alertmanager is sent again, by default a minute later."""


class Machine:
    """Names of services and paths of containers, as they are on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        names = ("vllm:8000", "sidecar:10190", "prometheus:9090", "alertmanager:9093")
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in names}

    def here(self, text: str, service: str) -> str:
        """Put this machine's paths and addresses into a text."""
        places = dict(self.addresses)
        for volume in SERVICES[service].get("volumes", ()):
            source, inside, *_ = volume.split(":")
            places[inside] = str(self._copied(ROOT / source) if source.startswith("./") else self._folder / source)
        longest_first = sorted(places, key=len, reverse=True)
        pattern = rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?![\w.])"
        return re.sub(pattern, lambda found: places[found[0]], text)

    def _copied(self, path: Path) -> Path:
        """Copy a mounted file or folder, so that a test may put addresses into it."""
        target = self._folder / "mounted" / path.name
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
        return target

    def command(self, service: str) -> list[str]:
        return [self.here(part, service) for part in SERVICES[service]["command"]]


def answer(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as found:  # noqa: S310 - loopback
        return found.read().decode()


def test_the_services_of_the_demo_find_each_other(tmp_path: Path) -> None:
    """vLLM, sidecar, Prometheus and Alertmanager; each is ready by its own health check, and the data arrives."""
    promtool.program()
    manager = alertmanager.program()
    machine = Machine(tmp_path)
    own = [sys.executable, "-m", "vllm_sidecar"]
    vllm, sidecar, prometheus, pager = machine.addresses.values()
    config = Path(machine.here("/etc/prometheus/prometheus.yml", "prometheus"))
    config.write_text(machine.here(config.read_text(), "prometheus"))
    listen = "--web.listen-address"
    commands = (
        [*own, *machine.command("vllm-demo"), "--port", vllm.partition(":")[2]],
        [*own, *machine.command("sidecar-demo"), listen, sidecar],
        ["prometheus", *machine.command("prometheus"), f"{listen}={prometheus}", RESEND],
        [manager, *machine.command("alertmanager"), f"{listen}={pager}"],
    )
    with ExitStack() as stack:
        for command in commands:
            log = stack.enter_context((tmp_path / f"{len(stack._exit_callbacks)}.log").open("wb"))
            process = subprocess.Popen(command, cwd=ROOT / "exporter", stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        for url in (
            f"http://{vllm}/health",
            f"http://{sidecar}/-/healthy",
            f"http://{prometheus}/-/ready",
            f"http://{pager}/-/ready",
        ):
            wait_for(url)
        wait_for(f"http://{prometheus}/api/v1/query?query=vllm_sidecar_up", '"1"]')
        rules = json.loads(answer(f"http://{prometheus}/api/v1/rules"))["data"]["groups"]
        assert {"vllm-models", "vllm-slo-availability"} <= {group["name"] for group in rules}
        wait_for(f"http://{prometheus}/api/v1/alertmanagers", pager)
        wait_for(f"http://{pager}/api/v2/alerts", "VllmWatchdog", seconds=90.0)
