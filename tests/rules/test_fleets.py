"""The synthetic fleet has what the sidecar exports, under its names; and alerts are followed as in Prometheus."""

from __future__ import annotations

import asyncio
import random
import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import promtool
import pytest
import yaml
from places import RULES
from rows import for_each
from scenario_run import run_scenario

from fleets.clock import EPOCH, HOUR, MINUTE, MONDAY, Grid, at
from fleets.evaluate import Rule, levels, rules_of
from fleets.export import ITL_BOUND, TTFT_BOUND
from fleets.faults import Fault, Kind
from fleets.remote_write import STALE, ended, labels_of
from fleets.serving import STALL_AFTER
from fleets.states import States
from fleets.week import scraped
from vllm_sidecar.catalog import signal_of
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.config import Config, parse_duration

if TYPE_CHECKING:
    from pathlib import Path

    from fleets.export import Series

pytestmark = pytest.mark.io

TARGET = {"__name__", "cluster", "namespace", "job", "pod", "instance"}
RULES = sorted((RULES).glob("vllm-sidecar*.rules.yml"))
READ = frozenset().union(*(rule.reads for rule in rules_of(RULES)))
MORNING = Grid(at(MONDAY, "07:30"), at(MONDAY, "09:00"), MINUTE)
CRASH = Fault(Kind.DOWN, "chat", at(MONDAY, "08:20"), at(MONDAY, "08:30"), replicas=1)
COUNTER = re.compile(r"(_total|_sum|_count|_bucket)$")


@cache
def morning() -> Series:
    """Return an hour and a half in which replicas are added and one crashes."""
    return scraped(MORNING, [CRASH])


@cache
def exported() -> dict[str, set[str]]:
    """Return the labels of every metric of the real sidecar of a healthy server."""
    played = asyncio.run(run_scenario("healthy", 75.0))
    found: dict[str, set[str]] = {}
    for text in played.series:
        labels = labels_of(text)
        name = labels.pop("__name__")
        found.setdefault(name if name.startswith("process_") else PREFIX + name, set()).update(labels)
    return found


def names() -> set[str]:
    """Return the names of all metrics of the fleet."""
    return {text.partition("{")[0] for text in morning()}


@for_each("name", sorted(names()))
def test_a_metric_has_the_labels_that_the_sidecar_gives_it(name: str) -> None:
    own = {label for text in morning() if text.startswith(name + "{") for label in labels_of(text)} - TARGET
    if name in exported():
        assert own <= exported()[name]
        assert own == exported()[name] or name.endswith("_info")
    elif name.startswith(PREFIX):
        signal = signal_of(name.removeprefix(PREFIX))
        assert signal is not None, f"{name} is not in the catalog"
        assert own >= set(signal.labels)


def test_no_rule_is_silent_because_the_fleet_lacks_what_the_sidecar_exports() -> None:
    missing = {name for name in READ & exported().keys() if name not in names()}
    assert missing == set()


def test_its_bucket_bounds_and_times_are_the_defaults() -> None:
    slos = yaml.safe_load((RULES[0].parent / "thresholds.yaml").read_text())["slos"]
    for name, bound in (("time_to_first_token", TTFT_BOUND), ("inter_token_latency", ITL_BOUND)):
        assert parse_duration(slos[name]["threshold"]["standard"]) == bound
    assert Config().progress.stall_after == STALL_AFTER


def test_counters_fall_only_where_a_server_begins_again() -> None:
    for text in morning():
        values = morning().values(text)
        if COUNTER.search(text.partition("{")[0]):
            there = values[~np.isnan(values)]
            falls = int((np.diff(there) < 0).sum())
            assert falls <= 1, text
            assert falls == 0 or np.isnan(values[MORNING.between(CRASH.begin, CRASH.end)]).all(), text


def test_no_bucket_exceeds_its_count() -> None:
    buckets = [text for text in morning() if "_bucket{" in text and 'le="+Inf"' not in text]
    assert buckets
    for text in buckets:
        count = re.sub(r',le="[^"]*"', "", text).replace("_bucket{", "_count{")
        bucket, whole = morning().values(text), morning().values(count)
        both = ~np.isnan(bucket)
        assert (bucket[both] <= whole[both]).all(), text


