"""The table of all alerts: each once, in words that need no alert at hand."""

from __future__ import annotations

import re

import pytest

from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.generate.alert_docs import alerts, without_labels


def test_every_alert_is_there_once_and_nothing_of_a_template_is_left() -> None:
    table = alerts()
    named = re.findall(r"^\| \[`(\w+)`\]", table, flags=re.MULTILINE)

    assert named == [alert.name for alert in ALERTS]
    assert not re.search(r"\{\{|\}\}|\$|<<|\[\[", table)


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
        ("{{ with $labels.a }}{{ with $labels.b }}x{{ end }}{{ end }}one | two", r"one \| two"),
    ],
)
def test_labels_and_values_become_words(summary: str, words: str) -> None:
    assert without_labels(summary) == words
