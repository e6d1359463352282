"""The wheel alone, in an empty environment: every verb of the generator works, and what it writes pages somebody."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alert_run
import promtool
import pytest
import yaml
from alertmanager import alertmanager
from amtool import amtool
from loopback import wait_for
from ports import free_port
from prometheus_process import configuration, job, prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
QUICK = """
pack: prod
time_scale: 0.001
scrape_interval: 1s
evaluation_interval: 1s
severities: {page: critical, ticket: warning}
runbook_url: https://books.example
dashboard_url: ""
annotations: {pod: "{{ $labels.pod }}"}
alerts:
  VllmSidecarDown: {severity: page}
"""


class Installed:
    """The program in its own environment, run in a folder where nothing of the project is."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.program), *arguments],
            cwd=self.folder, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
        return done


def pip(environment: Path) -> tuple[str, ...]:
    """Return the command that installs into an environment without pip, which takes seconds to put there."""
    return (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")

    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"))
    run(*pip(folder / "venv"), "install", "-q", "--no-compile", f"{wheel}[generate]")
    (folder / "empty").mkdir()
    return Installed(folder / "venv" / "bin" / "vllm-sidecar", folder / "empty")


@pytest.fixture(scope="module")
def thresholds(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The thresholds file that it writes."""
    folder = tmp_path_factory.mktemp("thresholds")
    installed("generate", "thresholds", "--out", str(folder))
    return folder / "thresholds.yaml"


@pytest.mark.parametrize("kind", ["prometheus", "prometheus-operator", "victoria-metrics-operator", "helm", "mimir"])
def test_rules_of_every_format_hold_the_same_groups(
    kind: str, installed: Installed, thresholds: Path, tmp_path: Path
) -> None:
    for part in ("rules", "shim"):
        installed("generate", part, "--thresholds", str(thresholds), "--format", kind, "--out", str(tmp_path / "r"))
    files = [path for path in (tmp_path / "r").iterdir() if "relabel" not in path.name]
    assert {path.name.partition(".")[0] for path in files} == {"vllm-sidecar", "vllm-sidecar-slo", "vllm-plain"}
    for path in files:
        text = path.read_text()
        if kind == "helm":
            text = amtool("template", "render", "--template.glob=/dev/null", f"--template.text={text}")
        document = yaml.safe_load(text)
        plain = tmp_path / "plain.yml"
        plain.write_text(yaml.safe_dump({"groups": document.get("spec", document)["groups"]}))
        assert promtool.check_rules(plain).ok, path.name


def test_examples_and_runbooks_come_with_it(installed: Installed, thresholds: Path, tmp_path: Path) -> None:
    for part in ("config", "runbooks", "dashboards"):
        installed("generate", part, "--out", str(tmp_path / part))
    installed("check-config", str(tmp_path / "config" / "vllm-sidecar.yaml"))
    installed("generate", "rules", "--thresholds", str(thresholds))
    books = {path.name for path in (tmp_path / "runbooks").glob("*.md")}
    assert books == {path.name for path in (ROOT / "rules" / "runbooks").glob("*.md")}
    assert json.loads((tmp_path / "dashboards" / "vllm-overview.json").read_text())["uid"] == "vllm-overview"
    for verb in (["version"], ["simulate", "--list"], ["promtool", "check", "rules/vllm-sidecar.rules.yml"]):
        installed(*verb)


def test_it_serves_its_runbooks(installed: Installed, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [str(installed.program), "serve", f"--web.listen-address={address}", "--vllm.url=http://127.0.0.1:1"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log) as run:
        try:
            wait_for(f"http://{address}/-/healthy", seconds=30.0)
            for path in (ROOT / "rules" / "runbooks").glob("Vllm*.md"):
                wait_for(f"http://{address}/runbooks/{path.name}", f"<h1>{path.stem}</h1>")
            wait_for(f"http://{address}/runbooks/", "VllmTargetDown.md")
        finally:
            run.terminate()


def test_what_it_writes_pages_somebody_with_text_and_link(installed: Installed, tmp_path: Path) -> None:
    """A sidecar that is gone, found by a job as the operator of Prometheus names it, reaches PagerDuty's API."""
    programs = alert_run.programs()
    if programs is None:
        pytest.skip("apt-get install prometheus prometheus-alertmanager")
    mine = tmp_path / "mine.yaml"
    mine.write_text(QUICK)
    for part in ("rules", "alertmanager"):
        installed("generate", part, "--thresholds", str(mine), "--out", str(tmp_path / "r"))
    with ExitStack() as stack:
        url, received = stack.enter_context(_pagerduty())
        _use(tmp_path / "r" / "alertmanager.yml", url, tmp_path / "r")
        amtool("check-config", str(tmp_path / "r" / "alertmanager.yml"))
        address = stack.enter_context(alertmanager(tmp_path / "r", programs[1]))
        gone = job("inference/vllm-sidecar", f"http://127.0.0.1:{free_port()}")
        config = configuration(1, gone, rules=tmp_path / "r" / "*.rules.yml")
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]}
        stack.enter_context(prometheus(tmp_path, config))
        end = time.monotonic() + 90.0
        while not received and time.monotonic() < end:
            time.sleep(0.2)
        logged = (tmp_path / "r" / "alertmanager.log").read_text()
    assert received, logged
    assert "VllmSidecarDown" in received[0]["payload"]["summary"]
    (runbook,) = (link["href"] for link in received[0]["links"] if link["text"] == "Runbook")
    assert runbook.startswith("https://books.example/VllmSidecarDown.md?instance=127.0.0.1%3A")


def test_jsonnet_makes_rules_and_dashboards_of_the_mixin(installed: Installed) -> None:
    python = installed.program.with_name("python")
    mixin = ROOT / "deploy" / "mixin" / "mixin.libsonnet"
    snippet = f"local m = import {str(mixin)!r}; [m.prometheusAlerts, m.prometheusRules, m.grafanaDashboards]"
    program = f"import _jsonnet; print(_jsonnet.evaluate_snippet('all', {snippet!r}))"
    subprocess.run([*pip(python.parents[1]), "install", "-q", "--no-compile", "jsonnet"], check=True, timeout=300)
    done = subprocess.run([python, "-c", program], capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    alerts, records, boards = json.loads(done.stdout)
    assert (alerts, records) == (_rules("vllm-sidecar"), _rules("vllm-sidecar-slo"))
    assert {name: dashboard["uid"] for name, dashboard in boards.items()} == {
        path.name: path.stem for path in (ROOT / "dashboards").glob("*.json")
    }


def _rules(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "rules" / f"{name}.rules.yml").read_text())
    return document


def _use(file: Path, url: str, folder: Path) -> None:
    """Do to the generated file what its user does: name secrets; and hurry."""
    document = yaml.safe_load(file.read_text())
    (folder / "key").write_text("0" * 32)
    kept = ("vllm-none", "vllm-page", "vllm-ticket", "vllm-heartbeat")
    document["receivers"] = [each for each in document["receivers"] if each["name"] in kept]
    for receiver in document["receivers"]:
        if receiver["name"] == "vllm-page":
            receiver["pagerduty_configs"][0].update(url=url, routing_key_file=str(folder / "key"))
        else:
            for kind in [key for key in receiver if key != "name"]:
                del receiver[kind]
    for route in document["route"]["routes"][0]["routes"]:
        route["group_wait"] = "0s"
    file.write_text(yaml.safe_dump(document))


@contextmanager
def _pagerduty() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Take events as PagerDuty does; yield the address and what arrives."""
    received: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", received
    finally:
        server.shutdown()
        server.server_close()
