"""The lint of expressions: what is said of each mistake, and of none where there is none."""

from __future__ import annotations

import pytest

from vllm_sidecar.catalog.dashboards import Query
from vllm_sidecar.generate import lint, promql
from vllm_sidecar.generate.dashboards.notation import Notation
from vllm_sidecar.generate.settings.thresholds import Thresholds

S = "vllm_sidecar_"


def said(expr: str, texts: str = "", least: float = 60.0) -> list[str]:
    return lint.problems(expr, least_range=least, texts=texts)


@pytest.mark.parametrize(
    ("expr", "problem"),
    [
        ("sum by (a (x)", "cannot be parsed"),
        (f"{S}requests_runing > 1", f"reads {S}requests_runing, which nothing exports"),
        ("vllm:num_requests_running > 1", "reads vllm:num_requests_running, which nothing exports"),
        (f"rate({S}requests_running[5m])", f"takes rate of {S}requests_running, which is not a counter"),
        (f"increase({S}recent_cache_hit_ratio[5m])", "which is not a counter"),
        (f"max_over_time({S}preemptions_total[5m])", f"takes max_over_time of {S}preemptions_total, a counter"),
        (f"avg_over_time({S}request_seconds_bucket[5m])", "a counter"),
        (f"rate({S}preemptions_total[30s])", f"reads 30 s of {S}preemptions_total; four scrapes take 60 s"),
        (f"{S}lora_slots_used / {S}lora_slots", "divides by a value that may be 0"),
        (f"sum({S}lora_slots_used) / sum({S}lora_slots) > 0.5", "divides by a value that may be 0"),
        (f"{S}lora_slots_used / 0", "divides by a value that may be 0"),
    ],
)
def test_each_mistake_is_told_in_words(expr: str, problem: str) -> None:
    (found,) = said(expr)
    assert problem in found


@pytest.mark.parametrize(
    "expr",
    [
        f"rate({S}request_seconds_sum[5m]) / (rate({S}request_seconds_count[5m]) > 0)",
        f"rate({S}recent_request_seconds_count[5m]) > 1",
        f"last_over_time({S}server_restarts_total[5m])",
        f"{S}kv_cache_free_tokens / 1024",
        "vllm_sidecar:slo_errors:ratio_rate1h / (1 - vllm_sidecar:slo_objective:ratio)",
        f"({S}lora_slots_used / {S}lora_slots > 1) and on (instance) (sum by (instance) ({S}lora_slots) >= 30)",
        'up{job="x"} == 0',
        f"histogram_quantile(0.9, sum by (le) (rate({S}request_seconds_bucket[5m])))",
    ],
)
def test_nothing_is_said_of_what_is_right(expr: str) -> None:
    assert said(expr) == []


@pytest.mark.parametrize(
    ("expr", "lost"),
    [
        (f"sum by (instance) ({S}requests_running)", "engine"),
        (f"sum({S}requests_running)", "engine"),
        (f"sum without (engine) ({S}requests_running)", "engine"),
        (f"{S}requests_running > on (instance) {S}recent_error_ratio", "engine"),
        (f"{S}recent_error_ratio and on (instance) {S}requests_running", "engine"),
        (f"{S}requests_running or {S}recent_error_ratio", "engine"),
        (f"max by (engine) ({S}recent_error_ratio)", "engine"),
    ],
)
def test_a_label_that_a_text_names_must_survive(expr: str, lost: str) -> None:
    assert said(expr, "on {{ $labels.engine }}") == [f"loses {lost}, which its texts name"]


@pytest.mark.parametrize(
    "expr",
    [
        f"{S}requests_running > 1",
        f"sum by (engine) ({S}requests_running)",
        f"sum without (reason) ({S}requests_waiting)",
        f"topk(3, {S}requests_running)",
        f"-{S}requests_running",
        f"{S}recent_error_ratio * on (instance) group_right () {S}requests_running",
        f"{S}requests_running and on (instance) {S}recent_error_ratio",
        f"1 - {S}requests_running",
    ],
)
def test_a_label_that_survives_is_not_missed(expr: str) -> None:
    assert said(expr, "on {{ $labels.engine }}") == []


def test_a_rule_that_is_wrong_is_not_written() -> None:
    with pytest.raises(lint.LintError, match=r"VllmX: divides by a value that may be 0: .*, in up / up"):
        lint.check("VllmX", "up / up", least_range=60.0)
    with pytest.raises(lint.LintError, match="which is not a counter"):
        Notation(Thresholds()).query(Query("rate(~requests_running[$__rate_interval])"))


def test_what_can_be_answered_with_some_metrics_alone() -> None:
    def answered(expr: str) -> bool:
        return promql.answerable(promql.parse(expr), {"a", "b"})

    assert answered("a > 1 and on (x) b")
    assert answered("a unless on (x) z")
    assert answered("z or b")
    assert answered("absent(z)")
    assert not answered("z unless a")
    assert not answered("sum(rate(z[5m])) > 1")
    assert not answered("a / z")
    assert not answered("a and z")
