"""Many models in one file, and many packs in one Prometheus: small enough to apply, and each to its own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import promtool
import pytest
import yaml
from slo_traffic import STEP, Expected, Traffic, latency, play, rules

from vllm_sidecar.generate.formats import Format
from vllm_sidecar.generate.outputs import rule_files, slo_files
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.slo_rules import slo_rules

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

KUBECTL_BYTES = 262_144
"""Of an annotation: `kubectl apply` keeps all of an object in one."""
ETCD_BYTES = 1_500_000
TTFT = "time_to_first_token_seconds"
BURN = "VllmTimeToFirstTokenSloBurn"


def objects(**settings: Any) -> dict[str, dict[str, Any]]:
    """Return the PrometheusRules of some settings, by the names of their files."""
    thresholds = Thresholds.model_validate(settings)
    files = rule_files(thresholds, Format.PROMETHEUS_OPERATOR) | slo_files(thresholds, Format.PROMETHEUS_OPERATOR)[0]
    return {name: yaml.safe_load(content) for name, content in files.items()}


def size(document: dict[str, Any]) -> int:
    return len(json.dumps(document, separators=(",", ":")))


def own(number: int) -> dict[str, Any]:
    """Settings that no other model has."""
    return {
        "profile": ("interactive", "standard", "batch")[number % 3],
        "slos": {
            "availability": {"objective": 0.99 + number / 20_000},
            "time_to_first_token": {"objective": 0.9 + number / 2_000},
            "inter_token_latency": {"objective": 0.9 + number / 2_000},
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize(("models", "most"), [(8, KUBECTL_BYTES), (100, ETCD_BYTES)])
def test_models_with_objectives_of_their_own_fit_into_one_object(models: int, most: int) -> None:
    found = objects(models={f"organisation/model-{number}-instruct": own(number) for number in range(models)})
    assert len(found) == 2
    assert {name: size(document) for name, document in found.items() if size(document) > most} == {}


def test_the_rules_of_an_objective_are_written_once_for_all_models() -> None:
    few, many = (
        [
            rule["alert"]
            for group in slo_rules(Thresholds.model_validate({"models": models})).groups
            for rule in group["rules"]
            if "alert" in rule
        ]
        for models in ({}, {f"m{number}": own(number) for number in range(20)})
    )
    assert few == many


def test_labels_of_a_model_are_on_its_alerts_and_on_no_others() -> None:
    models = {"a": {"slos": {"availability": {"labels": {"team": "x"}}}}, "b": own(1)}
    burns = [
        rule
        for group in slo_rules(Thresholds.model_validate({"models": models})).groups
        for rule in group["rules"]
        if rule.get("alert") == "VllmAvailabilitySloBurn"
    ]
    teams = {(rule["labels"].get("settings"), rule["labels"].get("team")) for rule in burns}
    assert teams == {("a", "x"), (None, None)}
    for rule in burns:
        assert ('model_name="a"' in rule["expr"]) == ("team" in rule["labels"])
        assert ('model_name!~"a"' in rule["expr"]) != ("team" in rule["labels"])


def test_each_model_burns_by_its_own_objective_and_threshold(tmp_path: Path) -> None:
    """15 % are bad: a burn of 15 for m, above 8 for the one that allows a tenth, and of 3 for the one of a half."""
    models = {
        "tenth": {"slos": {"time_to_first_token": {"objective": 0.9}}},
        "half": {"slos": {"time_to_first_token": {"objective": 0.5}}},
        "fast": {"profile": "interactive"},
    }
    series = {}
    for model, bad in (("m", 0.15), ("tenth", 0.85), ("half", 0.45), ("fast", 0.15)):
        edge = "0.5" if model == "fast" else "2.5"
        series |= latency(TTFT, edge, Traffic.steady(1000.0, 1000.0 * (1.0 - bad), 200), model_name=model)
    firing = {(BURN, model, window) for model in ("m", "fast", "tenth") for window in ("1h", "6h", "1d", "3d")}
    values = {
        "vllm_sidecar:slo_threshold:seconds": [
            {"labels": f'vllm_sidecar:slo_threshold:seconds{{job="vllm-sidecar",model_name="{model}",'
             'slo="time_to_first_token"}', "value": 0.5 if model == "fast" else 2.5}
            for model in ("fast", "half", "m", "tenth")
        ]
    }  # fmt: skip
    file = rules(tmp_path, "time_to_first_token", models=models)
    result = play(file, tmp_path, series, Expected(2400.0, firing, values))
    assert result.ok, result.output


def test_fewer_observations_than_a_strict_objective_asks_for_fire_nothing(tmp_path: Path) -> None:
    """At 99.9 % one failure of 69 is a burn above 14.4; the model of 90 % beside it needs 30 observations only."""
    models = {"strict": {"slos": {"time_to_first_token": {"objective": 0.999}}}}
    file = rules(tmp_path, "time_to_first_token", models=models)
    for requests, names in ((25, ()), (60, ("m",)), (90, ("m", "strict"))):
        series = {}
        for model in ("m", "strict"):
            few = Traffic.steady(1.0, 0.0, requests).then(0.0, 0.0, 60)
            series |= latency(TTFT, "2.5", few, model_name=model)
        at = (requests + 18.0) * STEP
        result = play(file, tmp_path, series, Expected(at, {(BURN, name, "1h") for name in names}, only="1h"))
        assert result.ok, result.output


def test_a_text_for_many_models_tells_the_numbers_of_the_one_that_burns(tmp_path: Path) -> None:
    models = {"strict": {"profile": "batch", "slos": {"time_to_first_token": {"objective": 0.9995}}}}
    file = rules(tmp_path, "time_to_first_token", models=models, slos={"inter_token_latency": {"enabled": False}})
    series = {}
    for model, edge in (("m", "2.5"), ("strict", "10.0")):
        series |= latency(TTFT, edge, Traffic.steady(1000.0, 500.0, 200), model_name=model)
    (rule,) = (
        rule
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if rule.get("labels", {}).get("long_window") == "1h"
    )
    expected = []
    for model, share, seconds, burn in (("m", "99%", "2.5s", "50"), ("strict", "99.95%", "10s", "1k")):
        shown = {"model_name": model, "model_name | urlquery": model}
        texts = {}
        for key, text in rule["annotations"].items():
            told = re.sub(
                r"\{\{ with printf `\w+\(vllm_sidecar_model_up\{.*?\{\{ end \}\}", "", text
            )  # none says whose it is
            told = re.sub(r"\{\{ with \$labels\.\w+ \}\}.*?\{\{ end \}\}", "", told)
            told = re.sub(r"\{\{ with [^}]*slo_objective.*?\{\{ end \}\}", share, told)
            told = re.sub(r"\{\{ with [^}]*\}[^}]*\}\}.*?\{\{ end \}\}", seconds, told)
            told = re.sub(r"\{\{ \$labels\.(.*?) \}\}", lambda found, shown=shown: shown[found[1]], told)
            texts[key] = told.replace("{{ $value | humanize }}", burn)
        labels = {**rule["labels"], "job": "vllm-sidecar", "model_name": model}
        expected.append({"exp_labels": labels, "exp_annotations": texts})
    only = tmp_path / "only.yml"
    document = yaml.safe_load(file.read_text())
    for group in document["groups"]:
        group["rules"] = [each for each in group["rules"] if "record" in each or each == rule]
    only.write_text(yaml.safe_dump(document, width=10**6))
    result = _alerts(tmp_path, only, series, 40 * STEP, expected)
    assert result.ok, result.output
    assert "99.95% of requests get their first token within 10s" in expected[1]["exp_annotations"]["description"]


def _alerts(
    folder: Path, file: Path, series: dict[str, str], at: float, expected: list[dict[str, Any]]
) -> promtool.Result:
    test = {
        "rule_files": [str(file)],
        "evaluation_interval": f"{STEP}s",
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": f"{at:g}s", "alertname": BURN, "exp_alerts": expected}],
            }
        ],
    }
    path = folder / "alerts.yml"
    path.write_text(yaml.safe_dump(test, width=10**6))
    return promtool.test_rules(path)


def test_two_packs_in_one_prometheus_record_and_page_for_their_own(tmp_path: Path) -> None:
    """Staging burns, production does not; who names no pack reads only what is in none."""
    files = []
    for environment in ("prod", "staging"):
        folder = tmp_path / environment
        folder.mkdir()
        files.append(rules(folder, "time_to_first_token", selector=f'env="{environment}"'))
    series = latency(TTFT, "2.5", Traffic.steady(1000.0, 1000.0, 200), env="prod")
    series |= latency(TTFT, "2.5", Traffic.steady(1000.0, 500.0, 200), env="staging", namespace="s")
    test = {
        "rule_files": [str(file) for file in files],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "30s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (pack, namespace) (ALERTS{alertstate="firing",severity="page"})',
                        "eval_time": "40m",
                        "exp_samples": [{"labels": '{pack="env-staging",namespace="s"}', "value": 2}],
                    },
                    {
                        "expr": "count by (pack) (vllm_sidecar:slo_burn:ratio_rate1h)",
                        "eval_time": "40m",
                        "exp_samples": [
                            {"labels": f'{{pack="env-{name}"}}', "value": 1} for name in ("prod", "staging")
                        ],
                    },
                ],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test, width=10**6))
    result = promtool.test_rules(file)
    assert result.ok, result.output


def test_two_packs_have_names_of_their_own_everywhere() -> None:
    names = []
    for pack in ("a", "b"):
        found = objects(pack=pack)
        assert set(found) == {f"vllm-sidecar-{pack}.prometheusrule.yml", f"vllm-sidecar-slo-{pack}.prometheusrule.yml"}
        names.append(
            {document["metadata"]["name"] for document in found.values()}
            | {group["name"] for document in found.values() for group in document["spec"]["groups"]}
        )
    assert not names[0] & names[1]
    for group in alert_groups(Thresholds(pack="a")):
        assert {rule["labels"]["pack"] for rule in group["rules"]} == {"a"}
    mimir = yaml.safe_load(rule_files(Thresholds(pack="a"), Format.MIMIR)["vllm-sidecar-a.mimir.yml"])
    assert mimir["namespace"] == "vllm-sidecar-a"


@pytest.mark.parametrize(
    ("first", "second"),
    [('env="prod"', 'env="staging"'), ('a="b-c"', 'a="b",c="d"'), ('a=~"b|c"', 'a!~"b|c"'), ('a="b_c"', 'a="b.c"')],
)
def test_two_selectors_never_share_a_pack(first: str, second: str) -> None:
    names = [Thresholds(selector=each).pack_name for each in (first, second)]
    assert names[0] != names[1]
    for name in names:
        assert Thresholds(pack=name).pack_name == name


def test_severities_are_called_as_the_house_calls_them() -> None:
    thresholds = Thresholds.model_validate(
        {"severities": {"page": "critical", "ticket": "warning"}, "alerts": {"VllmWatchdog": {"severity": "critical"}}}
    )
    groups = alert_groups(thresholds) + slo_rules(thresholds).groups
    labels = {rule["labels"]["severity"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert labels <= {"critical", "warning", "info"}
    assert {"critical", "warning"} <= labels


def test_another_label_of_clusters_is_in_every_place_of_the_old_one() -> None:
    thresholds = Thresholds.model_validate({"cluster_label": "region"})
    groups = alert_groups(thresholds) + slo_rules(thresholds).groups
    text = json.dumps(groups)
    assert not re.search(r"\bcluster\b", text)
    assert len(re.findall(r"\bregion\b", text)) == len(
        re.findall(r"\bcluster\b", json.dumps(alert_groups(Thresholds()) + slo_rules(Thresholds()).groups))
    )


def test_objects_of_kubernetes_carry_what_was_asked_for() -> None:
    settings = {
        "rule_namespace": "monitoring",
        "rule_labels": {"app.kubernetes.io/part-of": "kube-prometheus", "release": "kube"},
        "rule_annotations": {"example.org/why": "because of pages"},
    }
    for document in objects(**settings).values():
        metadata = document["metadata"]
        assert metadata["namespace"] == "monitoring"
        assert metadata["labels"].items() >= settings["rule_labels"].items()  # type: ignore[attr-defined]
        assert metadata["annotations"] == settings["rule_annotations"]
    (vm,) = rule_files(Thresholds(), Format.VICTORIA_METRICS_OPERATOR).values()
    document = yaml.safe_load(vm)
    assert (document["apiVersion"], document["kind"]) == ("operator.victoriametrics.com/v1beta1", "VMRule")
    assert document["spec"]["groups"] == alert_groups(Thresholds())


def test_links_that_were_not_given_an_address_are_absent() -> None:
    thresholds = Thresholds(runbook_url="", dashboard_url="")
    for group in alert_groups(thresholds) + slo_rules(thresholds).groups:
        for rule in group["rules"]:
            assert not {"runbook_url", "dashboard_url"} & set(rule.get("annotations", {}))
