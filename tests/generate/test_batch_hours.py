"""Hours of batches: read strictly, and left out by alerts and objectives that are about latency."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from slo_traffic import Expected, Traffic, counted, labelled, latency, play, rules

from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.config import ConfigError
from vllm_sidecar.generate.expressions import outside
from vllm_sidecar.generate.rules import alert_rules
from vllm_sidecar.generate.settings.thresholds import Thresholds, load_thresholds

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_sidecar.generate.settings.batch_hours import Hours

pytestmark = pytest.mark.io

QUEUE = next(alert for alert in ALERTS if alert.name == "VllmQueueWaitHigh")
TTFT = "time_to_first_token_seconds"


def hours(*texts: str) -> tuple[Hours, ...]:
    return Thresholds.model_validate({"batch_hours": list(texts)}).batch_hours


@pytest.mark.parametrize(
    ("text", "during", "after"),
    [
        ("00:30-01:00", (30, 45, 69), (29, 70, 100)),
        ("23:30-00:40", (0, 20, 49), (50, 100)),
        ("00:00-00:30", (0, 39), (40, 100)),
        ("23:00-23:55", (0, 4), (5, 100)),
        ("23:00-23:50", (), (0, 100)),
        ("01:00-24:00", (5, 60, 100), (10, 59)),
        ("00:05-00:00", (0, 9, 100), ()),
    ],
)
def test_an_expression_is_left_out_from_the_first_minute_to_ten_minutes_after_the_last(
    text: str, during: tuple[int, ...], after: tuple[int, ...], tmp_path: Path
) -> None:
    """The clock of promtool starts at midnight."""
    file = tmp_path / "r.yml"
    file.write_text("groups: []\n")
    expr = f"count({outside(hours(text), 'x or y')})"
    checked = [Expected(minute * 60.0, values={expr: []}) for minute in during]
    checked += [Expected(minute * 60.0, values={expr: [{"labels": "{}", "value": 2}]}) for minute in after]
    result = play(file, tmp_path, {"x": "1x500", 'y{a="b"}': "1x500"}, *checked)
    assert result.ok, result.output


def test_without_hours_nothing_is_appended() -> None:
    assert outside((), "x or y") == "x or y"
    assert outside(hours("02:00-03:00", "22:00-23:00"), "x").count(" or ") == 1


@pytest.mark.parametrize(
    "text",
    ["2:00-3:00", "02:00", "25:00-26:00", "02:60-03:00", "02:00-02:00", "00:00-24:00", "24:00-01:00", "a-b", 200],
)
def test_a_mistake_in_hours_is_told_with_its_line(text: Any, tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(f"profile: batch\nmodels:\n  m:\n    batch_hours: [{text!r}]\n")
    with pytest.raises(ConfigError) as caught:
        load_thresholds(file)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("line 4: models.m.batch_hours")
    assert "hours" in mistake


def test_an_alert_is_left_out_in_the_hours_of_its_model_alone() -> None:
    settings = {
        "batch_hours": ["02:00-03:00"],
        "models": {"a": {"batch_hours": []}, "b": {"batch_hours": ["04:00-05:00"]}},
    }
    thresholds = Thresholds.model_validate(settings)
    about_latency = replace(QUEUE, batch_hours=True)
    a, b, others = (str(rule["expr"]) for rule in alert_rules(about_latency, thresholds))
    assert 'model_name="a"' in a
    assert "hour()" not in a
    assert ">= 240 < 310" in b
    assert ">= 120 < 190" in others
    for alert in (replace(QUEUE, batch_hours=False), about_latency):
        whole = list(alert_rules(alert, Thresholds() if alert.batch_hours else thresholds))
        assert len(whole) == 1
        assert "hour()" not in str(whole[0])


def test_a_model_with_the_hours_of_all_others_shares_their_rule() -> None:
    settings = {"batch_hours": ["02:00-03:00"], "models": {"a": {"batch_hours": ["02:00-03:00"]}}}
    assert len(list(alert_rules(replace(QUEUE, batch_hours=True), Thresholds.model_validate(settings)))) == 1


@pytest.mark.slow
def test_latency_is_not_counted_in_the_hours_and_availability_is(tmp_path: Path) -> None:
    """Half of all is bad from 00:30 to 01:00, and nothing before or after."""
    bad = Traffic.steady(150.0, 150.0, 120).then(150.0, 75.0, 120).then(150.0, 150.0, 300)
    series = latency(TTFT, "2.5", bad) | latency(TTFT, "2.5", bad, model_name="n") | counted("availability", bad)
    series[labelled("up", engine="", source="vllm")] = "1x600"
    settings: dict[str, Any] = {"batch_hours": ["00:30-01:00"], "models": {"n": {"batch_hours": []}}}
    burn = "max by (model_name, slo) (vllm_sidecar:slo_burn:ratio_rate1h) > 5"
    objective = 'count by (slo) (vllm_sidecar:slo_objective:ratio{model_name="m"})'
    in_budget = [{"labels": f'{{slo="{slo}"}}', "value": 1} for slo in ("availability", "time_to_first_token")]
    file = rules(tmp_path, **settings)
    result = play(
        file, tmp_path, series,
        Expected(50 * 60.0, values={objective: in_budget, f"count by (model_name, slo) ({burn})": [
            {"labels": '{model_name="m",slo="availability"}', "value": 1},
            {"labels": '{model_name="n",slo="time_to_first_token"}', "value": 1},
        ]}, only="none"),
    )  # fmt: skip
    assert result.ok, result.output
