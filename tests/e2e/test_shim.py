"""Without the sidecar: a real Prometheus that scrapes vLLM itself has what it has with it, value by value."""

from __future__ import annotations

import json
import math
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import boards
import captured
import promtool
from growing import serving
from loopback import free_port
from sidecar_process import started
from vllm_sidecar.catalog import HTTP_REQUESTS, UPSTREAM
from vllm_sidecar.config.thresholds import Thresholds
from vllm_sidecar.generate import Format, rule_files, shim_files, slo_files
from vllm_sidecar.generate.shim import RELABEL, provided

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

CAPTURES = {
    "0.9.2 v0": "0.9.2__v0__after.prom",
    "0.9.2 v1": "0.9.2__v1__after.prom",
    "0.12.0": "0.12.0__v1__after.prom",
    "0.32.0": "0.32.0__baseline__after.prom",
    "0.32.0 with two API servers": "0.32.0__asc2__after.prom",
    "0.32.0 with preemptions": "0.32.0__preempt__after.prom",
    "0.32.0 asleep": "0.32.0__dev-sleep__sleep1.prom",
}
CUMULATIVE = [f"vllm_sidecar_{entry.signal.name}" for entry in (*UPSTREAM, HTTP_REQUESTS)]
PLAIN = Thresholds.model_validate(
    {
        "scrape_interval": "2s",
        "evaluation_interval": "2s",
        "alerts": {name: {"enabled": False} for name in ("VllmTelemetryAbsent", "VllmSidecarDown")},
    }
)
SETTLE = 12.0


class Prometheus:
    """A running one, and where it answers."""

    def __init__(self, stack: ExitStack, folder: Path, jobs: dict[str, str]) -> None:
        files = rule_files(PLAIN, Format.PROMETHEUS) | slo_files(PLAIN, Format.PROMETHEUS)[0]
        files |= shim_files(PLAIN, Format.PROMETHEUS)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        relabel = yaml.safe_load(files[RELABEL])
        configs = [
            {
                "job_name": job,
                "static_configs": [{"targets": [url.removeprefix("http://")]}],
                "metric_relabel_configs": relabel if job == "vllm" else [],
            }
            for job, url in jobs.items()
        ]
        (folder / "prometheus.yml").write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
                    "rule_files": [str(folder / "*.rules.yml")],
                    "scrape_configs": configs,
                }
            )
        )
        self.url = f"127.0.0.1:{free_port()}"
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        log = stack.enter_context((folder / "prometheus.log").open("wb"))
        process = stack.enter_context(subprocess.Popen([*command, f"--web.listen-address={self.url}"], stderr=log))
        stack.callback(process.kill)

    def ask(self, expr: str) -> list[dict[str, Any]]:
        url = f"http://{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    def series(self, job: str) -> dict[tuple[str, ...], float]:
        """Return the cumulative series of a job: name and labels without those of the target -> value."""
        names = "|".join(f"{name}(_bucket|_sum|_count)?" for name in CUMULATIVE)
        found = {}
        for one in self.ask(f'{{__name__=~"{names}",job="{job}"}}'):
            labels = {name: value for name, value in one["metric"].items() if name not in ("job", "instance")}
            if "le" in labels:
                labels["le"] = str(float(labels["le"]))
            found[tuple(f"{name}={labels[name]}" for name in sorted(labels))] = float(one["value"][1])
        return found


@pytest.mark.parametrize(("version", "name"), CAPTURES.items(), ids=CAPTURES)
def test_every_cumulative_series_is_as_the_sidecar_gives_it(version: str, name: str, tmp_path: Path) -> None:
    promtool.program()
    with ExitStack() as stack:
        url = stack.enter_context(serving(captured.text(name), version.partition(" ")[0], step=math.inf))
        _, sidecar = stack.enter_context(started("--vllm.url", url))
        prometheus = Prometheus(stack, tmp_path, {"vllm": url, "vllm-sidecar": sidecar})
        time.sleep(SETTLE)
        ours, plain = prometheus.series("vllm-sidecar"), prometheus.series("vllm")
        assert len(ours) > 200
        assert plain == pytest.approx(ours)
        (up,) = prometheus.ask('vllm_sidecar_up{source="vllm",job="vllm"}')
        assert up["value"][1] == "1"
        for signal in ("engine_sleeping", "data_parallel_engines"):
            found = {job: prometheus.ask(f'vllm_sidecar_{signal}{{job="{job}"}}') for job in ("vllm", "vllm-sidecar")}
            assert [one["value"][1] for one in found["vllm"]] == [one["value"][1] for one in found["vllm-sidecar"]]


def test_rules_and_boards_work_on_what_vllm_itself_gives(tmp_path: Path) -> None:
    """No alert of what is missing, objectives are counted, and panels that read cumulative metrics have data."""
    promtool.program()
    with ExitStack() as stack:
        url = stack.enter_context(serving(captured.text(), "0.32.0"))
        prometheus = Prometheus(stack, tmp_path, {"vllm": url})
        time.sleep(40.0)
        assert {one["metric"]["alertname"] for one in prometheus.ask('ALERTS{alertstate="firing"}')} == {"VllmWatchdog"}
        budgets = prometheus.ask("vllm_sidecar:slo_burn:ratio_rate5m")
        assert {one["metric"]["slo"] for one in budgets} >= {"time_to_first_token", "availability"}
        shown: dict[str, set[str]] = {}
        for each in boards.asked(boards.ANYTHING, interval="10s", time_range="1m"):
            if prometheus.ask(each.expr):
                shown.setdefault(each.board, set()).add(each.panel)
        needed = {
            "vllm-overview": {
                "Every server, the worst first",
                "How many requests finish?",
                "How fast is error budget used?",
            },
            "vllm-incident": {"High TTFT: p95", "Are prompts longer than they were?", "How full is the KV cache?"},
            "vllm-engine": {"How long until the first token?", "How is ITL distributed?", "How many requests run?"},
            "vllm-kv-cache": {"How much hits now, and in its past?", "Where do prompt tokens come from?"},
            "vllm-slo": {"Every objective", "What share was bad?"},
        }
        for board, panels in needed.items():
            assert panels <= shown[board], board
        assert {f"vllm_sidecar_{each}" for each in ("up", "requests_running")} <= provided(PLAIN)
