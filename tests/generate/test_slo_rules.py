"""The SLO rules under promtool: each window fires above its burn and only there, and nothing else makes it fire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from samples import others_slow
from slo_traffic import STEP, Expected, Traffic, counted, labelled, latency, play, rules

from vllm_sidecar.catalog.objectives import BOUND_MISSING, SLOS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import promtool

    Play = Callable[..., promtool.Result]

pytestmark = pytest.mark.io

TTFT, ITL, TPOT = "time_to_first_token_seconds", "inter_token_latency_seconds", "time_per_output_token_seconds"
SPECULATES = {labelled("spec_decode_drafts_total"): "0+5x4000"}
ALERT = {slo.name: slo.alert for slo in SLOS}
WINDOWS = ("1h", "6h", "1d", "3d")


def firing(slo: str, *windows: str, model: str = "m") -> set[tuple[str, str, str]]:
    return {(ALERT[slo], model, window) for window in windows}


@pytest.fixture
def played(tmp_path: Path) -> Play:
    def run(series: Mapping[str, str], *expected: Expected, **settings: Any) -> promtool.Result:
        return play(rules(tmp_path, **settings), tmp_path, series, *expected)

    return run


def told(slo: str, traffic: Traffic) -> dict[str, str]:
    """Traffic of an objective in the default rules."""
    return {
        "time_to_first_token": lambda: latency(TTFT, "2.5", traffic),
        "inter_token_latency": lambda: latency(ITL, "0.1", traffic),
        "time_per_output_token": lambda: latency(TPOT, "0.1", traffic) | SPECULATES,
        "availability": lambda: counted("availability", traffic),
    }[slo]()


ENABLED = others_slow(sorted(slo.name for slo in SLOS if slo.enabled), "availability")


@pytest.mark.parametrize("slo", ENABLED)
@pytest.mark.parametrize(
    ("burn", "windows"),
    [(14.6, WINDOWS), (14.2, WINDOWS[1:]), (5.8, WINDOWS[2:]), (2.9, WINDOWS[3:]), (0.95, ())],
    ids=["above all", "below 14.4", "below 6", "below 3", "within budget"],
)
def test_each_window_fires_above_its_burn_and_not_just_below(
    slo: str, burn: float, windows: tuple[str, ...], played: Play
) -> None:
    budget = 0.001 if slo == "availability" else 0.01
    traffic = Traffic.steady(10_000.0, 10_000.0 * (1.0 - burn * budget), 200)
    result = played(told(slo, traffic), Expected(60.0), Expected(2400.0, firing(slo, *windows)), slo=slo)
    assert result.ok, result.output


@pytest.mark.parametrize("slo", ENABLED)
def test_an_idle_server_and_one_that_is_not_there_burn_nothing(slo: str, played: Play) -> None:
    idle = Traffic.steady(0.0, 0.0, 200)
    assert played(told(slo, idle), Expected(2400.0, set(), {"vllm_sidecar:slo_errors:ratio_rate5m": []}), slo=slo).ok
    assert played({}, Expected(2400.0, set(), {"vllm_sidecar:slo_burn:ratio_rate5m": []}), slo=slo).ok


@pytest.mark.slow
@pytest.mark.parametrize("slo", ENABLED)
def test_values_that_are_no_numbers_neither_fire_nor_spoil_what_comes_later(slo: str, played: Play) -> None:
    """A sum over a month that once holds NaN would be NaN for a month."""
    good = Traffic.steady(1000.0, 1000.0, 40)
    holed = Traffic(f"{good.all} NaN NaN 43000+1000x160", f"{good.good} NaN NaN 43000+1000x160")
    fine = {
        "labels": f'vllm_sidecar:slo_errors:ratio_rate1h{{job="vllm-sidecar",model_name="m",slo="{slo}"}}',
        "value": 0,
    }
    shown = {f'vllm_sidecar:slo_errors:ratio_rate1h{{slo="{slo}"}}': [fine]}
    result = played(told(slo, holed), Expected(900.0), Expected(2400.0, set(), shown), slo=slo)
    assert result.ok, result.output
    bad = Traffic(f"{good.all} NaN NaN 43000+1000x160", f"{good.good} NaN NaN 40000+0x160")
    assert played(told(slo, bad), Expected(3000.0, firing(slo, *WINDOWS)), slo=slo).ok


@pytest.mark.parametrize("slo", ENABLED)
def test_a_restart_burns_nothing_and_hides_nothing(slo: str, played: Play) -> None:
    fine = Traffic.steady(1000.0, 1000.0, 80).then(1000.0, 1000.0, 80, from_zero=True)
    assert played(told(slo, fine), Expected(1230.0), Expected(2300.0), slo=slo).ok
    worse = Traffic.steady(1000.0, 700.0, 80).then(1000.0, 700.0, 80, from_zero=True)
    result = played(
        told(slo, worse), Expected(1230.0, firing(slo, *WINDOWS)), Expected(2300.0, firing(slo, *WINDOWS)), slo=slo
    )
    assert result.ok, result.output


@pytest.mark.slow
@pytest.mark.parametrize("slo", ENABLED)
def test_a_page_goes_on_for_a_while_when_a_restart_leaves_no_observations(slo: str, played: Play) -> None:
    """A server that restarts answers nobody: the short window is empty, and nothing is solved."""
    gone = Traffic.steady(1000.0, 700.0, 80).then(0.0, 0.0, 120, from_zero=True)
    result = played(
        told(slo, gone),
        Expected(1200.0, firing(slo, *WINDOWS)),
        Expected(1200.0 + 480.0, firing(slo, *WINDOWS)),
        Expected(1200.0 + 900.0, firing(slo, *WINDOWS[1:])),
        slo=slo,
    )
    assert result.ok, result.output


@pytest.mark.slow
@pytest.mark.parametrize("slo", ENABLED)
def test_what_is_over_resolves_first_where_the_windows_are_short(slo: str, played: Play) -> None:
    over = Traffic.steady(1000.0, 700.0, 80).then(1000.0, 1000.0, 400)
    result = played(
        told(slo, over),
        Expected(1200.0, firing(slo, *WINDOWS)),
        Expected(1200.0 + 900.0, firing(slo, *WINDOWS[1:])),
        Expected(1200.0 + 3000.0, firing(slo, *WINDOWS[2:])),
        slo=slo,
    )
    assert result.ok, result.output


@pytest.mark.slow
@pytest.mark.parametrize(("slo", "guard"), [("time_to_first_token", 30), ("availability", 77)])
def test_fewer_observations_than_the_guard_asks_for_fire_nothing(slo: str, guard: int, played: Play) -> None:
    """At an objective of 99.9 % one failure among 69 requests is a burn above 14.4, and no incident."""
    for requests, windows in ((guard - 5, ()), (guard + 5, ("1h",))):
        few = Traffic.steady(1.0, 0.0, requests).then(0.0, 0.0, 60)
        at = (requests + 18.0) * STEP  # the last of them have been in the five minutes of a rate for long enough
        result = played(told(slo, few), Expected(at, firing(slo, *windows), only="1h"), slo=slo)
        assert result.ok, result.output


@pytest.mark.slow
def test_the_guard_can_be_set(played: Play) -> None:
    few = told("time_to_first_token", Traffic.steady(1.0, 0.0, 20).then(0.0, 0.0, 60))
    at = 38.0 * STEP
    fired = firing("time_to_first_token", "1h")
    assert played(few, Expected(at, only="1h")).ok
    assert played(few, Expected(at, fired, only="1h"), slos={"observations": 10}).ok
    assert played(few, Expected(at, fired, only="1h"), slos={"time_to_first_token": {"observations": 10}}).ok


@pytest.mark.slow
def test_replicas_and_engines_of_a_model_share_one_budget_and_models_do_not(played: Play) -> None:
    bad, good = Traffic.steady(1000.0, 900.0, 200), Traffic.steady(1000.0, 1000.0, 200)
    series = (
        latency(TTFT, "2.5", bad)
        | latency(TTFT, "2.5", good, engine="1")
        | latency(TTFT, "2.5", good, instance="b:10190")
        | latency(TTFT, "2.5", bad, model_name="n")
    )
    result = played(
        series,
        Expected(
            2400.0,
            firing("time_to_first_token", "1d", "3d") | firing("time_to_first_token", *WINDOWS[1:], model="n"),
            {
                'round(vllm_sidecar:slo_burn:ratio_rate1h{model_name="m"}, 0.001)': [
                    {"labels": '{job="vllm-sidecar",model_name="m",slo="time_to_first_token"}', "value": 3.333}
                ]
            },
        ),
    )
    assert result.ok, result.output


def test_the_recorded_series_say_what_their_names_say(played: Play) -> None:
    who = '{job="vllm-sidecar",model_name="m",slo="time_to_first_token"}'
    expected = {
        "slo_observations:rate5m": 100.0,
        "slo_bad_observations:rate5m": 0.5,
        "slo_errors:ratio_rate5m": 0.005,
        "slo_errors:ratio_rate3d": 0.005,
        "slo_burn:ratio_rate6h": 0.5,
        "slo_objective:ratio": 0.99,
        "slo_budget_remaining:ratio30d": 0.5,
    }
    values = {
        f"round(vllm_sidecar:{name}, 1e-6)": [{"labels": who, "value": value}] for name, value in expected.items()
    }
    series = latency(TTFT, "2.5", Traffic.steady(1500.0, 1492.5, 200))
    result = played(series, Expected(2400.0, set(), values))
    assert result.ok, result.output


@pytest.mark.slow
@pytest.mark.parametrize("text", ["10.0", "10"])
def test_a_bound_is_found_as_prometheus_2_and_3_write_it(text: str, played: Play) -> None:
    series = latency(TTFT, text, Traffic.steady(100.0, 50.0, 200))
    result = played(series, Expected(2400.0, firing("time_to_first_token", *WINDOWS)), profile="batch")
    assert result.ok, result.output


@pytest.mark.slow
def test_a_bound_that_only_looks_alike_is_another(played: Play) -> None:
    """A dot in a regular expression would match 10x0 too."""
    series = latency(TTFT, "1000", Traffic.steady(100.0, 50.0, 40)) | latency(TTFT, "100", Traffic.steady(100, 50, 40))
    assert played(series, Expected(540.0), profile="batch").ok


@pytest.mark.slow
def test_a_replica_without_the_bound_is_left_out_and_told_of(played: Play) -> None:
    """Counted, all of its observations would be bad."""
    lacking = latency(TTFT, None, Traffic.steady(1000.0, 1000.0, 200), instance="b:10190")
    having = latency(TTFT, "2.5", Traffic.steady(1000.0, 1000.0, 200))
    told_of = {
        f'ALERTS{{alertname="{BOUND_MISSING}",alertstate="firing"}}': [
            {
                "labels": f'ALERTS{{alertname="{BOUND_MISSING}",alertstate="firing",severity="ticket",'
                'job="vllm-sidecar",instance="b:10190",model_name="m",engine="0",slo="time_to_first_token"}',
                "value": 1,
            }
        ]
    }
    missing = {(BOUND_MISSING, "m", "")}
    result = played(lacking | having, Expected(870.0), Expected(1200.0, missing, told_of))
    assert result.ok, result.output
    assert played(having, Expected(1200.0)).ok


@pytest.mark.slow
def test_with_speculation_itl_is_not_judged_but_tpot_is(played: Play) -> None:
    """An observation of ITL is then an output of several tokens."""
    bad = Traffic.steady(1000.0, 500.0, 200)
    both = latency(ITL, "0.1", bad) | latency(TPOT, "0.1", bad)
    assert played(both, Expected(2400.0, firing("inter_token_latency", *WINDOWS))).ok
    result = played(both | SPECULATES, Expected(2400.0, firing("time_per_output_token", *WINDOWS)))
    assert result.ok, result.output


@pytest.mark.slow
def test_a_model_has_objectives_of_its_own(played: Play) -> None:
    slow = Traffic.steady(1000.0, 1000.0, 200)
    series: dict[str, str] = {}
    for model in ("m", "n", "o"):
        series |= latency(TTFT, "2.5", slow, model_name=model)
        series[labelled(f"{TTFT}_bucket", model_name=model, le="0.5")] = "0+500x200"
    fast = {"m": {"profile": "interactive"}, "o": {"slos": {"time_to_first_token": {"enabled": False}}}}
    result = played(series, Expected(2400.0, firing("time_to_first_token", *WINDOWS)), models=fast)
    assert result.ok, result.output
    shown = {
        "round(vllm_sidecar:slo_objective:ratio, 1e-6)": [
            {"labels": '{job="vllm-sidecar",model_name="m",slo="time_to_first_token"}', "value": 0.9},
            {"labels": '{job="vllm-sidecar",model_name="n",slo="time_to_first_token"}', "value": 0.99},
            {"labels": '{job="vllm-sidecar",model_name="o",slo="time_to_first_token"}', "value": 0.99},
        ]
    }
    loose = {"m": {"slos": {"time_to_first_token": {"objective": 0.9}}}}
    result = played(series, Expected(2400.0, set(), shown), models=loose)
    assert result.ok, result.output


@pytest.mark.slow
@pytest.mark.parametrize("slo", ["time_to_first_token", "inter_token_latency"])
def test_the_sidecars_counters_tell_the_same(slo: str, played: Play) -> None:
    threshold = {"time_to_first_token": 2.5, "inter_token_latency": 0.1}[slo]
    bad = Traffic.steady(1000.0, 850.0, 200)
    series = counted(slo, bad, threshold)
    result = played(series, Expected(2400.0, firing(slo, *WINDOWS)), slos={"source": "sidecar"})
    assert result.ok, result.output
    other = counted(slo, bad, 1.0) | {labelled("requests_running"): "1x200"}
    lacking = {(BOUND_MISSING, "m", "")}
    one = {slo: {"source": "sidecar"}, "availability": {"enabled": False}}
    result = played(other, Expected(2400.0, lacking), slos=one)
    assert result.ok, result.output


@pytest.mark.slow
def test_failures_before_a_crash_burn_though_the_server_is_gone(played: Play) -> None:
    """The gauge of the threshold ends with the server; the sidecar's counters go on."""
    series = counted("time_to_first_token", Traffic.steady(1000.0, 500.0, 40), 2.5)
    (gauge,) = [name for name in series if "slo_threshold_seconds" in name]
    series[gauge] = "2.5x38 stale"
    result = played(
        series,
        Expected(660.0, firing("time_to_first_token", "1h", "6h")),
        slos={"source": "sidecar", "availability": {"enabled": False}},
    )
    assert result.ok, result.output


