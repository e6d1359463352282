"""Real receivers of OTLP, Prometheus 3 and VictoriaMetrics, have the values that /metrics has at the same time."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import captured
import newer
import pytest
import versions
from growing import serving
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families
from prometheus_process import Prometheus, configuration, prometheus
from sidecar_process import started

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.otlp import OTLP_METRICS
from vllm_sidecar.catalog.types import Kind
from vllm_sidecar.exposition import number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

pytestmark = pytest.mark.e2e

PATIENCE = 60.0
MOVES = ("_per_second", "_age_seconds", "last_success_timestamp_seconds", "live_queue_wait_seconds",
         "recent_cache_hit_ratio", "poll_failures_total")  # fmt: skip
"""Ends of names whose values are others at each poll, also while the server is idle."""
ABOUT_THE_SOURCE = ("vllm_sidecar_up", "vllm_sidecar_poll", "vllm_sidecar_slo", "vllm_sidecar_server_restarts")
"""Beginnings of the names that remain while a server is away."""
TTFT = "gen_ai_server_time_to_first_token_seconds"
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
OPERATION = {"gen_ai_operation_name": "inference", "gen_ai_provider_name": "vllm"}
RESOURCE = {"job", "instance", "scope_name", "scope_version", "host_name", "service_instance_id", "service_name",
            "service_version"}  # fmt: skip
"""Labels that receivers make of the resource and the scope."""
VICTORIA_METRICS = "/opentelemetry/v1/metrics"


def running(name: str, folder: Path, stack: ExitStack) -> tuple[Prometheus, str]:
    """Start a receiver; return the database in which its series are, and the address for pushes."""
    if name == "prometheus":
        flags = ("--web.enable-otlp-receiver", "--enable-feature=native-histograms")
        program = str(receiving(newer.program(name), flags[0]))
        database = stack.enter_context(prometheus(folder, configuration(60), *flags, program=program))
        return database, f"{database.url}/api/v1/otlp/v1/metrics"
    flags = ("-opentelemetry.usePrometheusNaming",)
    database = stack.enter_context(versions.victoria_metrics(folder, newer.program("victoria-metrics"), *flags))
    return database, collecting(database, stack) if name == "rotel" else f"{database.url}{VICTORIA_METRICS}"


def receiving(program: Path, flag: str) -> Path:
    """Skip the test where a program lacks a flag: Debian builds Prometheus without its receiver."""
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, timeout=60)
    if flag not in said.stdout + said.stderr:
        pytest.skip(newer.hint("prometheus", f"{program} has no {flag}"))
    return program


def collecting(database: Prometheus, stack: ExitStack) -> str:
    """Start a collector that passes on what it receives to a database; return its address for pushes."""
    found = importlib.util.find_spec("rotel")
    if found is None or not found.submodule_search_locations:
        pytest.skip("no collector: pip install rotel==0.0.1a15")
    grpc, http = free_port(), free_port()
    command = [Path(found.submodule_search_locations[0]) / "rotel-agent", "start", "--batch-timeout=200ms",
               f"--otlp-grpc-endpoint=127.0.0.1:{grpc}", f"--otlp-http-endpoint=127.0.0.1:{http}",
               "--exporter=otlp", "--otlp-exporter-protocol=http",
               f"--otlp-exporter-endpoint={database.url}{VICTORIA_METRICS.removesuffix('/v1/metrics')}"]  # fmt: skip
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    stack.callback(process.kill)
    return f"http://127.0.0.1:{http}/v1/metrics"


def pushing(receiver: str, **more: str) -> dict[str, str]:
    """Return the variables of a sidecar that pushes each second."""
    settings = {"ENABLED": "true", "URL": receiver, "INTERVAL": "1s", **more}
    return {f"VLLM_SIDECAR_OTLP_{name}": value for name, value in settings.items()}


def scraped(own: str) -> Series:
    """Return the series of /metrics that are pushed, under the names that they have there."""
    families = list(text_string_to_metric_families(read(own, "/metrics")))
    known = {SIGNALS[each.signal].metric.removesuffix("_total"): each for each in OTLP_METRICS}
    found: Series = {}
    for family in families:
        metric = known.get(family.name)
        for sample in family.samples if metric else ():
            name, labels = sample.name, dict(sample.labels)
            if SIGNALS[metric.signal].kind is Kind.SUMMARY and "quantile" not in labels:
                continue
            if metric.gen_ai:
                name = name.replace(family.name, metric.name.replace(".", "_") + "_seconds")
                labels = {**OPERATION, "gen_ai_request_model": labels.pop("model_name"), **labels}
            found[name, frozenset(labels.items())] = sample.value
    return {key: value for key, value in found.items() if not key[0].endswith(MOVES)}


def received(database: Prometheus) -> Series:
    """Return the series that a receiver has now."""
    found: Series = {}
    for one in database.query('{__name__=~"vllm_sidecar_.+|gen_ai_.+"}'):
        labels = dict(one["metric"])
        name = labels.pop("__name__")
        resource = {name: labels.pop(name) for name in RESOURCE & labels.keys()}
        assert "vllm-sidecar" in resource.values(), labels
        if "le" in labels:  # VictoriaMetrics writes whole bounds without a point
            labels["le"] = number(float(labels["le"]))
        found[name, frozenset(labels.items())] = float(one["value"][1])
    return {key: value for key, value in found.items() if not key[0].endswith(MOVES)}


def until(condition: Callable[[], object], explain: Callable[[], object] = lambda: "") -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, explain()
        time.sleep(0.3)


def differences(one: Mapping[object, float], other: Mapping[object, float]) -> list[object]:
    """Return what two sets of series do not share."""
    return [
        (key, one.get(key), other.get(key))
        for key in one.keys() | other.keys()
        if not math.isclose(one.get(key, math.nan), other.get(key, math.nan), rel_tol=1e-9)
    ]


@pytest.mark.parametrize("name", ["prometheus", "victoria-metrics", "rotel"])
def test_a_receiver_has_every_value_of_metrics_under_the_same_name(name: str, tmp_path: Path) -> None:
    """The names of the conventions replace those of /metrics; nothing is missing, and nothing else is pushed.

    When the server is gone, its series end at once.
    """
    with ExitStack() as stack:
        database, receiver = running(name, tmp_path, stack)
        with ExitStack() as server:
            vllm = server.enter_context(serving(captured.text(), "0.32.0", steps=12.0))
            _, own = stack.enter_context(started("--vllm.url", vllm, variables=pushing(receiver)))
            until(lambda: sum(scraped(own).values()) > 0 and grown(own))
            compare(own, database)
            assert len(scraped(own)) > 150
            assert status(own)["last_error"] is None
        # Neither after five minutes nor as zeros: absent is not zero, stale is not live.
        until(lambda: not database.query("gen_ai_server_time_to_first_token_seconds_count"))
        compare(own, database)
        assert all(name.startswith(ABOUT_THE_SOURCE) for name, _ in received(database)), received(database).keys()
        assert status(own)["rejected_points"] == 0


@pytest.mark.parametrize("name", ["prometheus", "victoria-metrics"])
def test_exponential_histograms_have_the_counts_sums_and_quantiles_of_metrics(name: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        database, receiver = running(name, tmp_path, stack)
        vllm = stack.enter_context(serving(captured.text(), "0.32.0", step=0.5))
        more = {"HISTOGRAMS": "exponential"}
        _, own = stack.enter_context(started("--vllm.url", vllm, variables=pushing(receiver, **more)))
        expected = lambda: quantile(own, "recent_time_to_first_token_seconds", "0.95")  # noqa: E731
        until(lambda: expected() is not None)
        time.sleep(10.0)
        if name == "prometheus":
            expression = f"histogram_quantile(0.95, {TTFT})"
        else:
            expression = f"histogram_quantile(0.95, sum(prometheus_buckets({TTFT}_bucket)) by (le))"
        until(lambda: database.query(expression))
        assert value(database, expression) == pytest.approx(expected(), rel=0.06)


def compare(own: str, database: Prometheus) -> None:
    """Wait until a receiver has what /metrics has."""
    found: list[object] = []

    def is_same() -> bool:
        found[:] = differences(scraped(own), received(database))
        return not found

    until(is_same, lambda: found[:10])


def status(own: str) -> dict[str, object]:
    return json.loads(read(own, "/api/v1/status"))["otlp"]


def grown(own: str) -> bool:
    """Return whether the server has finished requests since the sidecar started."""
    return 'quantile="0.5"' in read(own, "/metrics")


def quantile(own: str, signal: str, q: str) -> float | None:
    found = re.search(rf'^vllm_sidecar_{signal}{{.*quantile="{q}"}} (\S+)$', read(own, "/metrics"), re.MULTILINE)
    return float(found[1]) if found else None


def read(own: str, path: str) -> str:
    with urllib.request.urlopen(f"{own}{path}", timeout=10) as answer:  # noqa: S310 - loopback
        return answer.read().decode()


def value(database: Prometheus, expression: str) -> float:
    (found,) = database.query(expression)
    return float(found["value"][1])
