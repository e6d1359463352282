"""Availability as gateways count it: each recipe, the user's own expressions, and mistakes with their lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import promtool
import pytest
import yaml
from samples import others_slow
from slo_traffic import Expected, labelled, play, rules

from vllm_sidecar import cli
from vllm_sidecar.config import ConfigError
from vllm_sidecar.generate.formats import Format
from vllm_sidecar.generate.outputs import slo_files
from vllm_sidecar.generate.settings.thresholds import Thresholds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

HERE = 'namespace="gateways",job="gateway",instance="g:1"'
ENVOY = (
    f'envoy_cluster_upstream_rq_xx{{{HERE},envoy_cluster_name="httproute/ml/chat/rule/0",'
    'envoy_response_code_class="%s"}'
)
ISTIO = (
    f'istio_requests_total{{{HERE},reporter="%s",destination_service_name="chat",'
    'destination_service_namespace="ml",response_code="%s"}'
)
LITELLM = f'litellm_proxy_%s_requests_metric_total{{{HERE},requested_model="m",exception_status="%s"}}'
EPP = f'inference_objective_request_%s{{{HERE},model_name="%s",target_model_name="%s",error_code="%s"}}'
PLACE = {"namespace": "ml", "job": "vllm-sidecar"}
GATEWAYS: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "envoy": (
        {"kind": "envoy", "services": {"m": "httproute/ml/chat/.*"}, "labels": PLACE},
        {ENVOY % 2: "0+120x400", ENVOY % 4: "0+15x400", ENVOY % 5: "0+15x400"},
        'job="vllm-sidecar",namespace="ml"',
    ),
    "istio": (
        {"kind": "istio", "services": {"m": "chat"}},
        {
            ISTIO % ("source", 200): "0+135x400",
            ISTIO % ("source", 503): "0+15x400",
            ISTIO % ("source", 0): "0+15x400",
            ISTIO % ("destination", 200): "0+135x400",
        },
        'job="gateway",namespace="ml"',
    ),
    "litellm": (
        {"kind": "litellm"},
        {
            LITELLM % ("total", ""): "0+150x400",
            LITELLM % ("failed", "503"): "0+5x400",
            LITELLM % ("failed", "408"): "0+5x400",
            LITELLM % ("failed", "None"): "0+5x400",
            LITELLM % ("failed", "429"): "0+9x400",
            LITELLM % ("failed", "400"): "0+9x400",
        },
        'job="gateway",namespace="gateways"',
    ),
    "inference-extension": (
        {"kind": "inference-extension"},
        {
            EPP % ("total", "alias", "m", ""): "0+70x400",
            EPP % ("total", "m", "m", ""): "0+70x400",
            EPP % ("error_total", "m", "m", "ModelServerError"): "0+5x400",
            EPP % ("error_total", "m", "", "InferencePoolResourceExhausted"): "0+10x400",
            EPP % ("error_total", "m", "", "BadRequest"): "0+10x400",
        },
        'job="gateway",namespace="gateways"',
    ),
    "custom": (
        {
            "kind": "custom",
            "requests": 'sum by (model_name) (rate(nginx_requests_total{cluster=~"a|b"}[5m]))',
            "failures": 'sum by (model_name) (rate(nginx_requests_total{status=~"5.."}[5m]))',
            "labels": PLACE,
        },
        {
            'nginx_requests_total{model_name="m",cluster="a",status="200"}': "0+135x400",
            'nginx_requests_total{model_name="m",cluster="a",status="502"}': "0+15x400",
        },
        'job="vllm-sidecar",namespace="ml"',
    ),
}


def settings(gateway: dict[str, Any]) -> dict[str, Any]:
    return {"slos": {"gateway": gateway, "availability": {"source": "gateway"}}}


@pytest.mark.parametrize("name", others_slow(GATEWAYS, "envoy"))
def test_a_gateway_counts_what_clients_asked_for_and_what_of_it_failed(name: str, tmp_path: Path) -> None:
    gateway, series, place = GATEWAYS[name]
    values = {
        f"round(vllm_sidecar:slo_{record}:rate5m, 1e-6)": [
            {"labels": f'{{{place},model_name="m",slo="availability"}}', "value": value}
        ]
        for record, value in (("observations", 10), ("bad_observations", 1))
    }
    file = rules(tmp_path, "availability", **settings(gateway))
    fired = {("VllmAvailabilitySloBurn", "m", "1h")}
    result = play(file, tmp_path, series, Expected(90 * 60.0, fired, values, only="1h"))
    assert result.ok, result.output


@pytest.mark.slow
@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_without_any_failure_has_its_whole_budget(name: str, tmp_path: Path) -> None:
    gateway, series, _ = GATEWAYS[name]
    fine = {key: value for key, value in series.items() if not any(code in key for code in _FAILED)}
    left = "min(vllm_sidecar:slo_budget_remaining:ratio30d)"
    file = rules(tmp_path, "availability", **settings(gateway))
    expected = Expected(90 * 60.0, values={left: [{"labels": "{}", "value": 1}]})
    result = play(file, tmp_path, fine, expected)
    assert result.ok, result.output


_FAILED = ('class="5"', '"503"', '"502"', '"408"', '"None"', "ModelServerError", "Exhausted")


@pytest.mark.parametrize("name", GATEWAYS)
@pytest.mark.parametrize("kind", list(Format))
def test_the_rules_of_every_gateway_are_accepted(name: str, kind: Format, tmp_path: Path) -> None:
    files, _ = slo_files(Thresholds.model_validate(settings(GATEWAYS[name][0])), kind)
    assert files
    if kind is Format.PROMETHEUS:
        (content,) = files.values()
        (tmp_path / "r.yml").write_bytes(content)
        assert promtool.check_rules(tmp_path / "r.yml").ok


@pytest.mark.slow
def test_one_model_is_counted_by_the_gateway_and_all_others_by_their_sidecars(tmp_path: Path) -> None:
    gateway, series, _ = GATEWAYS["litellm"]
    others = {key.replace('requested_model="m"', 'requested_model="n"'): value for key, value in series.items()}
    for model, bad in (("m", "0x400"), ("n", "0x400")):
        series = series | {
            labelled("slo_requests_total", engine="", slo="availability", model_name=model): "0+300x400",
            labelled("slo_good_requests_total", engine="", slo="availability", model_name=model): "0+300x400",
            labelled("up", engine="", model_name=model, source="vllm"): f"1x380 {bad}",
        }
    own = {"slos": {"gateway": gateway}, "models": {"m": {"slos": {"availability": {"source": "gateway"}}}}}
    file = rules(tmp_path, "availability", **own)
    rate = "round(vllm_sidecar:slo_observations:rate5m, 1e-6)"
    shown = {
        rate: [
            {"labels": '{job="gateway",namespace="gateways",model_name="m",slo="availability"}', "value": 10},
            {"labels": '{job="vllm-sidecar",model_name="n",slo="availability"}', "value": 20},
        ]
    }
    result = play(file, tmp_path, series | others, Expected(60 * 60.0, values=shown, only="none"))
    assert result.ok, result.output


@pytest.mark.slow
def test_a_model_that_the_gateway_does_not_know_is_a_ticket(tmp_path: Path) -> None:
    gateway, series, _ = GATEWAYS["envoy"]
    running = {labelled("requests_running", model_name=model): "1x400" for model in ("m", "other")}
    file = rules(tmp_path, **settings(gateway))
    fired = {
        ("VllmSloEdgeMissing", "other", ""),
        *(("VllmAvailabilitySloBurn", "m", w) for w in ("1h", "6h", "1d", "3d")),
    }
    result = play(file, tmp_path, series | running, Expected(90 * 60.0, fired))
    assert result.ok, result.output


@pytest.mark.parametrize(
    ("gateway", "key", "line", "told"),
    [
        ("", "availability.source", 2, "gateway needs slos.gateway"),
        ("kind: envoy", "gateway.services", 3, "must name the services of envoy"),
        ("kind: litellm, requests: up", "gateway.requests", 3, "is only for kind: custom"),
        ("kind: custom, requests: up", "gateway.failures", 3, "it is empty"),
        ('kind: custom, failures: up, requests: "rate(up["', "gateway.requests", 3, "must be an expression of PromQL"),
        ('kind: custom, failures: up, requests: "up) or (up"', "gateway.requests", 3, "must be an expression"),
        ('kind: custom, failures: up, requests: "up[5m]"', "gateway.requests", 3, "must be an expression of PromQL"),
        ('kind: custom, failures: up, requests: "1"', "gateway.requests", 3, "must be an expression of PromQL"),
        ('kind: custom, failures: up, requests: "up # all"', "gateway.requests", 3, "must be an expression of PromQL"),
    ],
)
def test_a_mistake_is_told_with_its_line(
    gateway: str, key: str, line: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.yaml"
    text = "slos:\n  availability: {source: gateway}\n"
    file.write_text(text + (f"  gateway: {{{gateway}}}\n" if gateway else ""))
    code = cli.main(["generate", "rules", "--thresholds", str(file), "--out", str(tmp_path)])
    shown = capsys.readouterr().err
    assert code != 0
    assert f"line {line}: slos.{key}: " in shown
    assert told in shown


def test_a_latency_cannot_be_counted_by_a_gateway() -> None:
    with pytest.raises((ConfigError, ValueError)):
        Thresholds.model_validate({"slos": {"time_to_first_token": {"source": "gateway"}}})


def test_texts_of_the_user_are_never_rewritten() -> None:
    """`cluster`, ranges and the notation of the catalog stay as they are in an expression and in names."""
    expr = 'sum by (model_name) (rate(x_total{cluster="cluster",a="~up <<T>>"}[5m] offset 1m))'
    given = {"kind": "custom", "requests": expr, "failures": expr, "labels": {"cluster": "$1 cluster"}}
    thresholds = Thresholds.model_validate({**settings(given), "cluster_label": "region", "time_scale": 0.1})
    files, _ = slo_files(thresholds, Format.PROMETHEUS)
    (content,) = files.values()
    found = [
        rule["expr"]
        for group in yaml.safe_load(content)["groups"]
        for rule in group["rules"]
        if rule.get("record") == "vllm_sidecar:slo_observations:rate5m" and rule["labels"]["slo"] == "availability"
    ]
    assert len(found) == 1
    assert f"({expr})" in found[0]
    assert '"region", "$$1 cluster"' in found[0]
