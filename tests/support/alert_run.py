"""Plays all scenarios at once through the real programs, and notes which pages and tickets arrive and go.

One simulator per scenario, one sidecar that watches them all, Prometheus with the generated rules, whose times a
thresholds file shrinks, and Alertmanager with the generated routes and inhibitions, whose receivers are a webhook.
"""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import receivers
import yaml
from alertmanager import alertmanager, installed
from prometheus_process import configuration, job, prometheus
from sidecar_process import started
from simulator_process import simulator

from vllm_sidecar import cli

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

CALM, INCIDENT = 45.0, 120.0
"""Seconds; the calm holds what alerts on a server's own past compare with."""
SCRAPE = 2
THRESHOLDS = {
    "time_scale": 0.05,
    "scrape_interval": f"{SCRAPE}s",
    "evaluation_interval": f"{SCRAPE}s",
    "slos": {
        "observations": 10,
        # The pair that pages first; the others go on for hours after an incident, and minutes here.
        "burn": [{"long": "1h", "short": "5m", "factor": 14.4, "severity": "page", "for": "2m"}],
    },
}
SIDECAR = {
    "windows": {"length": "10s", "keep": "1m"},
    "progress": {"stall_after": "6s"},
    "gpu": {"devices": "none"},
    "introspection": {"interval": "5s"},
}
START_SECONDS = {"crash-loop": 2.0}
"""Seconds from a crash to listening, where a loop must turn faster than in life."""


@dataclass(frozen=True)
class Notice:
    """One alert that arrived at, or was resolved by, a receiver."""

    seconds: float
    """Since the incidents began."""
    receiver: str
    alert: str
    model: str
    """Name of the scenario."""
    firing: bool


@dataclass
class AlertRun:
    """What arrived so far."""

    began: float = 0.0
    notices: list[Notice] = field(default_factory=list)

    def seconds(self) -> float:
        """Return the time since the incidents began; negative before."""
        return time.monotonic() - self.began

    def take(self, body: dict[str, Any]) -> None:
        """Note the alerts of a notification."""
        for alert in body["alerts"]:
            labels = alert["labels"]
            model = labels.get("model_name") or labels.get("target", "")
            firing = alert["status"] == "firing"
            self.notices.append(Notice(self.seconds(), body["receiver"], labels["alertname"], model, firing))

    def first(self, receiver: str) -> dict[str, dict[str, float]]:
        """Return when each alert first arrived, by the name of the scenario."""
        found: dict[str, dict[str, float]] = {}
        for notice in self.notices:
            if notice.firing and notice.receiver == receiver:
                found.setdefault(notice.model, {}).setdefault(notice.alert, notice.seconds)
        return found

    def unresolved(self, receiver: str) -> set[tuple[str, str]]:
        """Return scenario and alert of what arrived and was not resolved."""
        last = {(n.model, n.alert): n.firing for n in self.notices if n.receiver == receiver}
        return {key for key, firing in last.items() if firing}


def write_rules(folder: Path) -> None:
    """Write rules as the command generates them, with times for an incident of two minutes."""
    (folder / "thresholds.yaml").write_text(json.dumps(THRESHOLDS))
    arguments = ["generate", "rules", "--thresholds", str(folder / "thresholds.yaml"), "--out", str(folder)]
    assert cli.main(arguments) == 0


def programs() -> tuple[str, str] | None:
    """Find Prometheus and Alertmanager on PATH; None where one is missing."""
    prometheus, alertmanager = shutil.which("prometheus"), installed()
    return (prometheus, alertmanager) if prometheus and alertmanager else None


@contextmanager
def playing(scenarios: Sequence[str], folder: Path, chosen: tuple[str, str] | None = None) -> Iterator[AlertRun]:
    """Play scenarios side by side until the caller leaves; yield what arrives meanwhile."""
    with ExitStack() as stack:
        times: list[float] = []

        def play(name: str) -> tuple[str, str]:
            url = stack.enter_context(_played(name, folder))
            times.append(time.monotonic())
            return name, url

        # All at once: the first incident must not be over before the last one was seen.
        with ThreadPoolExecutor(len(scenarios)) as pool:
            urls = dict(pool.map(play, scenarios))
        run = stack.enter_context(watching(urls, folder, chosen))
        run.began = min(times) + CALM
        yield run


@contextmanager
def watching(urls: Mapping[str, str], folder: Path, chosen: tuple[str, str] | None = None) -> Iterator[AlertRun]:
    """Watch servers, by name, with sidecar, Prometheus and Alertmanager; yield what arrives meanwhile."""
    found = chosen or programs()
    assert found is not None, "apt-get install prometheus prometheus-alertmanager"
    run = AlertRun(time.monotonic())
    with ExitStack() as stack:
        hook = stack.enter_context(receivers.webhook(run.take))
        own = folder / "sidecar.yaml"
        targets = [{"name": name, "url": url} for name, url in urls.items()]
        own.write_text(yaml.safe_dump({**SIDECAR, "targets": targets}))
        _, sidecar = stack.enter_context(started("--config.file", str(own)))
        write_rules(folder)
        # An inhibition needs its source to come first.
        receivers.configured(folder, hook, "3s", "2s")
        address = stack.enter_context(alertmanager(folder, found[1]))
        config = configuration(SCRAPE, job("vllm-sidecar", sidecar), rules=folder / "*.rules.yml")
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]}
        stack.enter_context(prometheus(folder, config, program=found[0]))
        yield run


@contextmanager
def _played(name: str, folder: Path) -> Iterator[str]:
    file = folder / f"{name}.yaml"
    server: dict[str, object] = {"model_name": name}
    if name in START_SECONDS:
        server["start_seconds"] = START_SECONDS[name]
    file.write_text(json.dumps({"server": server}))
    phases = f"healthy {CALM:g}s -> {name} {INCIDENT:g}s -> healthy"
    with simulator("--file", str(file), "--scenario", phases) as (_, url):
        yield url