def test_a_crashed_server_takes_its_series_along_and_its_sidecar_says_that_it_is_down() -> None:
    during = MORNING.between(CRASH.begin + MINUTE, CRASH.end)
    own = {labels_of(text)["__name__"]: morning().values(text)[during] for text in morning()
           if 'pod="chat-r1-0"' in text and 'model_name=""' not in text}  # fmt: skip
    assert np.isnan(own[f"{PREFIX}requests_running"]).all()
    assert (own[f"{PREFIX}up"] == 0.0).all()
    assert (own["up"] == 1.0).all()


def test_an_end_of_a_series_is_marked_once() -> None:
    times = np.arange(6.0)
    kept, values = ended(times, np.array([np.nan, 1.0, np.nan, np.nan, 2.0, 3.0]))
    assert kept.tolist() == [1.0, 2.0, 4.0, 5.0]
    assert values.view(np.uint64)[1] == np.array([STALE]).view(np.uint64)[0]
    assert ended(times[:1], np.array([np.nan]), before=True)[0].tolist() == [0.0]


def test_records_come_in_an_order_in_which_each_finds_what_it_reads() -> None:
    given = {"b": "a + 1", "a": "up", "c": "last_over_time(c[1d]) or b"}
    rules = [Rule({"record": name, "expr": expr}, 60.0) for name, expr in given.items()]
    assert [[rule.name for rule in level] for level in levels(rules)] == [["a"], ["b"], ["c"]]
    with pytest.raises(AssertionError, match="read each other"):
        levels([Rule({"record": "a", "expr": "b"}, 60.0), Rule({"record": "b", "expr": "a"}, 60.0)])


HOLD, KEEP, MINUTES, SERIES = 3, 2, 90, 12
"""Minutes of `for` and `keep_firing_for`; how long and how many."""


def test_alerts_are_pending_fire_and_are_kept_as_in_prometheus(tmp_path: Path) -> None:
    """A rule over series that come and go at random: promtool finds each minute the alerts that fire here."""
    chance = random.Random(5)
    states = States(HOLD * MINUTE, KEEP * MINUTE)
    there: list[list[bool]] = [[] for _ in range(SERIES)]
    for minute in range(MINUTES):
        for own in there:
            own.append(chance.random() < (0.85 if own and own[-1] else 0.3))
        states.evaluate(minute * MINUTE, [(("i", str(i)),) for i, own in enumerate(there) if own[-1]])
    expected = [_firing(states, minute * MINUTE) for minute in range(MINUTES)]
    assert any(expected)
    rule = {"alert": "A", "expr": "x > 0", "for": f"{HOLD}m", "keep_firing_for": f"{KEEP}m"}
    (tmp_path / "r.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}))
    test = {
        "rule_files": [str(tmp_path / "r.yml")],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": [{"series": f'x{{i="{i}"}}', "values": " ".join(str(int(each)) for each in own)}
                             for i, own in enumerate(there)],
            "promql_expr_test": [
                {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minute}m",
                 "exp_samples": [{"labels": f'ALERTS{{alertname="A",alertstate="firing",i="{i}"}}', "value": 1}
                                 for i in firing]}
                for minute, firing in enumerate(expected)
            ],
        }],
    }  # fmt: skip
    (tmp_path / "t.yml").write_text(yaml.safe_dump(test, width=10**6))
    result = promtool.test_rules(tmp_path / "t.yml")
    assert result.ok, result.output[:3000]


def _firing(states: States, now: float) -> list[str]:
    return sorted(each.labels["i"] for each in states.spells if each.begin <= now <= each.end)


def test_the_week_begins_on_a_monday() -> None:
    assert np.datetime64(int(EPOCH + at(MONDAY, "00:00")), "s").astype("datetime64[D]").astype(object).weekday() == 0
    assert at(MONDAY, "01:30") == 25.5 * HOUR
