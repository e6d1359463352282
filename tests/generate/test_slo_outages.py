"""An outage costs error budget, and nothing that only looks like one does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from slo_traffic import Expected, labelled, play, rules

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.io

BAD = 'sum(sum_over_time(vllm_sidecar:slo_bad_observations:rate5m{slo="availability"}[5h])) * 15'
WHO = '{job="vllm-sidecar",model_name="m",slo="availability"}'


def replica(requests: str, up: str, *, running: str = "", **labels: str) -> dict[str, str]:
    """Series of a sidecar that counts 10 requests a second, all of them good."""
    found = {
        labelled("up", engine="", model_name="", source="vllm", **labels): up,
        labelled("slo_requests_total", engine="", slo="availability", **labels): requests,
        labelled("slo_good_requests_total", engine="", slo="availability", **labels): requests,
    }
    return found | ({labelled("requests_running", **labels): running} if running else {})


def missed(folder: Path, series: Mapping[str, str], low: float, high: float, at: float = 280.0) -> None:
    """Expect so many failed requests in the five hours before a minute."""
    one = [{"labels": "{}", "value": 1}]
    values = {f"({BAD}) >= bool {low}": one, f"({BAD}) <= bool {high}": one}
    file = rules(folder, "availability")
    checked = Expected(at * 60.0, values=values, only="none")
    result = play(file, folder, series, checked)
    assert result.ok, result.output


def hour_down(flat: str, up: str) -> dict[str, str]:
    return replica(f"0+150x480 {flat} 72000+150x400", up)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flat", "up"),
    [("72000x240", "1x480 0x240 1x400"), ("_x240", "1x480 stale _x239 1x400")],
    ids=["the sidecar is there", "the pod is gone"],
)
def test_an_hour_without_any_replica_counts_what_clients_sent_before(flat: str, up: str, tmp_path: Path) -> None:
    series = hour_down(flat, up)
    if flat.startswith("_"):
        series = {name: values.replace(" _x240", " stale _x239") for name, values in series.items()}
    missed(tmp_path, series, 34_000, 37_000)
    share = 'vllm_sidecar:slo_budget_remaining:ratio30d{slo="availability"} < bool 0'
    spent = {share: [{"labels": '{job="vllm-sidecar",model_name="m",slo="availability"}', "value": 1}]}
    result = play(rules(tmp_path, "availability"), tmp_path, series, Expected(280 * 60.0, values=spent, only="none"))
    assert result.ok, result.output


def test_an_outage_of_a_busy_model_pages_within_four_minutes_and_recovery_ends_it(tmp_path: Path) -> None:
    file = rules(tmp_path, "availability")
    fired = {("VllmAvailabilitySloBurn", "m", "1h")}
    result = play(
        file, tmp_path, hour_down("72000x240", "1x480 0x240 1x400"),
        Expected(119 * 60.0, only="1h"), Expected(124 * 60.0, fired, only="1h"), Expected(200 * 60.0, only="1h"),
    )  # fmt: skip
    assert result.ok, result.output


@pytest.mark.slow
def test_an_outage_ends_after_six_hours_and_nothing_feeds_itself(tmp_path: Path) -> None:
    series = replica("0+150x240 36000x2400", "1x240 0x2400")
    file = rules(tmp_path, "availability")
    value = 'vllm_sidecar:slo_bad_observations:rate5m{slo="availability"} + 0'
    result = play(
        file, tmp_path, series,
        Expected((60 + 355) * 60.0, values={value: [{"labels": WHO, "value": 10}]}, only="none"),
        Expected((60 + 365) * 60.0, values={value: [{"labels": WHO, "value": 0}]}, only="none"),
    )  # fmt: skip
    assert result.ok, result.output


@pytest.mark.slow
def test_one_of_three_replicas_that_is_down_counts_nothing_twice(tmp_path: Path) -> None:
    series = replica("0+150x480 72000x240 72000+150x400", "1x480 0x240 1x400")
    for instance in ("b:1", "c:1"):
        series |= replica("0+150x1200", "1x1200", instance=instance)
    missed(tmp_path, series, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["0x600", "stale _x599"], ids=["asleep", "scaled to zero"])
def test_a_model_that_goes_when_its_requests_have_ended_costs_nothing(gone: str, tmp_path: Path) -> None:
    """A drain, a scale to zero, a quiet night: nothing ended in its last minute, and nothing was running."""
    values = "72000x600" if gone == "0x600" else "72000x8 stale _x591"
    series = replica(f"0+150x480 {values}", f"1x488 {gone}", running=f"8x478 0x10 {gone if 's' in gone else '_x600'}")
    missed(tmp_path, series, 0, 0)


@pytest.mark.slow
def test_a_model_whose_requests_were_running_when_it_went_was_in_use(tmp_path: Path) -> None:
    """Few requests end in a minute where each takes several."""
    series = replica("0x20 1x20 2x20 3x20 4x20 5x20 6x20 6x300", "1x140 0x300", running="3x140 _x300")
    missed(tmp_path, series, 10, 600, at=110)


@pytest.mark.slow
def test_a_deleted_model_without_traffic_costs_nothing(tmp_path: Path) -> None:
    missed(tmp_path, replica("100x480 stale _x700", "1x480 stale _x700", running="0x480 stale _x700"), 0, 0)


@pytest.mark.slow
def test_a_job_that_another_one_replaced_costs_nothing_when_that_one_is_drained(tmp_path: Path) -> None:
    blue = replica("0+150x480 stale _x700", "1x480 stale _x700", job="blue")
    green = replica("_x470 0+150x300 45000x8 stale _x400", "_x470 1x308 stale _x400", job="green")
    missed(tmp_path, blue | green, 0, 0)


@pytest.mark.slow
def test_a_model_in_two_jobs_is_served_while_one_of_them_is(tmp_path: Path) -> None:
    prefill = replica("0+150x480 72000x700", "1x480 0x700", job="prefill")
    decode = replica("0+150x1200", "1x1200", job="decode")
    missed(tmp_path, prefill | decode, 0, 0)


@pytest.mark.slow
def test_a_crash_loop_does_not_lower_what_clients_send(tmp_path: Path) -> None:
    """Up for half a minute of five, without a request: the next minutes count as those before."""
    loop = "0x17 1x1 " * 12
    series = replica("0+150x480 72000x1000", f"1x480 {loop}1x400")
    missed(tmp_path, series, 28_000, 36_500)


@pytest.mark.slow
def test_a_sidecar_that_cannot_be_reached_is_no_outage_for_ten_minutes(tmp_path: Path) -> None:
    prometheus = 'up{job="vllm-sidecar",instance="a:10190"}'
    gap = replica("0+150x480 stale _x31 77000+150x600", "1x480 stale _x31 1x600")
    missed(tmp_path, gap | {prometheus: "1x480 0x32 1x600"}, 0, 0)
    missed(tmp_path, gap, 4_000, 5_000)
    hour = replica("0+150x480 stale _x239 77000+150x400", "1x480 stale _x239 1x400")
    missed(tmp_path, hour | {prometheus: "1x480 0x240 1x400"}, 28_000, 32_000)


@pytest.mark.slow
def test_what_prometheus_did_not_see_is_no_outage(tmp_path: Path) -> None:
    """Away for 15 minutes, its first evaluations come before the first scrape: they know of no evaluation before."""
    file = rules(tmp_path, "availability")
    document = yaml.safe_load(file.read_text())
    for group in document["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule.get("record") != "vllm_sidecar:slo_evaluated:bool"]
    file.write_text(yaml.safe_dump(document, width=10**6))
    series = replica("0+150x480 _x62 81000+150x600", "1x480 _x62 1x600")
    evaluated = 'vllm_sidecar:slo_evaluated:bool{slo="availability"}'
    back = f"({BAD.replace('5h', '4m')}) <= bool 0"
    unseen = {back: [{"labels": "{}", "value": 1}]}
    missed_there = {back: [{"labels": "{}", "value": 0}]}
    for seen, at, values in (("1x480 _x60 1x600", 140.0, unseen), ("1x1200", 134.0, missed_there)):
        expected = Expected(at * 60.0, values=values, only="none")
        result = play(file, tmp_path, series | {evaluated: seen}, expected)
        assert result.ok, result.output
