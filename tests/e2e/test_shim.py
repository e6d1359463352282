"""Without the sidecar: a real Prometheus that scrapes vLLM itself has what it has with it, value by value."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import boards
import captured
import promtool
import pytest
import yaml
from growing import serving
from prometheus_process import configuration, job, prometheus
from sidecar_process import started

from vllm_sidecar.catalog import HTTP_REQUESTS, UPSTREAM
from vllm_sidecar.generate.formats import Format
from vllm_sidecar.generate.outputs import rule_files, shim_files, slo_files
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.shim import RELABEL, provided

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from prometheus_process import Prometheus

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
        "alerts": {"VllmSidecarDown": {"enabled": False}},
    }
)
SETTLE = 12.0


@contextmanager
def running(folder: Path, jobs: Mapping[str, str]) -> Iterator[Prometheus]:
    """Run Prometheus with rules and shim for a plain vLLM over jobs, each with the URL of its only target."""
    files = rule_files(PLAIN, Format.PROMETHEUS) | slo_files(PLAIN, Format.PROMETHEUS)[0]
    files |= shim_files(PLAIN, Format.PROMETHEUS)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    relabel = yaml.safe_load(files[RELABEL])
    configs = [job(name, url, metric_relabel_configs=relabel if name == "vllm" else []) for name, url in jobs.items()]
    with prometheus(folder, configuration(2, *configs, rules=folder / "*.rules.yml")) as ready:
        yield ready


def cumulative(found: Prometheus, of: str) -> dict[tuple[str, ...], float]:
    """Return the cumulative series of a job: name and labels without those of the target -> value."""
    names = "|".join(f"{name}(_bucket|_sum|_count)?" for name in CUMULATIVE)
    values = {}
    for one in found.query(f'{{__name__=~"{names}",job="{of}"}}'):
        labels = {name: value for name, value in one["metric"].items() if name not in ("job", "instance")}
        if "le" in labels:
            labels["le"] = str(float(labels["le"]))
        values[tuple(f"{name}={labels[name]}" for name in sorted(labels))] = float(one["value"][1])
    return values


@pytest.mark.parametrize(("version", "name"), CAPTURES.items(), ids=CAPTURES)
def test_every_cumulative_series_is_as_the_sidecar_gives_it(version: str, name: str, tmp_path: Path) -> None:
    promtool.program()
    with ExitStack() as stack:
        url = stack.enter_context(serving(captured.text(name), version.partition(" ")[0], step=math.inf))
        _, sidecar = stack.enter_context(started("--vllm.url", url))
        found = stack.enter_context(running(tmp_path, {"vllm": url, "vllm-sidecar": sidecar}))
        time.sleep(SETTLE)
        ours, plain = cumulative(found, "vllm-sidecar"), cumulative(found, "vllm")
        assert len(ours) > 200
        assert plain == pytest.approx(ours)
        (up,) = found.query('vllm_sidecar_up{source="vllm",job="vllm"}')
        assert up["value"][1] == "1"
        for signal in ("engine_sleeping", "data_parallel_engines"):
            both = [found.query(f'vllm_sidecar_{signal}{{job="{each}"}}') for each in ("vllm", "vllm-sidecar")]
            without, beside = ([one["value"][1] for one in series] for series in both)
            assert without == beside


def test_rules_and_boards_work_on_what_vllm_itself_gives(tmp_path: Path) -> None:
    """No alert of what is missing, objectives are counted, and panels that read cumulative metrics have data."""
    promtool.program()
    with ExitStack() as stack:
        url = stack.enter_context(serving(captured.text(), "0.32.0"))
        found = stack.enter_context(running(tmp_path, {"vllm": url}))
        time.sleep(40.0)
        assert {one["metric"]["alertname"] for one in found.query('ALERTS{alertstate="firing"}')} == {"VllmWatchdog"}
        budgets = found.query("vllm_sidecar:slo_burn:ratio_rate5m")
        assert {one["metric"]["slo"] for one in budgets} >= {"time_to_first_token", "availability"}
        shown: dict[str, set[str]] = {}
        for each in boards.asked(boards.ANYTHING, interval="10s", time_range="1m"):
            if found.query(each.expr):
                shown.setdefault(each.dashboard, set()).add(each.panel)
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
        for dashboard, panels in needed.items():
            assert panels <= shown[dashboard], dashboard
        assert {f"vllm_sidecar_{each}" for each in ("up", "requests_running")} <= provided(PLAIN)
