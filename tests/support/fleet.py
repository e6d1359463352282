"""A small fleet through the real programs: simulated servers, a sidecar beside each, Prometheus with the rules.

    python tests/fleet.py [SECONDS of calm, 600] [SECONDS of incidents, 300]

plays it until Ctrl-C, for those who want to look at the dashboards; the end-to-end tests run every panel against it.
Every feature of vLLM that a panel is about is on in one of its servers: speculation, LoRA, data and tensor parallelism.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from places import ROOT
from ports import free_port
from prometheus_process import configuration, prometheus
from sidecar_process import started

from vllm_sidecar import cli

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from prometheus_process import Prometheus

RELEASE = "release"
"""Not a scenario: in place of an incident the server is stopped and started anew with other flags."""


@dataclass(frozen=True)
class Server:
    """One replica: its name in Prometheus, its model, what happens to it, and how it is started."""

    name: str
    model: str
    cluster: str
    incident: str = "healthy"
    settings: Mapping[str, Any] = field(default_factory=dict)
    released: Mapping[str, Any] = field(default_factory=dict)
    """Settings that a release changes."""


FLEET = (
    Server("chat-0", "chat-8b", "eu-1", "kv-exhaustion"),
    Server("chat-1", "chat-8b", "eu-1"),
    Server("agents-0", "agents-13b", "eu-1", "stall", {"tensor_parallel_size": 2}),
    Server("rag-0", "rag-8b", "eu-1", "prefix-drop"),
    Server("code-0", "code-7b", "us-1", "spec-collapse", {"speculative_tokens": 4}),
    Server("support-0", "support-8b", "us-1", "lora-thrash", {"max_loras": 2, "adapters": 8}),
    Server("search-0", "search-8b", "us-1", "dp-imbalance", {"data_parallel_size": 4}),
    Server(
        "voice-0",
        "voice-8b",
        "us-1",
        RELEASE,
        released={"step_seconds": 0.017, "max_model_len": 16384, "gpu_memory_utilization": 0.88},
    ),
)


@dataclass
class Running:
    """The Prometheus that watches it, and since when (Unix time) the incidents are on."""

    prometheus: Prometheus
    incidents: float


def _simulator(server: Server, phases: str, settings: Mapping[str, Any], port: int, folder: Path) -> list[str]:
    file = folder / f"{server.name}.json"
    file.write_text(json.dumps({"server": {"model_name": server.model, **settings}}))
    flags = ["--port", str(port), "--file", str(file), "--scenario", phases]
    return [sys.executable, "-m", "vllm_sidecar", "simulate", *flags]


def _prometheus(
    folder: Path, sidecars: Mapping[str, str], fleet: Sequence[Server], scrape: int, rules: Path
) -> AbstractContextManager[Prometheus]:
    targets = [
        {
            "targets": [sidecars[server.name].removeprefix("http://")],
            "labels": {"instance": f"{server.name}:10190", "cluster": server.cluster, "namespace": "llm"},
        }
        for server in fleet
    ]
    config = configuration(scrape, {"job_name": "vllm-sidecar", "static_configs": targets}, rules=rules / "*.rules.yml")
    return prometheus(folder, config)


class _Simulators:
    """The simulated servers, which can be started anew."""

    def __init__(self, folder: Path, fleet: Sequence[Server]) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {server.name: free_port() for server in fleet}

    def start(self, server: Server, phases: str, settings: Mapping[str, Any]) -> None:
        command = _simulator(server, phases, settings, self.ports[server.name], self._folder)
        self._processes[server.name] = subprocess.Popen(command, cwd=ROOT / "exporter", stderr=subprocess.DEVNULL)

    def release(self, server: Server) -> None:
        """Stop a server and start it with the settings of its release."""
        self._processes[server.name].kill()
        self._processes[server.name].wait()
        self.start(server, "healthy", {**server.settings, **server.released})

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


@contextmanager
def playing(
    fleet: Sequence[Server], calm: float, incident: float, *, scrape: int = 5, sidecar: Mapping[str, Any] | None = None
) -> Iterator[Running]:
    """Play a fleet until the caller leaves: calm, then all incidents at once, then calm again."""
    assert shutil.which("prometheus"), "apt-get install prometheus"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        simulators = _Simulators(folder, fleet)
        stack.callback(simulators.stop)
        for server in fleet:
            phases = f"healthy {calm:g}s -> {server.incident} {incident:g}s -> healthy"
            simulators.start(server, "healthy" if server.incident == RELEASE else phases, server.settings)
        config = folder / "sidecar.yaml"
        config.write_text(yaml.safe_dump(dict(sidecar or {})))
        bases = {}
        for server in fleet:
            url = f"http://127.0.0.1:{simulators.ports[server.name]}"
            _, bases[server.name] = stack.enter_context(
                started("--config.file", str(config), "--vllm.url", url, "--gpu.simulate")
            )
        thresholds = folder / "thresholds.yaml"
        thresholds.write_text(json.dumps({"scrape_interval": f"{scrape}s", "evaluation_interval": f"{scrape}s"}))
        assert cli.main(["generate", "rules", "--thresholds", str(thresholds), "--out", str(folder / "rules")]) == 0
        watching = stack.enter_context(_prometheus(folder, bases, fleet, scrape, folder / "rules"))
        for server in fleet:
            if server.incident == RELEASE:
                timer = threading.Timer(calm, simulators.release, (server,))
                timer.start()
                stack.callback(timer.cancel)
        yield Running(watching, time.time() + calm)


def main() -> None:
    """Play the fleet until Ctrl-C."""
    calm, incident = ([float(each) for each in sys.argv[1:]] + [600.0, 300.0][len(sys.argv) - 1 :])[:2]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with playing(FLEET, calm, incident) as running:
        url, since = running.prometheus.url, time.ctime(running.incidents)
        print(f"Prometheus {url}; the incidents begin at {since}", flush=True)  # noqa: T201
        time.sleep(86_400)


if __name__ == "__main__":
    main()