@pytest.mark.slow
def test_availability_can_be_told_by_how_requests_end(played: Play) -> None:
    def ended(errors: float, rejected: float) -> dict[str, str]:
        return {
            labelled("requests_finished_total", finished_reason="stop"): "0+900x200",
            labelled("requests_finished_total", finished_reason="abort"): "0+9000x200",
            labelled("requests_finished_total", finished_reason="error"): f"0+{errors:g}x200",
            labelled("requests_rejected_total", engine="", reason="max_num_queued_reqs"): f"0+{rejected:g}x200",
        }

    source = {"availability": {"source": "histogram"}}
    for errors, rejected in ((20.0, 0.0), (0.0, 20.0)):
        result = played(ended(errors, rejected), Expected(2400.0, firing("availability", *WINDOWS)), slos=source)
        assert result.ok, result.output
    assert played(ended(0.0, 0.0), Expected(2400.0), slos=source).ok
    without = {
        name: values for name, values in ended(0.0, 0.0).items() if "error" not in name and "rejected" not in name
    }
    fine = {"labels": '{job="vllm-sidecar",model_name="m",slo="availability"}', "value": 1}
    shown = {"vllm_sidecar:slo_budget_remaining:ratio30d + 0": [fine]}
    result = played(without, Expected(2400.0, set(), shown), slos=source)
    assert result.ok, result.output


