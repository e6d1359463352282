"""The variables of OpenTelemetry set what nothing else sets, once the push is enabled."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.config import ConfigError, load
from vllm_sidecar.config.otel_environment import pairs
from vllm_sidecar.serve.otlp.resource import resource_attributes

if TYPE_CHECKING:
    from pathlib import Path

ON = {"VLLM_SIDECAR_OTLP_ENABLED": "true"}
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_the_endpoint_of_all_signals_gets_the_path_of_metrics_and_that_of_metrics_is_the_whole_address() -> None:
    common = ON | {ENDPOINT: "http://collector:4318/"}
    assert load(None, {}, common).otlp.url == "http://collector:4318/v1/metrics"
    own = common | {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://metrics/take"}
    assert load(None, {}, own).otlp.url == "http://metrics/take"


def test_the_file_and_variables_of_the_sidecar_go_first(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("otlp: {enabled: true, url: 'http://file/v1/metrics'}\n")
    assert load(file, {}, {ENDPOINT: "http://collector"}).otlp.url == "http://file/v1/metrics"
    own = {"VLLM_SIDECAR_OTLP_URL": "http://own/v1/metrics", ENDPOINT: "http://collector"}
    assert load(None, {}, ON | own).otlp.url == "http://own/v1/metrics"


def test_they_enable_nothing_and_cannot_be_wrong_while_the_push_is_off() -> None:
    assert load(None, {}, {ENDPOINT: "http://collector", "OTEL_METRIC_EXPORT_INTERVAL": "often"}) == load(None)


def test_times_headers_and_forms_are_read_in_their_own_notation() -> None:
    otlp = load(None, {}, ON | {
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_METRIC_EXPORT_INTERVAL": "15000",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "authorization=Bearer%20s3cret, x-tenant=search",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "Delta",
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
    }).otlp  # fmt: skip
    assert (otlp.timeout, otlp.interval, otlp.temporality, otlp.histograms) == (2.5, 15.0, "delta", "exponential")
    assert {name: each.get_secret_value() for name, each in otlp.headers.items()} == {
        "authorization": "Bearer s3cret",
        "x-tenant": "search",
    }


def test_a_wrong_one_is_named() -> None:
    wrong = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TIMEOUT": "0"}
    with pytest.raises(ConfigError) as caught:
        load(None, {}, ON | wrong)
    assert {mistake.partition(":")[0] for mistake in caught.value.mistakes} == {
        f"environment variable {name}" for name in wrong
    }


def test_without_the_extra_the_push_cannot_be_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'vllm-sidecar\[otlp\]'"):
        load(None, {}, ON)
    assert not load(None).otlp.enabled


def test_a_header_is_given_once(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    (tmp_path / "key").write_text("key")
    file.write_text("otlp: {headers: {API-Key: one}, header_files: {api-key: key}}\n")
    with pytest.raises(ConfigError, match="api-key either here or in headers"):
        load(file)


def test_attributes_of_the_resource_have_an_order_of_precedence() -> None:
    environment = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=env,k8s.pod.name=chat-0,k8s.namespace.name=llm,broken"}
    found = resource_attributes({"team": "search"}, environment, ":10190")
    assert found["service.name"] == "env"
    assert found["service.instance.id"] == "llm.chat-0"
    assert "broken" not in found
    assert resource_attributes({"service.name": "own"}, environment, ":1")["service.name"] == "own"
    assert resource_attributes({}, environment | {"OTEL_SERVICE_NAME": "named"}, ":1")["service.name"] == "named"
    assert resource_attributes({}, {}, ":10190")["service.instance.id"].endswith(":10190")
    assert ":" not in resource_attributes({}, {}, "unix:/run/sidecar.sock")["service.instance.id"]


def test_pairs_are_percent_decoded() -> None:
    assert pairs("a=1, b=x%20y=z,,c") == {"a": "1", "b": "x y=z", "c": ""}
