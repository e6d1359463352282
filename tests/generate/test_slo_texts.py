"""Texts of the SLO rules, and the rules that are committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import promtool
import pytest
import yaml
from places import RULES
from slo_traffic import Traffic, labelled, latency, rules

from vllm_sidecar.catalog.objectives import BOUND_MISSING
from vllm_sidecar.generate.formats import Format, rule_file
from vllm_sidecar.generate.output_files import Origin
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.slo_rules import slo_rules

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Play = Callable[..., promtool.Result]

pytestmark = pytest.mark.io

TTFT = "time_to_first_token_seconds"


def test_the_committed_rules_are_those_of_the_defaults() -> None:
    committed = RULES / "vllm-sidecar-slo.rules.yml"
    _, content = rule_file(
        "vllm-sidecar-slo", slo_rules(Thresholds()).groups, Format.PROMETHEUS, Thresholds(), Origin("rules")
    )
    assert yaml.safe_load(committed.read_text()) == yaml.safe_load(content)


def test_texts_of_burn_alerts_name_no_instance_for_an_objective_is_a_models() -> None:
    for group in slo_rules(Thresholds()).groups:
        for rule in group["rules"]:
            if rule.get("alert") and rule["alert"] != BOUND_MISSING:
                assert "$labels.instance" not in str(rule["annotations"]), rule["alert"]


def test_texts_of_burn_alerts_say_where_the_model_is_and_how_many_replicas_answer(tmp_path: Path) -> None:
    """Without labels of a place, and without replicas that say whose they are, no bracket is left empty."""
    bad = Traffic.steady(1000.0, 700.0, 40)
    placed = {"cluster": "eu", "namespace": "ml"}
    series = latency(TTFT, "2.5", bad) | latency(TTFT, "2.5", bad, **placed, model_name="n")
    for instance, up in (("a:10190", "1x60"), ("b:10190", "0x60"), ("c:10190", "1x60")):
        series[labelled("model_up", **placed, instance=instance, engine="", model_name="n")] = up
    file = rules(tmp_path, "time_to_first_token")
    (rule,) = (
        rule
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if rule.get("labels", {}).get("long_window") == "1h"
    )
    shown = []
    for model, place, replicas, scope in (
        ("m", "m", "", 'model_name="m"'),
        ("n", "n in ml (eu)", ": 2 of 3 replicas answer", 'model_name="n",namespace="ml",cluster="eu"'),
    ):
        told = rule["annotations"]["description"]
        text = (
            f"{place}{replicas}. {told[told.index('Objective over') : told.index('_ratio{') + len('_ratio{')]}{scope}"
        )
        annotations = {
            "summary": f"{place} uses its error budget for time to first token 30 times too fast",
            "description": f"{text}}} shows whether queue or prefill takes the time",
            "runbook_url": rule["annotations"]["runbook_url"],
            "dashboard_url": rule["annotations"]["dashboard_url"].replace("{{ $labels.model_name | urlquery }}", model),
        }
        labels = {**rule["labels"], "job": "vllm-sidecar", "model_name": model, **(placed if model == "n" else {})}
        shown.append({"exp_labels": labels, "exp_annotations": annotations})
    document = yaml.safe_load(file.read_text())
    for group in document["groups"]:
        group["rules"] = [each for each in group["rules"] if "record" in each or each == rule]
    file.write_text(yaml.safe_dump(document, width=10**6))
    test = {
        "rule_files": [str(file)],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": "10m", "alertname": rule["alert"], "exp_alerts": shown}],
            }
        ],
    }
    path = tmp_path / "texts.yml"
    path.write_text(yaml.safe_dump(test, width=10**6))
    result = promtool.test_rules(path)
    assert result.ok, result.output
