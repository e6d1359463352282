"""Findings that follow from others, the flags to turn, and next commands: values only."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from vllm_sidecar.tools.doctor.causes import FOLLOWS, MEANINGS, RATHER
from vllm_sidecar.tools.doctor.commands import Place
from vllm_sidecar.tools.doctor.consequences import related
from vllm_sidecar.tools.doctor.diagnosis import Diagnosis, Source, diagnose
from vllm_sidecar.tools.doctor.findings import BAD, OUTSIDE, QUEUED, WATCH, Finding
from vllm_sidecar.tools.doctor.text import lines

QUEUE = Finding("queueing:batch", BAD, "queueing: 92 waiting: the batch is full", "m engine 0")
LABELS = 'model_name="m",engine="0"'
FULL = {"name": "queueing", "severity": "bad", "text": "queueing: 92 waiting: the batch is full"}


def by_name(*found: Finding) -> dict[str, Finding]:
    return {each.name: each for each in related(found)}


def value(number: float, labels: str = LABELS, **more: str) -> dict[str, Any]:
    return {"series": [{"labels": labels + "".join(f',{n}="{v}"' for n, v in more.items()), "value": number}]}


def quantiles(p95: float) -> dict[str, Any]:
    return {"series": [{"labels": LABELS, "quantiles": {"0.95": p95}}]}


def diagnosed(signals: dict[str, Any], gpus: dict[str, Any] | None = None, **target: Any) -> Diagnosis:
    state = target.pop("state", FULL)
    one = {"target": None, "up": True, "state": state, "engines": [{"labels": LABELS, "state": state}], **target}
    source = Source("http://h:8000", 60.0, places={"": Place("http://h:8000")})
    (found,) = diagnose({"targets": [{**one, "signals": signals}], "gpus": gpus}, source)
    return found


def test_a_queue_behind_a_throttled_gpu_is_not_cured_with_more_seats() -> None:
    throttled = {"up": True, "signals": {"gpu_throttled": value(1.0, 'gpu="0"', reason="hw_thermal")}}
    found = diagnosed({"admission_limit": value(1.0, limit="batch")}, throttled)
    assert [each.name for each in found.findings] == ["gpu_throttled", "queueing:batch"], "the cause is first"
    assert found.headline.endswith("; likely because of gpu_throttled: a GPU is throttled: hw_thermal")
    shown = "\n".join(lines(found))
    assert "likely: follows from gpu_throttled" in shown
    assert "--max-num-seqs up" not in shown


def test_a_queue_of_one_rank_follows_from_uneven_ranks() -> None:
    found = by_name(QUEUE, Finding("engines_uneven", WATCH, "imbalance 73%"))
    assert found["queueing:batch"].follows == "engines_uneven"
    assert not found["queueing:batch"].flag


def test_more_seats_are_not_advised_where_steps_are_too_slow_already() -> None:
    slow = Finding("slow_decode", WATCH, "p95 124 ms", "m engine 0")
    assert by_name(QUEUE, slow)["queueing:batch"].flag.startswith("one more replica")
    other = Finding("slow_decode", WATCH, "p95 124 ms", "m engine 1")
    assert by_name(QUEUE, other)["queueing:batch"].flag.startswith("--max-num-seqs up"), "of another engine"


@pytest.mark.parametrize(
    ("part", "follows", "flag"),
    [("queue", "queueing:batch", False), ("prefill", "", True), ("other", "", False)],
)
def test_the_longest_part_of_the_first_token_decides_what_to_do(part: str, follows: str, flag: bool) -> None:
    signals = {
        "admission_limit": value(1.0, limit="batch"),
        "recent_time_to_first_token_seconds": quantiles(9.0),
        "recent_time_to_first_token_share_ratio": value(0.8, part=part),
    }
    slow = next(each for each in diagnosed(signals).findings if each.name == "slow_first_token")
    assert slow.evidence.endswith(f"80% of it is {part}")
    assert (slow.follows, bool(slow.flag)) == (follows, flag)


def test_without_parts_a_queue_explains_slow_first_tokens() -> None:
    slow = Finding("slow_first_token", WATCH, "", "m engine 0")
    assert by_name(slow, QUEUE)["slow_first_token"].follows == "queueing:batch"
    assert by_name(slow)["slow_first_token"].flag == MEANINGS["slow_first_token"].flag
    assert not by_name(Finding("slow_first_token", WATCH, "", "m engine 0", hint=QUEUED))["slow_first_token"].flag
    assert by_name(Finding("slow_first_token", WATCH, "", hint=OUTSIDE), QUEUE)["slow_first_token"].follows == ""


def test_a_server_that_is_down_once_does_not_follow_from_one_restart() -> None:
    down = Finding("down", BAD, "down: refused")
    assert by_name(down, Finding("restarting", WATCH, "1"))["down"].follows == ""
    assert by_name(down, Finding("restarting", BAD, "5"))["down"].follows == "restarting"


def test_what_may_cause_a_symptom_does_not_show_it() -> None:
    """Rejected drafts were called slow ITL while its p95 was a tenth of the objective."""
    signals = {
        "recent_spec_decode_accepted_length_tokens": value(1.1),
        "recent_inter_token_latency_seconds": quantiles(0.017),
    }
    healthy = {"name": "healthy", "severity": "fine", "text": "healthy"}
    found = diagnosed(signals, state=healthy)
    assert found.symptoms["slow ITL"] == "no, but see drafts_rejected"  # type: ignore[index] # a StrEnum


def test_refused_requests_are_found() -> None:
    signals = {"recent_requests_rejected": value(30.0, 'model_name="m"'), "recent_requests": value(70.0)}
    (found,) = diagnosed(signals, state={**FULL, "name": "healthy"}).findings
    assert (found.name, found.severity) == ("rejecting", BAD)
    assert "30% of the requests" in found.evidence


def totals(requests: float, queried: float, hit: float) -> dict[str, float | None]:
    lengths = {"prompt_tokens": queried, "output_tokens": 100.0, "queried_tokens": queried, "hit_tokens": hit}
    return {"seconds": 60.0, "requests": requests, **lengths}


@pytest.mark.parametrize(
    ("now", "before", "requests", "found"),
    [(0.0, 40.0, 50.0, True), (30.0, 40.0, 50.0, False), (0.0, 5.0, 50.0, False), (0.0, 40.0, 20.0, False)],
)
def test_prefix_hits_that_dropped_are_judged_as_the_alert_does(
    now: float, before: float, requests: float, found: bool
) -> None:
    periods = {"recent": totals(requests, 100.0, now), "before": totals(500.0, 100.0, before)}
    healthy = {"name": "healthy", "severity": "fine", "text": "healthy"}
    names = [each.name for each in diagnosed({}, state=healthy, request_totals=periods).findings]
    assert names == (["prefix_hits_dropped"] if found else [])


@pytest.mark.parametrize("name", MEANINGS)
def test_next_commands_have_every_address_filled_in(name: str) -> None:
    place = Place("http://h:8000", "")
    for text in (MEANINGS[name].next, MEANINGS[name].look):
        shown = place.filled(text, "model")
        assert "{server}" not in shown
        assert "http://HOST" not in shown
    if MEANINGS[name].next.startswith(("vllm-sidecar", "curl", "kubectl", "nvidia-smi")):
        assert shlex.split(place.filled(MEANINGS[name].next, "model"))


def test_addresses_and_models_are_safe_in_a_shell() -> None:
    place = Place("http://h:8000/a b;c")
    assert shlex.split(place.filled("curl {server}/metrics", "")) == ["curl", "http://h:8000/a b;c/metrics"]
    assert place.filled("{model}", "it's") == "MODEL"
    assert Place(sidecar="http://s:10190").filled("doctor {watch}", "") == "doctor --from http://s:10190"
    assert Place().filled("curl {server}/metrics", "") == "curl http://HOST:8000/metrics"


def test_every_finding_that_is_named_exists() -> None:
    named = {
        *FOLLOWS,
        *(cause for causes in FOLLOWS.values() for cause in causes),
        *(n for pair in RATHER for n in pair),
    }
    assert named <= MEANINGS.keys()
