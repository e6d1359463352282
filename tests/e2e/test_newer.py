"""Prometheus 3, Alertmanager 0.33 and VictoriaMetrics read what is exposed and generated, without a warning."""

from __future__ import annotations

import json
import math
import subprocess
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import captured
import newer
import pytest
import versions
import yaml
from growing import serving
from loopback import wait_for
from ports import free_port
from prometheus_process import Prometheus, configuration, job, prometheus
from sidecar_process import sidecar

from vllm_sidecar import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = pytest.mark.e2e

RULES = sorted((Path(__file__).parents[2] / "rules").glob("vllm-sidecar*.rules.yml"))
PROTOCOLS = {
    "everything": ["PrometheusProto", "OpenMetricsText1.0.0", "OpenMetricsText0.0.1", "PrometheusText1.0.0",
                   "PrometheusText0.0.4"],
    "openmetrics": ["OpenMetricsText1.0.0"],
    "openmetrics-0": ["OpenMetricsText0.0.1"],
    "text-1": ["PrometheusText1.0.0"],
    "text-0": ["PrometheusText0.0.4"],
}  # fmt: skip
"""Name of a scrape job -> the formats that it asks for."""
SCRAPES, PATIENCE = 5, 60.0
OWN_CLOCK = "vllm_sidecar_(last_success_timestamp_seconds|.+_age_seconds|poll_duration_seconds.*|.*polls_total)"


@contextmanager
def watching(step: float) -> Iterator[str]:
    """Run the sidecar beside a recorded vLLM server whose counters grow every so many seconds; yield its address."""
    with serving(captured.text(), "0.32.0", step=step) as vllm, sidecar("--vllm.url", vllm) as own:
        yield own


def by_labels(running: Prometheus, job: str) -> dict[str, float]:
    """Return the series of vLLM in a job, by all labels but the job's."""
    found = running.query(f'{{__name__=~"vllm_sidecar_.+",__name__!~"{OWN_CLOCK}",job="{job}"}}')
    return {
        json.dumps({name: value for name, value in one["metric"].items() if name != "job"}, sort_keys=True): float(
            one["value"][1]
        )
        for one in found
    }


def test_prometheus_3_reads_the_same_series_in_every_format_it_can_ask_for(tmp_path: Path) -> None:
    """Bucket bounds and quantiles too: Prometheus 3 writes them alike whatever the format."""
    program = str(newer.program("prometheus"))
    with ExitStack() as stack:
        own = stack.enter_context(watching(step=math.inf))
        jobs = [job(name, own, scrape_protocols=protocols) for name, protocols in PROTOCOLS.items()]
        running = stack.enter_context(prometheus(tmp_path, configuration(1, *jobs), program=program))
        end = time.monotonic() + PATIENCE
        counted = f'count(count_over_time(up{{job=~".+"}}[2m]) >= {SCRAPES})'
        while [one["value"][1] for one in running.query(counted)] != [str(len(PROTOCOLS))]:
            assert time.monotonic() < end, running.log
            time.sleep(0.5)
        lowest = {one["metric"]["job"]: one["value"][1] for one in running.query("min_over_time(up[2m])")}
        assert lowest == dict.fromkeys(PROTOCOLS, "1")
        expected = by_labels(running, "text-0")
        assert len(expected) > 400
        for name in PROTOCOLS:
            assert by_labels(running, name).keys() == expected.keys(), name
        assert [line for line in running.log.splitlines() if "level=WARN" in line or "level=ERROR" in line] == []


@pytest.mark.parametrize("form", ["prometheus", "mimir"])
def test_promtool_of_prometheus_3_has_nothing_to_say_about_generated_rules(form: str, tmp_path: Path) -> None:
    for part in ("rules", "shim"):
        assert cli.main(["generate", part, "--format", form, "--out", str(tmp_path)]) == 0
    files = [path for path in tmp_path.glob("*.y*ml") if "relabel" not in path.name]
    assert len(files) == 3
    for file in files:
        plain = tmp_path / "plain"
        plain.write_text(yaml.safe_dump({"groups": yaml.safe_load(file.read_text())["groups"]}))
        command = [newer.program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", plain]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_amtool_of_a_newer_alertmanager_accepts_the_routing_and_its_template(tmp_path: Path) -> None:
    """The first release parsers of matchers in UTF-8 warn of what they will read in another way."""
    assert cli.main(["generate", "alertmanager", "--out", str(tmp_path)]) == 0
    command = [newer.program("amtool"), "check-config", tmp_path / "alertmanager.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 templates" in done.stdout
    assert "warn" not in (done.stdout + done.stderr).lower()


def test_victoria_metrics_scrapes_the_sidecar_and_vmalert_evaluates_every_rule(tmp_path: Path) -> None:
    database, vmalert = newer.program("victoria-metrics"), newer.program("vmalert")
    with ExitStack() as stack:
        own = stack.enter_context(watching(step=1.0))
        write_quick_rules(tmp_path)
        scraped = tmp_path / "scrape.yml"
        scraped.write_text(yaml.safe_dump({**configuration(1, job("vllm-sidecar", own)), "rule_files": []}))
        running = stack.enter_context(versions.victoria_metrics(tmp_path, database, *scraping(scraped)))
        until(lambda: running.query('vllm_sidecar_up{source="vllm"} == 1'))
        address = f"127.0.0.1:{free_port()}"
        command = [vmalert, f"-rule={tmp_path}/*.rules.yml", f"-datasource.url={running.url}",
                   f"-remoteWrite.url={running.url}", "-notifier.blackhole", f"-httpListenAddr={address}"]  # fmt: skip
        log = stack.enter_context((tmp_path / "vmalert.log").open("wb"))
        process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
        stack.callback(process.kill)
        wait_for(f"http://{address}/health")
        until(lambda: all(each["lastEvaluation"][:4] > "0001" for each in rules(address)))
        assert {each["name"]: each["lastError"] for each in rules(address) if each["lastError"]} == {}
        until(lambda: running.query("vllm_sidecar:slo_burn:ratio_rate5m"))
        until(lambda: running.query('ALERTS{alertname="VllmWatchdog",alertstate="firing"}'))
        firing = running.query('ALERTS{alertstate="firing"}')
        assert {one["metric"]["alertname"] for one in firing} == {"VllmWatchdog"}


def write_quick_rules(folder: Path) -> None:
    """Write the committed rules with every group evaluated each two seconds; some of them wait for five minutes."""
    for file in RULES:
        document = yaml.safe_load(file.read_text())
        for group in document["groups"]:
            group["interval"] = "2s"
        (folder / file.name).write_text(yaml.safe_dump(document))


def scraping(file: Path) -> tuple[str, ...]:
    """Return the flags with which VictoriaMetrics scrapes by itself."""
    return (f"-promscrape.config={file}", "-promscrape.config.strictParse=false")


def rules(address: str) -> list[Mapping[str, Any]]:
    """Return all rules as vmalert knows them."""
    with urllib.request.urlopen(f"http://{address}/api/v1/rules", timeout=10) as answer:
        groups = json.load(answer)["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.5)