@pytest.mark.slow
def test_without_a_sidecar_that_counts_availability_is_told_by_how_requests_end(played: Play) -> None:
    """As in a plain Prometheus beside vLLM; but where one replica's sidecar counts, all must."""
    ended = {labelled("requests_running", instance=instance): "1x200" for instance in ("a:10190", "b:10190")} | {
        labelled("requests_finished_total", instance=instance, finished_reason=reason): f"0+{pace}x200"
        for instance in ("a:10190", "b:10190")
        for reason, pace in (("stop", 1000), ("error", 50))
    }
    assert played(ended, Expected(2400.0, firing("availability", *WINDOWS)), slo="availability").ok
    assert played(ended, Expected(2400.0, firing("availability", *WINDOWS))).ok
    counts = counted("availability", Traffic.steady(1000.0, 1000.0, 200))
    result = played(ended | counts, Expected(2400.0, {(BOUND_MISSING, "m", "")}))
    assert result.ok, result.output
    silent = {labelled("requests_running"): "1x200"}
    assert played(silent, Expected(2400.0, {(BOUND_MISSING, "m", "")})).ok


@pytest.mark.slow
def test_the_duration_of_requests_is_an_objective_where_it_is_asked_for(played: Play) -> None:
    slow = latency("request_seconds", "60.0", Traffic.steady(1000.0, 850.0, 200))
    assert played(slow, Expected(2400.0)).ok
    asked = {"request_duration": {"enabled": True}}
    result = played(slow, Expected(2400.0, firing("request_duration", *WINDOWS)), slos=asked)
    assert result.ok, result.output
    result = played(latency("request_seconds", "20.0", Traffic.steady(1000.0, 850.0, 200)),
                     Expected(2400.0, firing("request_duration", *WINDOWS)),
                     slos={"request_duration": {"enabled": True, "threshold": "20s"}})  # fmt: skip
    assert result.ok, result.output


def test_a_scaled_test_has_the_same_names_and_shorter_windows(played: Play) -> None:
    bad = latency(TTFT, "2.5", Traffic.steady(1000.0, 700.0, 40))
    result = played(bad, Expected(120.0, firing("time_to_first_token", "1h", "6h", "1d", "3d")), time_scale=0.01)
    assert result.ok, result.output
    over = latency(TTFT, "2.5", Traffic.steady(1000.0, 700.0, 10).then(1000.0, 1000.0, 100))
    late = firing("time_to_first_token", "3d")
    result = played(over, Expected(330.0, late), Expected(600.0), time_scale=0.01)
    assert result.ok, result.output


def test_both_names_of_the_latency_between_tokens_are_one_alert() -> None:
    assert ALERT["time_per_output_token"] == ALERT["inter_token_latency"] == "VllmInterTokenLatencySloBurn"
