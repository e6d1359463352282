"""With disaggregated prefill and decode a request counts once; how a server behaves says what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from slo_traffic import Expected, Traffic, counted, labelled, latency, play, rules

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

TTFT, ITL = "time_to_first_token_seconds", "inter_token_latency_seconds"
BURN = "VllmTimeToFirstTokenSloBurn"


def first_tokens(instance: str, good: float, *, outputs: str = "0x400", **labels: str) -> dict[str, str]:
    found = latency(TTFT, "2.5", Traffic.steady(150.0, good, 400), instance=instance, **labels)
    return found | {labelled(f"{ITL}_count", instance=instance, **labels): outputs}


DECODE = "0+9000x400"


@pytest.mark.slow
@pytest.mark.parametrize("job", ["vllm-sidecar", "prefill"])
def test_late_first_tokens_of_decode_servers_are_not_diluted_by_those_of_prefill_servers(
    job: str, tmp_path: Path
) -> None:
    series = first_tokens("decode", 120.0, outputs=DECODE)
    for number in range(3):
        series |= first_tokens(f"prefill-{number}", 150.0, job=job)
    file = rules(tmp_path, "time_to_first_token")
    result = play(file, tmp_path, series, Expected(90 * 60.0, {(BURN, "m", "1h")}, only="1h"))
    assert result.ok, result.output


def test_a_prefill_server_without_any_series_of_inter_token_latency_is_one_too(tmp_path: Path) -> None:
    series = first_tokens("decode", 120.0, outputs=DECODE) | first_tokens("prefill", 150.0)
    del series[labelled(f"{ITL}_count", instance="prefill")]
    file = rules(tmp_path, "time_to_first_token")
    result = play(file, tmp_path, series, Expected(90 * 60.0, {(BURN, "m", "1h")}, only="1h"))
    assert result.ok, result.output


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [DECODE, "0x400"], ids=["all generate", "none generates"])
def test_where_all_replicas_do_the_same_each_counts(outputs: str, tmp_path: Path) -> None:
    """20 % late at one of two replicas is a burn of 10; embeddings and other models have no inter-token latency."""
    series = first_tokens("a", 120.0, outputs=outputs) | first_tokens("b", 150.0, outputs=outputs)
    burn = "round(vllm_sidecar:slo_burn:ratio_rate1h, 0.001)"
    who = '{job="vllm-sidecar",model_name="m",slo="time_to_first_token"}'
    file = rules(tmp_path, "time_to_first_token")
    result = play(file, tmp_path, series, Expected(90 * 60.0, values={burn: [{"labels": who, "value": 10}]}, only="1h"))
    assert result.ok, result.output


@pytest.mark.slow
def test_the_sidecars_counters_leave_prefill_servers_out_too(tmp_path: Path) -> None:
    series = first_tokens("decode", 120.0, outputs=DECODE) | first_tokens("prefill", 150.0)
    for instance, good in (("decode", 120.0), ("prefill", 150.0)):
        series |= counted("time_to_first_token", Traffic.steady(150.0, good, 400), 2.5, instance=instance)
    file = rules(tmp_path, "time_to_first_token", slos={"source": "sidecar"})
    result = play(file, tmp_path, series, Expected(90 * 60.0, {(BURN, "m", "1h")}, only="1h"))
    assert result.ok, result.output


@pytest.mark.slow
@pytest.mark.parametrize("source", ["sidecar", "histogram"])
def test_a_request_that_ends_at_both_servers_is_one_request_and_a_failure_at_either_is_one(
    source: str, tmp_path: Path
) -> None:
    """Of 10 requests a second one fails at the prefill server and another at the decode server."""
    series = first_tokens("decode", 150.0, outputs=DECODE) | first_tokens("prefill", 150.0)
    for instance, every, good in (("prefill", 150.0, 135.0), ("decode", 135.0, 120.0)):
        if source == "sidecar":
            series |= counted("availability", Traffic.steady(every, good, 400), instance=instance)
        else:
            for reason, rate in (("stop", good), ("error", every - good)):
                name = labelled("requests_finished_total", instance=instance, finished_reason=reason)
                series[name] = f"0+{rate:g}x400"
        series[labelled("up", engine="", model_name="", source="vllm", instance=instance)] = "1x400"
    who = '{job="vllm-sidecar",model_name="m",slo="availability"}'
    values = {
        f"round(vllm_sidecar:slo_{name}:rate5m, 1e-6)": [{"labels": who, "value": value}]
        for name, value in (("observations", 10), ("bad_observations", 2))
    }
    file = rules(tmp_path, "availability", slos={"availability": {"source": source}})
    result = play(file, tmp_path, series, Expected(90 * 60.0, values=values, only="none"))
    assert result.ok, result.output
