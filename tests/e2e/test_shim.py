"""Without the sidecar: a real Prometheus that scrapes vLLM itself has what it has with it, value by value."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import captured
import dashboards_on_disk
import panels
import promtool
import pytest
import yaml
from growing import serving
from prometheus_process import configuration, job, prometheus
from sidecar_process import sidecar

from vllm_sidecar.catalog import HTTP_REQUESTS, UPSTREAM
from vllm_sidecar.generate.formats import Format
from vllm_sidecar.generate.outputs import rule_files, shim_files, slo_files
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.shim import RELABEL, provided

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
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
WHICH = ("job", "instance", "target")
SETTLE, OBSERVED = 60.0, 20.0
"""Seconds until everything is recorded, at most; and for which no alert may fire."""
OBJECTIVES = {"time_to_first_token", "availability"}
"""Objectives of which a burn rate must be recorded; one of them appears an evaluation after others."""
NEEDED = {
    (dashboard, panel)
    for dashboard, titles in {
        "vllm-overview": (
            "Every server, the worst first",
            "How many requests finish?",
            "How fast is error budget used?",
        ),
        "vllm-incident": ("High TTFT: p95", "Are prompts longer than they were?", "How full is the KV cache?"),
        "vllm-engine": ("How long until the first token?", "How is ITL distributed?", "How many requests run?"),
        "vllm-kv-cache": ("How much hits now, and in its past?", "Where do prompt tokens come from?"),
        "vllm-slo": ("Every objective", "What share was bad?"),
    }.items()
    for panel in titles
}
"""Panels that read cumulative metrics, and have data without the sidecar."""


@contextmanager
def running(folder: Path, jobs: Mapping[str, Iterable[str]]) -> Iterator[Prometheus]:
    """Run Prometheus with rules and shim for a plain vLLM over jobs, each with the URLs of its targets."""
    files = rule_files(PLAIN, Format.PROMETHEUS) | slo_files(PLAIN, Format.PROMETHEUS)[0]
    files |= shim_files(PLAIN, Format.PROMETHEUS)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    relabel = yaml.safe_load(files[RELABEL])
    configs = [
        job(name, *urls, metric_relabel_configs=relabel if name == "vllm" else []) for name, urls in jobs.items()
    ]
    with prometheus(folder, configuration(2, *configs, rules=folder / "*.rules.yml")) as ready:
        yield ready


class Both:
    """Servers by the name of their capture, each scraped with the sidecar and without, by one Prometheus."""

    def __init__(self, found: Prometheus, urls: Mapping[str, str]) -> None:
        self.found, self._urls = found, urls

    def plain(self, name: str) -> str:
        """Return the matchers of what a server itself exposes."""
        return f'job="vllm",instance="{self._urls[name].removeprefix("http://")}"'

    def watched(self, name: str) -> str:
        """Return the matchers of what the sidecar makes of a server."""
        return f'job="vllm-sidecar",target="{name}"'


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    promtool.program()
    folder = tmp_path_factory.mktemp("both")
    with ExitStack() as stack:
        urls = {name: stack.enter_context(serving(captured.text(name), version.partition(" ")[0], step=math.inf))
                for version, name in CAPTURES.items()}  # fmt: skip
        settings = folder / "sidecar.yaml"
        settings.write_text(yaml.safe_dump({"targets": [{"name": name, "url": url} for name, url in urls.items()]}))
        own = stack.enter_context(sidecar("--config.file", str(settings)))
        jobs = {"vllm": urls.values(), "vllm-sidecar": [own]}
        yield Both(stack.enter_context(running(folder, jobs)), urls)


def cumulative(found: Prometheus, which: str) -> dict[tuple[str, ...], float]:
    """Return the cumulative series of a server: name and labels without those that say which one -> value."""
    names = "|".join(f"{name}(_bucket|_sum|_count)?" for name in CUMULATIVE)
    values = {}
    for one in found.query(f'{{__name__=~"{names}",{which}}}'):
        labels = {name: value for name, value in one["metric"].items() if name not in WHICH}
        if "le" in labels:
            labels["le"] = str(float(labels["le"]))
        values[tuple(f"{name}={labels[name]}" for name in sorted(labels))] = float(one["value"][1])
    return values


@pytest.mark.parametrize("name", CAPTURES.values(), ids=CAPTURES)
def test_every_cumulative_series_is_as_the_sidecar_gives_it(name: str, both: Both) -> None:
    found, plain, ours = both.found, both.plain(name), both.watched(name)
    end = time.monotonic() + SETTLE
    expected = cumulative(found, ours)
    # What is recorded from what was recorded arrives an evaluation later.
    while (not expected or cumulative(found, plain).keys() != expected.keys()) and time.monotonic() < end:
        time.sleep(1.0)
        expected = cumulative(found, ours)
    assert len(expected) > 200
    assert cumulative(found, plain) == pytest.approx(expected)
    (up,) = found.query(f'vllm_sidecar_up{{source="vllm",{plain}}}')
    assert up["value"][1] == "1"
    for signal in ("engine_sleeping", "data_parallel_engines"):
        without, beside = ([one["value"][1] for one in found.query(f"vllm_sidecar_{signal}{{{each}}}")]
                           for each in (plain, ours))  # fmt: skip
        assert without == beside


def test_rules_and_dashboards_work_on_what_vllm_itself_gives(tmp_path: Path) -> None:
    """No alert of what is missing, objectives are counted, and panels that read cumulative metrics have data."""
    promtool.program()
    with ExitStack() as stack:
        url = stack.enter_context(serving(captured.text(), "0.32.0"))
        found = stack.enter_context(running(tmp_path, {"vllm": [url]}))
        began = time.monotonic()
        asked = list(dashboards_on_disk.asked(dashboards_on_disk.ANYTHING, interval="10s", time_range="1m"))
        others = {(each.dashboard, each.panel) for each in asked} - NEEDED
        empty = panels.empty(asked, lambda expr: bool(found.query(expr)), others, seconds=SETTLE)
        assert not empty & NEEDED
        while not (objectives := slos(found)) >= OBJECTIVES and time.monotonic() < began + SETTLE:
            time.sleep(1.0)
        assert objectives >= OBJECTIVES
        time.sleep(max(0.0, began + OBSERVED - time.monotonic()))
        fired = found.query('max_over_time(ALERTS{alertstate="firing"}[5m])')
        assert {one["metric"]["alertname"] for one in fired} == {"VllmWatchdog"}
        assert {f"vllm_sidecar_{each}" for each in ("up", "requests_running")} <= provided(PLAIN)


def slos(found: Prometheus) -> set[str]:
    """Return the objectives of which a burn rate is recorded."""
    return {one["metric"]["slo"] for one in found.query("vllm_sidecar:slo_burn:ratio_rate5m")}
