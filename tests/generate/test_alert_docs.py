"""The table of all alerts: each once, in words that need no alert at hand."""

from __future__ import annotations

import re

import pytest
from places import RULES

from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.generate.alert_docs import alerts, without_labels
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.slo_rules import slo_rules


def test_every_alert_is_there_once_and_nothing_of_a_template_is_left() -> None:
    table = alerts()
    named = re.findall(r"^\| \[`(\w+)`\]", table, flags=re.MULTILINE)

    assert named == [alert.name for alert in ALERTS]
    assert not re.search(r"\{\{|\}\}|\$|<<|\[\[", table)


def test_the_document_lists_every_alert_that_pages_and_no_other() -> None:
    text = (RULES.parent / "docs" / "alerts.md").read_text()
    (table,) = re.findall(r"^## What pages$(.+?)^- ", text, flags=re.MULTILINE | re.DOTALL)
    groups = [*alert_groups(Thresholds()), *slo_rules(Thresholds()).groups]
    paging = {
        rule["alert"]
        for group in groups
        for rule in group["rules"]
        if rule.get("labels", {}).get("severity") == "page" and "alert" in rule
    }
    assert set(re.findall(r"`(Vllm\w+)`", table)) == paging


def test_an_alert_about_prometheus_selects_no_sidecar_in_its_dashboard() -> None:
    rules = {rule.get("alert"): rule for group in alert_groups(Thresholds()) for rule in group["rules"]}
    missed, down = (rules[name]["annotations"] for name in ("VllmRuleEvaluationsMissed", "VllmSidecarDown"))
    assert "instance" not in missed["dashboard_url"]
    assert "var-instance=" in down["dashboard_url"]


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ("alerts arrive", "alerts arrive"),
        ("{{ $value | humanizePercentage }} of {{ $labels.model_name }} fail", "*n* % of *model* fail"),
        (
            (
                "{{ with $labels.pod }}pod {{ . }}{{ else }}{{ $labels.instance }}{{ end }}"
                "{{ with $labels.node }} on node {{ . }}{{ end }} is slow"
            ),
            "*replica* is slow",
        ),
        ('{{ with printf "x{a=%q}" $labels.a | query }}{{ . | first | value }}{{ end }} of them', "*n* of them"),
        ("GPU {{ $labels.gpu }} ({{ $labels.uuid }}) needs: {{ $labels.action }}", "GPU *gpu* needs: *action*"),
        ("{{ if lt $value 0.0 }}is over{{ else }}ends in {{ $value }}{{ end }}", "is over or ends in *n*"),
        ("{{ with $labels.some_part }}part {{ . }}{{ else }}vLLM{{ end }} fails", "part *some part* or vLLM fails"),
        ("{{ with $labels.a }}{{ with $labels.b }}x{{ end }}{{ end }}one | two", r"one \| two"),
    ],
)
def test_labels_and_values_become_words(summary: str, words: str) -> None:
    assert without_labels(summary) == words
