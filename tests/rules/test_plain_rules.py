"""Without the sidecar: what Prometheus' own `up` of vLLM says is enough to see that it went down."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import promtool
import pytest
from places import RULES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io


@pytest.mark.parametrize(
    ("up", "minute", "alerts"),
    [
        ("1x40 0x300", 15, ["VllmReplicasUnavailable", "VllmTargetDown"]),
        pytest.param("1x40 0x300", 80, ["VllmReplicasUnavailable", "VllmTargetDown"], marks=pytest.mark.slow),
        ("1x200", 40, []),
        ("0x100", 8, []),
    ],
    ids=["it went down", "for more than an hour", "it answers", "it loads its model"],
)
def test_a_server_that_went_down_is_told_from_one_that_loads(
    up: str, minute: int, alerts: list[str], tmp_path: Path
) -> None:
    names = [*alerts, "VllmWatchdog"]
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names]
    asked = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": samples,
    }
    test: dict[str, Any] = {
        "rule_files": [str(RULES / "vllm-plain.rules.yml"), str(RULES / "vllm-sidecar.rules.yml")],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": 'up{job="vllm",instance="a"}', "values": up}],
                "promql_expr_test": [asked],
            }
        ],
    }
    file = tmp_path / "plain.yml"
    file.write_text(json.dumps(test))
    result = promtool.test_rules(file)
    assert result.ok, result.output
