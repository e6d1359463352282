"""The text of a diagnosis: its headline agrees with its findings, and values are written as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.tools.doctor.causes import MEANINGS, Symptom
from vllm_sidecar.tools.doctor.diagnosis import Source, diagnose
from vllm_sidecar.tools.doctor.text import lines

HEALTHY = {"name": "healthy", "severity": "fine", "text": "healthy: 4 running, 706 tokens/s"}
CARDS = [{"id": "base"}, {"id": "other"}, {"id": "lora-1", "parent": "base"}]


def text(gpus: dict[str, Any] | None = None, **target: Any) -> list[str]:
    found = {"target": None, "up": True, "state": HEALTHY, **target}
    (one,) = diagnose({"targets": [found], "gpus": gpus}, Source("http://h:8000", 60.0))
    return list(lines(one))


def test_a_server_that_restarted_is_not_called_healthy() -> None:
    (head, *_) = text(process={"recent_restarts": 1})
    assert head == ("WATCH: restarting: restarts in the last 15 minutes: 1. Now healthy: 4 running, 706 tokens/s")


def test_a_state_that_is_as_bad_as_the_findings_is_the_headline() -> None:
    queueing = {"name": "failing", "severity": "bad", "text": "failing: 22% of the requests fail"}
    assert text(state=queueing)[0] == "BAD: failing: 22% of the requests fail"


def test_a_server_of_which_nothing_was_seen_to_finish_is_not_called_healthy() -> None:
    (head, *_) = text()
    assert head == "UNKNOWN: nothing was seen to finish in this time. Now healthy: 4 running, 706 tokens/s"


def engine(number: int, state: dict[str, str]) -> dict[str, Any]:
    return {"labels": f'model_name="m",engine="{number}"', "state": state}


def test_the_headline_of_many_engines_is_about_all_of_them() -> None:
    idle = {"name": "idle", "severity": "fine", "text": "idle: no requests"}
    rate = {"series": [{"labels": 'model_name="m",engine="0"', "value": 9.0}]}
    signals = {"recent_generation_tokens_per_second": rate}
    (head, *_) = text(engines=[engine(n, idle if n == 7 else HEALTHY) for n in range(50)], signals=signals)
    assert head == "FINE: 50 engines: 49 healthy, 1 idle"


def test_the_engine_that_is_in_trouble_is_named_in_the_headline() -> None:
    queueing = {"name": "queueing", "severity": "bad", "text": "queueing: 92 waiting"}
    (head, *_) = text(state=queueing, engines=[engine(n, queueing if n == 7 else HEALTHY) for n in range(50)])
    assert head == "BAD: engine 7 of 50: queueing: 92 waiting"


def test_models_and_adapters_are_lists_of_names() -> None:
    shown = text(identity={"models": CARDS, "changes": 0})
    assert "  models: base, other" in shown
    assert "  adapters: lora-1 (of base)" in shown


def test_of_a_server_that_never_answered_nothing_is_known() -> None:
    down = {"name": "down", "severity": "bad", "text": "down: refused."}
    shown = text(up=False, state=down, identity={"changes": 0})
    assert shown[shown.index("Server") + 1] == "  nothing is known"


def test_gpus_that_cannot_be_read_have_the_hint_of_the_reason() -> None:
    error = {"reason": "library_not_found", "hint": Reason.LIBRARY_NOT_FOUND.hint}
    assert f"  the GPUs: library_not_found. {Reason.LIBRARY_NOT_FOUND.hint}" in text({"up": False, "last_error": error})


@pytest.mark.parametrize("symptom", Symptom)
def test_no_is_good_news_of_every_symptom(symptom: Symptom) -> None:
    """`availability: no` was read as an outage."""
    assert symptom not in ("availability", "monitoring", "KV cache and memory")
    assert f"  {symptom}: " in "\n".join(text())


@pytest.mark.parametrize("name", [name for name in MEANINGS if name.startswith(("queueing", "slow", "rejecting"))])
def test_the_next_step_of_load_is_a_command(name: str) -> None:
    assert MEANINGS[name].next.startswith(("vllm-sidecar ", "curl ", "kubectl ", "nvidia-smi "))
