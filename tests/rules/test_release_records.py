"""A replica runs one release at a time, also while Prometheus still finds the series of the one before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import promtool
import pytest
from slo_traffic import labelled

from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.thresholds import Thresholds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

EXPECTED = (("m", "after"), ("n", "other"))


def config(fingerprint: str, instance: str) -> str:
    return labelled("server_config_info", fingerprint=fingerprint, instance=instance, model_name="", engine="")


def test_of_two_fingerprints_the_newer_one_counts_and_other_models_are_not_affected(tmp_path: Path) -> None:
    """Without a marker of staleness, as after a push, a series is found for five minutes after its last sample."""
    groups = [group for group in alert_groups(Thresholds()) if group["name"] == "vllm-baselines"]
    (tmp_path / "pack.yml").write_text(json.dumps({"groups": groups}))
    series = {
        config("before", "a"): "1x40 _x100",
        config("after", "a"): "_x41 1x100",
        config("other", "b"): "1x200",
        labelled("time_to_first_token_seconds_count", instance="a"): "0+30x200",
        labelled("time_to_first_token_seconds_count", instance="b", model_name="n"): "0+30x200",
    }
    found = [{"labels": f'{{model_name="{model}",fingerprint="{name}"}}', "value": 1} for model, name in EXPECTED]
    asked = "group by (model_name, fingerprint) (vllm_sidecar:release_first_seen:timestamp)"
    played = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": asked, "eval_time": "12m", "exp_samples": found}],
    }
    test = tmp_path / "test.yml"
    test.write_text(
        json.dumps({"rule_files": [str(tmp_path / "pack.yml")], "evaluation_interval": "1m", "tests": [played]})
    )
    assert promtool.failures([test]) == {}
